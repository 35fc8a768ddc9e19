"""`remote::http`: each tool is a URL of its own."""

import codecs
import logging
import ssl
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import quote, urlencode, urlsplit

import httpcore
import httpx
import orjson

from shared.errors import ProviderError
from shared.files import OCTETS
from worker.providers.connections import Connections
from worker.providers.openai_faults import RETRYABLE_STATUS
from worker.providers.retry import parse_retry_after
from worker.providers.tools import Json, Tool, ToolFile, ToolGroup, ToolProvider, ToolResult
from worker.providers.tools_config import credentials, hidden, plain, sent_headers
from worker.providers.tools_faults import UNREACHABLE, ToolFaults
from worker.providers.tools_http_body import filename, is_text
from worker.providers.tools_http_config import HttpTool, HttpToolsConfig
from worker.providers.tools_schema import without_fixed
from worker.providers.tools_text import cut_mark, shortened
from worker.providers.wire import Body

logger = logging.getLogger(__name__)

KEEPALIVE_S = 45.0
MAX_ERROR_BYTES = 16_384

_NOT_SENT = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout)
_TIMEOUTS = (httpcore.ReadTimeout, httpcore.WriteTimeout)
_WIRE_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)
# Of the 4xx, those that say something of the server and not of the call.
_SERVER_STATUS = frozenset({408, 425, 429})


