"""Configs of tool providers: each mistake names its key and what to do, and no credential."""

from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigError
from shared.runconfig import load
from worker.providers.instances import build_tools
from worker.providers.tools import Json, ToolProvider

SECRET = "tok-config-secret"
HTTP = "providers.tool_runtime[0].config"


def built(folder: Path, *instances: tuple[str, str]) -> dict[str, ToolProvider]:
    """The tool providers of a real file: `(type, config)` as YAML each, with ids p0, p1, …"""
    entries = [
        f"    - {{provider_id: p{index}, provider_type: '{kind}', config: {config}}}\n"
        for index, (kind, config) in enumerate(instances)
    ]
    path = folder / "turnstone.yaml"
    path.write_text("providers:\n  tool_runtime:\n" + "".join(entries))
    return build_tools(load(path, {"KEY": SECRET}))


def schema_of(provider: ToolProvider, group: str) -> list[Json]:
    return [tool.input_schema for tool in provider.list_tools(group)]


def refused(folder: Path, *instances: tuple[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        built(folder, *instances)
    assert SECRET not in caught.value.message
    return caught.value.message


TOOL = "name: t, url: 'http://x/t'"
BAD_HTTP = [
    ("{}", f"{HTTP}.tools: this key is missing; add it."),
    ("{tools: []}", f"{HTTP}.tools: "),
    ("{tools: [{name: t}]}", f"{HTTP}.tools[0].url: this key is missing; add it."),
    ("{tools: [{name: 'a b', url: 'http://x/'}]}", f"{HTTP}.tools[0].name: use letters, digits and _ . - only"),
    ("{tools: [{name: t, url: x}]}", f"{HTTP}.tools[0].url: has to be a URL such as"),
    ("{tools: [{name: t, url: 'http://u:${env.KEY}@x/'}]}", f"{HTTP}.tools[0].url: must not hold a user or password"),
    (f"{{tools: [{{{TOOL}, method: FETCH}}]}}", f"{HTTP}.tools[0].method: has to be 'POST', 'GET'"),
    (f"{{tools: [{{{TOOL}, replay: maybe}}]}}", f"{HTTP}.tools[0].replay: has to be 'safe' or 'never'."),
    (f"{{tools: [{{{TOOL}, timeout_s: 0}}]}}", f"{HTTP}.tools[0].timeout_s: has to be greater than 0"),
    (f"{{tools: [{{{TOOL}, timeout: 5}}]}}", f"{HTTP}.tools[0].timeout: unknown key; did you mean timeout_s?"),
    (f"{{tools: [{{{TOOL}, parameters: 5}}]}}", f"{HTTP}.tools[0].parameters: has to be a JSON Schema"),
    (f"{{tools: [{{{TOOL}, parameters: [{{name: 1}}]}}]}}", f"{HTTP}.tools[0].parameters: each parameter is a mapping"),
    (
        f"{{tools: [{{{TOOL}, parameters: {{properties: {{a: {{type: strin}}}}}}}}]}}",
        f"{HTTP}.tools[0].parameters: is no JSON Schema",
    ),
    (f"{{tools: [{{{TOOL}, headers: {{'a b': '${{env.KEY}}'}}}}]}}", f"{HTTP}.tools[0].headers: a header's name is"),
    (f"{{tools: [{{{TOOL}, headers: {{a: 'ü ${{env.KEY}}'}}}}]}}", f"{HTTP}.tools[0].headers: must be printable ASCII"),
    (
        f"{{tools: [{{{TOOL}, headers: {{Idempotency-Key: x}}}}]}}",
        f"{HTTP}.tools[0].headers: the header idempotency-key is set by Turnstone; remove it.",
    ),
    (f"{{tools: [{{{TOOL}}}, {{{TOOL}}}]}}", f"{HTTP}.tools: 't' stands twice; rename one."),
    (f"{{tools: [{{{TOOL}}}], max_result_kb: 0}}", f"{HTTP}.max_result_kb: has to be greater than or equal to 1."),
    (f"{{tools: [{{{TOOL}}}], tls_verify: /nowhere}}", f"{HTTP}.tls_verify: has to be true, false or the path"),
]
BAD_MCP = [
    ("{uri: there}", f"{HTTP}.uri: has to be a URL such as"),
    ("{uri: 'http://x/', mcp_endpoint: {uri: 'http://y/'}}", f"{HTTP}: has both uri and mcp_endpoint; keep one."),
    ("{mcp_endpoint: {}}", f"{HTTP}.mcp_endpoint.uri: this key is missing; add it."),
    ("{headers: {Authorization: '${env.KEY}'}}", f"{HTTP}: toolgroup_id and headers belong to a server; add its uri."),
    ("{url: 'http://x/'}", f"{HTTP}.url: unknown key; did you mean uri?"),
]


@pytest.mark.parametrize(("config", "words"), BAD_HTTP)
def test_a_wrong_http_config_names_key_and_fix(tmp_path: Path, config: str, words: str) -> None:
    assert words in refused(tmp_path, ("remote::http", config))


@pytest.mark.parametrize(("config", "words"), BAD_MCP)
def test_a_wrong_mcp_config_names_key_and_fix(tmp_path: Path, config: str, words: str) -> None:
    assert words in refused(tmp_path, ("remote::mcp", config))


def test_an_unknown_type_names_the_known_ones(tmp_path: Path) -> None:
    message = refused(tmp_path, ("remote::https", "{}"))
    assert "did you mean remote::http?" in message
    assert "known: remote::http, remote::mcp, or one of your own as package.module:Class." in message


def test_two_instances_with_one_group_are_refused(tmp_path: Path) -> None:
    config = f"{{toolgroup_id: g, tools: [{{{TOOL}}}]}}"
    message = refused(tmp_path, ("remote::http", config), ("remote::mcp", "{uri: 'http://x/', toolgroup_id: g}"))
    assert message.endswith("the tool group 'g' is that of 'p0' already; set `toolgroup_id`.")
    assert "providers.tool_runtime[1].config" in message


def test_the_group_is_called_by_the_config_or_by_the_instance(tmp_path: Path) -> None:
    providers = built(
        tmp_path,
        ("remote::http", f"{{tools: [{{{TOOL}}}]}}"),
        ("remote::mcp", "{mcp_endpoint: {uri: 'http://x/mcp', headers: {Authorization: 'Bearer ${env.KEY}'}}}"),
        ("remote::http", f"{{toolgroup_id: 'builtin::web', tools: [{{{TOOL}}}]}}"),
    )
    groups = {name: [group.identifier for group in one.list_toolgroups()] for name, one in providers.items()}
    assert groups == {"p0": ["p0"], "p1": ["p1"], "p2": ["builtin::web"]}
    for one in providers.values():
        one.close()


def test_a_parameter_that_is_called_like_a_credential_is_none(tmp_path: Path) -> None:
    properties: dict[str, Any] = {"token": {"type": "string"}, "headers": {"type": "object"}}
    config = f"{{tools: [{{{TOOL}, parameters: {{properties: {properties}}}}}]}}".replace("'type': ", "type: ")
    [one] = built(tmp_path, ("remote::http", config)).values()
    assert [schema["properties"] for schema in schema_of(one, "p0")] == [properties]
    one.close()


def test_what_is_listed_of_a_server_shows_no_query(tmp_path: Path) -> None:
    [one] = built(tmp_path, ("remote::mcp", "{uri: 'http://x/mcp?key=${env.KEY}'}")).values()
    assert [group.mcp_endpoint for group in one.list_toolgroups()] == [{"uri": "http://x/mcp"}]
    one.close()
