"""`remote::mcp`: the tools of MCP servers, over streamable HTTP."""

from base64 import b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import ValidationError

from shared.errors import ProviderError
from worker.providers.retry import parse_retry_after
from worker.providers.tools import Json, Replay, Tool, ToolFile, ToolGroup, ToolProvider, ToolResult
from worker.providers.tools_config import credentials, hidden, plain, sent_headers
from worker.providers.tools_faults import UNREACHABLE, ToolFaults
from worker.providers.tools_mcp_bridge import McpBridge
from worker.providers.tools_mcp_config import McpConfig, McpEndpoint
from worker.providers.tools_mcp_faults import Fault, RequestFailed
from worker.providers.tools_schema import without_fixed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Served:
    """A group, and the server that has its tools."""

    group: ToolGroup
    endpoint: Json

    @property
    def host(self) -> str:
        """All that messages say of a URL: its query may hold a credential."""
        return urlsplit(self.endpoint["uri"]).netloc


class McpTools(ToolProvider):
    """MCP servers: the configured one, and those of tool groups that were registered with an `mcp_endpoint`."""

    provider_type = "remote::mcp"

    def __init__(self, *, provider_id: str, config: McpConfig, bridge: McpBridge | None = None) -> None:
        self.provider_id = provider_id
        self._config = config
        self._bridge = bridge or McpBridge()
        self._bridge.open()
        self._faults = ToolFaults(provider_id=provider_id, secrets=credentials(config.own_headers))
        self._own: _Served | None = None
        self._groups: dict[str, _Served] = {}
        if config.own_uri is not None:
            group = ToolGroup(
                identifier=config.toolgroup_id or provider_id, mcp_endpoint={"uri": _public(config.own_uri)}
            )
            self._own = _Served(group=group, endpoint=config.endpoint(config.own_uri, {}))
            self._groups[group.identifier] = self._own

    def list_toolgroups(self) -> list[ToolGroup]:
        return [served.group for served in self._groups.values()]

    def list_tools(self, toolgroup_id: str) -> list[Tool]:
        return self._listed(self._served(toolgroup_id))

    def register_toolgroup(self, group: ToolGroup) -> ToolGroup:
        """Serve the tools of the group's server, or of the configured one where the group names none.

        The server is asked for its tools first: one that does not answer refuses the group.
        """
        endpoint = self._endpoint_of(group)
        self._faults.hide([*hidden(group.args), *hidden(group.mcp_endpoint), *credentials(endpoint["headers"])])
        served = _Served(group=group, endpoint=endpoint)
        self._listed(served)
        before = self._groups.get(group.identifier)
        self._groups[group.identifier] = served
        self._forget(before)
        return group

    def unregister_toolgroup(self, toolgroup_id: str) -> None:
        before = self._groups.pop(toolgroup_id, None)
        if self._own is not None and toolgroup_id == self._own.group.identifier:
            self._groups[toolgroup_id] = self._own
        self._forget(before)

    def invoke(self, tool: Tool, arguments: Json, *, idempotency_key: str) -> ToolResult:
        served = self._served(tool.toolgroup_id)
        request = {
            "op": "call",
            "endpoint": served.endpoint,
            "name": tool.metadata.get("mcp_name", tool.name),
            "arguments": {**arguments, **plain(served.group.args)},
            "key": idempotency_key,
        }
        try:
            result = self._bridge.ask(request, timeout_s=self._config.timeout_s)["result"]
        except RequestFailed as failed:
            if failed.fault.kind == "too_large":
                content = "The tool ran, and its result is too large to be read. Ask it for less."
                return ToolResult(content=content, error=True, metadata={"truncated": True})
            raise self._error(failed.fault, served, tool.name) from None
        return ToolResult(
            content=self._clean(result["content"]),
            error=result["error"],
            metadata=result["metadata"],
            files=tuple(self._file(file) for file in result.get("files", ())),
        )

    def close(self) -> None:
        self._bridge.close()

    def _served(self, toolgroup_id: str) -> _Served:
        served = self._groups.get(toolgroup_id)
        if served is None:
            raise self._faults.not_found("toolgroup", toolgroup_id, self._groups)
        return served

    def _endpoint_of(self, group: ToolGroup) -> Json:
        if group.mcp_endpoint is None:
            if self._own is None:
                raise self._refused("has no server of its own: give `mcp_endpoint: {uri}`.")
            return self._own.endpoint
        try:
            endpoint = McpEndpoint.model_validate(plain(group.mcp_endpoint))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            problem = first["msg"].removeprefix("Value error, ")
            raise self._refused(f"cannot use `mcp_endpoint`: {place} {problem}") from None
        return self._config.endpoint(endpoint.uri, sent_headers(endpoint.headers))

    def _listed(self, served: _Served) -> list[Tool]:
        request = {"op": "list_tools", "endpoint": served.endpoint}
        try:
            entries: list[Json] = self._bridge.ask(request, timeout_s=self._config.timeout_s)["result"]
        except RequestFailed as failed:
            raise self._error(failed.fault, served, None) from None
        fixed = served.group.args
        return [
            Tool(
                name=entry["name"],
                toolgroup_id=served.group.identifier,
                description=self._faults.clean(entry["description"]),
                input_schema=without_fixed(entry["input_schema"], fixed),
                replay=Replay(entry["replay"]),
                metadata=entry["metadata"],
            )
            for entry in entries
        ]

    def _forget(self, served: _Served | None) -> None:
        """End the session with a server that no group needs any more."""
        if served is not None and all(other.endpoint != served.endpoint for other in self._groups.values()):
            self._bridge.tell({"op": "forget", "endpoint": served.endpoint})

    def _clean(self, content: str | list[Json]) -> str | list[Json]:
        if isinstance(content, str):
            return self._faults.clean(content)
        return [
            {**item, "text": self._faults.clean(item["text"])} if item["type"] == "text" else item for item in content
        ]

    def _file(self, file: Json) -> ToolFile:
        data = self._faults.clean_bytes(b64decode(file["data"]))
        return ToolFile(data=data, mime_type=file["mime_type"], filename=self._faults.clean(file["filename"] or ""))

    def _refused(self, problem: str) -> ProviderError:
        return self._faults.error("toolgroup_refused", problem)

    def _error(self, fault: Fault, served: _Served, tool: str | None) -> ProviderError:
        code, problem = self._worded(fault, served)
        if not fault.sent and fault.kind != "auth":
            code = UNREACHABLE
        if tool is not None and (code == UNREACHABLE or fault.kind == "auth"):
            problem += " The call was not made."
        after = parse_retry_after(fault.retry_after, datetime.now(UTC))
        return self._faults.error(
            code, problem, tool=tool, status=fault.status, retryable=fault.retryable, retry_after=after
        )

    def _worded(self, fault: Fault, served: _Served) -> tuple[str, str]:
        host, said = served.host, self._faults.said(fault.said)
        status = f" ({fault.status})" if fault.status else ""
        match fault.kind:
            case "unreachable":
                return UNREACHABLE, f"cannot be reached: {_no_connection(fault.said, host)}"
            case "auth":
                return "tool_auth", f"does not accept the credentials{status}: check its `headers`.{said}"
            case "rate_limited":
                return "tool_rate_limited", f"limits its rate (429): call it less often, or later.{said}"
            case "timeout" if fault.sent:
                return "tool_timeout", f"gave no result within {self._config.timeout_s:g} s (`timeout_s`)."
            case "timeout":
                return UNREACHABLE, f"agreed on no session within {self._config.timeout_s:g} s (`timeout_s`)."
            case "interrupted":
                return "tool_interrupted", f"cut the connection: look into the log of the server at {host}."
            case "bad_response":
                problem = f"does not speak MCP over streamable HTTP: check the server at {host} and its `uri`.{said}"
                return "tool_bad_response", problem
            case "session_lost":
                return UNREACHABLE, f"forgets its sessions at once: look into the log of the server at {host}.{said}"
            case "too_large":
                return "tool_bad_response", "lists more than can be read."
            case "failed" if fault.status == 404:
                return "tool_failed", f"has no MCP endpoint there (404): check the path in its `uri`.{said}"
            case "failed":
                return "tool_failed", f"failed{status}: look into the log of the server at {host}.{said}"


def _public(uri: str) -> str:
    """`uri` for listings, which everybody reads: without its query, which may hold a credential."""
    return urlsplit(uri)._replace(query="").geturl()


def _no_connection(said: str, host: str) -> str:
    if "CERTIFICATE" in said or "SSL" in said:
        return f"TLS failed at {host}. Check `uri` (http or https) and `tls_verify`."
    if "in time" in said:
        return f"no connection to {host} in time. Check `uri` and the network."
    if "refused" in said.lower() or "All connection attempts failed" in said:
        return f"connection refused. Is the server running at {host}?"
    return f"no connection to {host}. Check the host name in `uri` and the network."
