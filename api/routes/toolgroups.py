"""Tool groups and their tools: listed by their providers, or registered; and run by themselves."""

from typing import Annotated

from flask import Response
from pydantic import BaseModel, Field

from api.answers import answer, nothing
from api.idempotency import digest_of
from api.registering import one_of, register, unregister
from api.routes.parts import CreationHeaders
from api.routing import Query, Routes, body_as_sent, services, tenant
from api.tool_entries import group_entry, runtime_entry, tool_entry
from shared.errors import NotFound
from shared.events import Json
from shared.ids import new_call_id
from shared.registrations import Kind
from shared.registry import Registry
from shared.types import catalog as types
from shared.types import direct
from shared.types.registering import RegisterToolGroup

routes = Routes("tools", about="Tools that run on the server, for agents and by themselves.")


class GroupPath(BaseModel):
    """A tool group."""

    toolgroup_id: str


class ToolPath(BaseModel):
    """A tool: its name, or `group/tool`."""

    tool_name: str


class ToolsQuery(Query):
    """Which tools."""

    toolgroup_id: Annotated[str | None, Field(description="Those of this group.")] = None


class RuntimeQuery(Query):
    """Which tools to ask for."""

    tool_group_id: Annotated[str | None, Field(description="Those of this group; otherwise those of all.")] = None


@routes.on("GET", "/v1/toolgroups", answers={200: types.ToolGroupList}, problems=(503,))
def list_toolgroups() -> Response:
    """List the tool groups."""
    return answer({"data": [group_entry(group) for group in services().served.registry(tenant()).toolgroups]})


@routes.on("POST", "/v1/toolgroups", answers={200: types.ToolGroupEntry}, problems=(409, 413, 415, 422, 500, 502, 503))
def register_toolgroup(body: RegisterToolGroup, header: CreationHeaders) -> Response:
    """Register a tool group with its provider, which may refuse it. It stays until it is deleted."""

    def entry(registry: Registry) -> Json | None:
        found = registry.toolgroup(body.toolgroup_id)
        return None if found is None else group_entry(found)

    return register(
        services(),
        tenant(),
        Kind.TOOLGROUP,
        body.model_dump(),
        entry,
        idempotency_key=header.idempotency_key,
        digest=digest_of(body_as_sent()),
    )


@routes.on("GET", "/v1/toolgroups/<path:toolgroup_id>", answers={200: types.ToolGroupEntry}, problems=(404, 503))
def get_toolgroup(path: GroupPath) -> Response:
    """Get a tool group."""
    name = path.toolgroup_id
    found = services().served.look(
        tenant(), lambda registry: one_of(registry, Kind.TOOLGROUP, name, lambda known: known.toolgroup(name))
    )
    return answer(group_entry(found))


@routes.on("DELETE", "/v1/toolgroups/<path:toolgroup_id>", answers={204: None}, problems=(404, 409, 503))
def unregister_toolgroup(path: GroupPath) -> Response:
    """Take back the registration of a tool group. 409 for one that its provider lists by itself."""
    name = path.toolgroup_id
    unregister(services(), tenant(), Kind.TOOLGROUP, name, lambda registry: registry.toolgroup(name))
    return nothing()


@routes.on("GET", "/v1/tools", answers={200: types.ToolList}, problems=(422, 503))
def list_tools(query: ToolsQuery) -> Response:
    """List the tools, as they were listed last."""
    wanted = query.toolgroup_id
    if wanted is not None:
        services().served.look(tenant(), lambda registry: registry.require_toolgroups([wanted], param="toolgroup_id"))
    groups = services().served.registry(tenant()).toolgroups
    chosen = [group for group in groups if wanted in (None, group.identifier)]
    return answer({"data": [tool_entry(group, tool) for group in chosen for tool in group.tools]})


@routes.on("GET", "/v1/tools/<path:tool_name>", answers={200: types.ToolEntry}, problems=(404, 503))
def get_tool(path: ToolPath) -> Response:
    """Get a tool; the first of that name where several groups have one."""
    registry, name = services().served.registry(tenant()), path.tool_name
    named = [(group, tool) for group in registry.toolgroups for tool in group.tools if tool.name == name]
    if not named and registry.toolgroup(name) is None:
        named = registry.tools_of(name)
    if not named:
        raise NotFound("tool", name, listing="GET /v1/tools")
    return answer(tool_entry(*named[0]))


@routes.on("GET", "/v1/tool-runtime/list-tools", answers={200: types.RuntimeToolList}, problems=(422, 500, 502, 503))
def list_runtime_tools(query: RuntimeQuery) -> Response:
    """Ask the provider of a group for its tools."""
    if query.tool_group_id is None:
        groups = services().served.registry(tenant()).toolgroups
        tools = [
            runtime_entry(tool.name, tool.description, tool.input_schema, tool.metadata)
            for group in groups
            for tool in group.tools
        ]
        return answer({"data": tools})
    listed = services().calls.call("list_tools", {"tenant": tenant(), "toolgroup_id": query.tool_group_id})["tools"]
    return answer(
        {
            "data": [
                runtime_entry(tool["name"], tool["description"], tool["input_schema"], tool["metadata"])
                for tool in listed
            ]
        }
    )


@routes.on(
    "POST",
    "/v1/tool-runtime/invoke",
    answers={200: direct.ToolInvocation},
    problems=(413, 415, 422, 500, 502, 503),
)
def invoke_tool(body: direct.InvokeTool, header: CreationHeaders) -> Response:
    """Run a tool. The `Idempotency-Key` goes to the tool as it is."""
    key = header.idempotency_key or new_call_id()
    payload = {"tenant": tenant(), "tool_name": body.tool_name, "arguments": body.kwargs, "key": key}
    return answer(services().calls.call("invoke_tool", payload))