class HttpTools(ToolProvider):
    """Tools behind URLs. Safe to use from many greenlets or threads at once."""

    provider_type = "remote::http"

    def __init__(self, *, provider_id: str, config: HttpToolsConfig) -> None:
        self.provider_id = provider_id
        self._config = config
        self._limit = config.max_result_kb * 1024
        self._tools = {tool.name: tool for tool in config.tools}
        own = config.toolgroup_id or provider_id
        self._own = own
        self._groups: dict[str, ToolGroup] = {own: ToolGroup(identifier=own)}
        secrets = [value for tool in config.tools for value in credentials(sent_headers(tool.headers))]
        self._faults = ToolFaults(provider_id=provider_id, secrets=secrets)
        self._connections = Connections(
            max_connections=config.max_connections, keepalive_s=KEEPALIVE_S, ssl_context=_ssl_context(config)
        )

    def list_toolgroups(self) -> list[ToolGroup]:
        return list(self._groups.values())

    def list_tools(self, toolgroup_id: str) -> list[Tool]:
        fixed = self._group(toolgroup_id).args
        return [
            Tool(
                name=tool.name,
                toolgroup_id=toolgroup_id,
                description=tool.description,
                input_schema=without_fixed(tool.parameters, fixed),
                replay=tool.replay,
            )
            for tool in self._tools.values()
        ]

    def register_toolgroup(self, group: ToolGroup) -> ToolGroup:
        """Serve the configured tools under another name, or with `args` that every call gets."""
        if group.mcp_endpoint:
            problem = "takes no `mcp_endpoint`: register the group with a provider of type remote::mcp."
            raise self._faults.error("toolgroup_refused", problem)
        self._faults.hide(hidden(group.args))
        self._groups[group.identifier] = group
        return group

    def unregister_toolgroup(self, toolgroup_id: str) -> None:
        if toolgroup_id == self._own:
            self._groups[self._own] = ToolGroup(identifier=self._own)
        else:
            self._groups.pop(toolgroup_id, None)

    def invoke(self, tool: Tool, arguments: Json, *, idempotency_key: str) -> ToolResult:
        known = self._tools.get(tool.name)
        if known is None:
            raise self._faults.not_found("tool", tool.name, self._tools)
        call = _Call(known, {**arguments, **plain(self._group(tool.toolgroup_id).args)}, idempotency_key)
        connect = min(self._config.connect_timeout_s, known.timeout_s)
        wait = known.timeout_s
        timeout = {"connect": connect, "write": wait, "read": wait, "pool": connect}
        try:
            with self._connections.stream(
                known.method, call.url, headers=call.headers, timeout=timeout, content=call.content
            ) as response:
                return self._result(known, response, call.left())
        except _WIRE_ERRORS as error:
            raise self._transport(known, error) from None

    def close(self) -> None:
        self._connections.close()

    def _group(self, toolgroup_id: str) -> ToolGroup:
        group = self._groups.get(toolgroup_id)
        if group is None:
            raise self._faults.not_found("toolgroup", toolgroup_id, self._groups)
        return group

    def _result(self, tool: HttpTool, response: httpcore.Response, left_s: float) -> ToolResult:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        status = response.status
        good = 200 <= status < 300
        data, was_cut = _read(response, self._limit if good else MAX_ERROR_BYTES, left_s)
        if good and data and not is_text(headers):
            return self._file(headers, data, status, was_cut=was_cut)
        if good:
            text = self._faults.clean(self._text(tool, headers, data, was_cut=was_cut))
            if not was_cut:
                return ToolResult(content=text, metadata={"status": status})
            return ToolResult(content=text + cut_mark(self._limit), metadata={"status": status, "truncated": True})
        said = data.decode("utf-8", "replace")
        if 400 <= status < 500 and status not in _SERVER_STATUS:
            return self._refused(tool, status, said)
        raise self._failed(tool, status, headers, said)

    def _file(self, headers: dict[str, str], data: bytes, status: int, *, was_cut: bool) -> ToolResult:
        """An answer that no model reads."""
        kind = headers["content-type"].partition(";")[0].strip().lower()
        if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            kind = OCTETS  # packed as it is
        if was_cut:
            said = f"[left out: {kind} that makes the tool's result longer than {self._limit // 1024} KB]"
            return ToolResult(content=said, metadata={"status": status, "truncated": True})
        name = self._faults.clean(filename(headers))
        file = ToolFile(data=self._faults.clean_bytes(data), mime_type=kind, filename=name)
        return ToolResult(content="", metadata={"status": status}, files=(file,))

    def _text(self, tool: HttpTool, headers: dict[str, str], data: bytes, *, was_cut: bool) -> str:
        """The body as text; it has to be what its own headers say."""
        kind, _, parameters = headers.get("content-type", "").lower().partition(";")
        kind = kind.strip()
        is_json = kind == "application/json" or kind.endswith("+json")
        if headers.get("content-encoding", "identity").lower() not in ("identity", ""):
            raise self._garbage(tool, "a compressed body that was not asked for")
        try:
            # Not final: a cut may go through the middle of a character.
            text = codecs.getincrementaldecoder(_charset(parameters))().decode(data, final=not was_cut)
            if is_json and data and not was_cut:
                orjson.loads(text)
        except (UnicodeError, LookupError, orjson.JSONDecodeError):
            raise self._garbage(tool, f"{kind or 'something'} that is not {'JSON' if is_json else 'text'}") from None
        if "\0" in text:
            raise self._garbage(tool, f"{kind or 'something'} that is not text")
        return text

    def _refused(self, tool: HttpTool, status: int, said: str) -> ToolResult:
        """The tool's own no, for the model to read."""
        if status in (401, 403):
            logger.warning("tool %s of provider %s answers %s: check its headers", tool.name, self.provider_id, status)
        excerpt = shortened(self._faults.clean(said).strip())
        content = f"The tool refused the call ({status})." + (f" It said: {excerpt}" if excerpt else "")
        return ToolResult(content=content, error=True, metadata={"status": status})

    def _failed(self, tool: HttpTool, status: int, headers: dict[str, str], said: str) -> ProviderError:
        after = parse_retry_after(headers.get("retry-after"), datetime.now(UTC))
        retryable = status in RETRYABLE_STATUS
        if status == 429:
            problem = f"limits its rate (429): call it less often, or later.{self._faults.said(said)}"
            code = "tool_rate_limited"
        elif status < 400:
            problem = f"redirects ({status}): set its `url` to the address that it redirects to."
            code = "tool_failed"
        else:
            problem = f"failed ({status}): look into the log of the server at {_host(tool)}.{self._faults.said(said)}"
            code = "tool_failed"
        return self._faults.error(code, problem, tool=tool.name, status=status, retryable=retryable, retry_after=after)

    def _transport(self, tool: HttpTool, error: Exception) -> ProviderError:
        host = _host(tool)
        if isinstance(error, _NOT_SENT):
            problem = f"cannot be reached: {_no_connection(error, host)} The call was not made."
            return self._faults.error(UNREACHABLE, problem, tool=tool.name, retryable=True)
        if isinstance(error, _TIMEOUTS):
            problem = f"gave no result within {tool.timeout_s:g} s (`timeout_s`)."
            return self._faults.error("tool_timeout", problem, tool=tool.name, retryable=True)
        text = str(error)
        if isinstance(error, httpcore.RemoteProtocolError) and "isconnected" not in text and "peer closed" not in text:
            return self._garbage(tool, "something that is not HTTP")
        if isinstance(error, httpcore.LocalProtocolError | httpcore.UnsupportedProtocol):
            return self._faults.error(
                UNREACHABLE, "cannot be sent this call: it is not valid HTTP. The call was not made.", tool=tool.name
            )
        problem = f"cut the connection before its answer was complete: look into the log of the server at {host}."
        return self._faults.error("tool_interrupted", problem, tool=tool.name, retryable=True)

    def _garbage(self, tool: HttpTool, what: str) -> ProviderError:
        problem = f"answered with {what}: is `url` right, and does the server at {_host(tool)} answer JSON or text?"
        return self._faults.error("tool_bad_response", problem, tool=tool.name)


class _Call:
    """One call as it goes over the wire, and the time that it has left."""

    def __init__(self, tool: HttpTool, arguments: Json, idempotency_key: str) -> None:
        self._ends = time.monotonic() + tool.timeout_s
        headers = {
            "accept": "application/json, text/*;q=0.9, */*;q=0.5",
            "accept-encoding": "identity",
            "user-agent": "turnstone",
            **sent_headers(tool.headers),
            # Call ids are the model's words: what does not fit into a header is encoded.
            "idempotency-key": quote(idempotency_key, safe=":._~-"),
        }
        self.url = tool.url
        self.content: bytes | None = None
        if tool.method == "GET":
            self.url = _with_query(tool.url, arguments)
        else:
            self.content = orjson.dumps(arguments)
            headers.setdefault("content-type", "application/json")
        self.headers = list(headers.items())

    def left(self) -> float:
        return self._ends - time.monotonic()


def _read(response: httpcore.Response, limit: int, left_s: float) -> tuple[bytes, bool]:
    """At most `limit` bytes of the body, and whether there was more. Raises ReadTimeout after `left_s`."""
    ends = time.monotonic() + left_s
    data = bytearray()
    body = Body(response, patience_s=max(left_s, 0.001))
    for piece in body:
        data += piece
        if len(data) > limit:
            return bytes(data[:limit]), True
        left = ends - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        body.be_patient(left)
    return bytes(data), False


def _with_query(url: str, arguments: Json) -> str:
    pairs = [(name, text) for name, value in arguments.items() for text in _query_texts(value)]
    if not pairs:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(pairs)}"


def _query_texts(value: object) -> Iterable[str]:
    """A list of plain values is repeated, null is left out, and what is nested goes as JSON."""
    if value is None:
        return []
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return [text for item in value for text in _query_texts(item)]
    return [value if isinstance(value, str) else orjson.dumps(value).decode()]


def _charset(parameters: str) -> str:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "charset":
            return value.strip().strip('"') or "utf-8"
    return "utf-8"


def _no_connection(error: Exception, host: str) -> str:
    text = str(error)
    if isinstance(error, httpcore.PoolTimeout):
        return "all connections are in use: raise `max_connections`, or run fewer turns at once."
    if isinstance(error, httpcore.ConnectTimeout):
        return f"no connection to {host} in time. Check `url` and the network."
    if "CERTIFICATE" in text or "SSL" in text:
        return f"TLS failed at {host}. Check `url` (http or https) and `tls_verify`."
    if "refused" in text:
        return f"connection refused. Is the server running at {host}?"
    return f"no connection to {host}. Check the host name in `url` and the network."


def _host(tool: HttpTool) -> str:
    """All that messages say of a URL: its query may hold a credential."""
    return urlsplit(tool.url).netloc


def _ssl_context(config: HttpToolsConfig) -> ssl.SSLContext | None:
    """None where all is plain HTTP: reading the authorities takes 20 ms and 1 MB."""
    if not any(tool.url.startswith("https:") for tool in config.tools):
        return None
    if isinstance(config.tls_verify, str):
        return ssl.create_default_context(cafile=config.tls_verify)
    return httpx.create_ssl_context(verify=config.tls_verify, trust_env=False)
