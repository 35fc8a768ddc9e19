"""Keeps the faults of one HTTP request from the other requests of an MCP session.

The SDK runs all requests of a session in one task group: an exception out of any (a refused or cut connection) ends
the session and every call in it, and a status is told as "Server returned an error response". So nothing is raised
here: what goes wrong becomes the JSON-RPC error of its own request, with all that is known about it.
"""

from typing import Any
from uuid import uuid4

import httpx2
import orjson

from worker.providers.tools_mcp_faults import Fault, Json

FAULT_CODE = -32_050
MAX_ERROR_BYTES = 16_384
# A notification has no answer worth waiting for, and the SDK sends nothing else meanwhile.
NOTIFY_TIMEOUT_S = 5.0

# So that no server can word a fault of ours.
_MARK = uuid4().hex
_SESSION = "mcp-session-id"


class FaultTransport(httpx2.AsyncBaseTransport):
    """Answers a failed request with a fault, and reads JSON bodies up to `max_bytes`."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, *, max_bytes: int) -> None:
        self._inner = inner
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST" and _is_notification(request.content):
            request.extensions["timeout"] = {**request.extensions["timeout"], "read": NOTIFY_TIMEOUT_S}
        try:
            response = await self._inner.handle_async_request(request)
            return await self._checked(request, response)
        except httpx2.TransportError as error:
            return _answer(request, _transport_fault(error))

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _checked(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """The response where the SDK can use it; with its body, unless that is a stream of events."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if 300 <= response.status_code < 400 or response.status_code in (202, 204):
            return response
        if response.status_code < 300 and kind == "text/event-stream":
            return response
        failed = response.status_code >= 400
        body, complete = await _read(response, MAX_ERROR_BYTES if failed else self._max_bytes)
        if failed:
            return _failed(request, response, body)
        if request.method != "POST":
            return _whole(request, response, body)
        if not complete:
            return _answer(request, Fault(kind="too_large", retryable=False))
        if kind != "application/json" or not _is_json(body):
            said = f"{kind or 'no content type'}: {body[:2000].decode('utf-8', 'replace')}"
            return _answer(request, Fault(kind="bad_response", said=said, retryable=False))
        return _whole(request, response, body)


def fault_in(code: int, message: str, data: Any) -> Fault | None:
    """The fault that an error of the SDK carries, if it is one of ours."""
    if code == FAULT_CODE and isinstance(data, dict) and data.get("mark") == _MARK:
        return Fault(**data["fault"])
    return None


def _failed(request: httpx2.Request, response: httpx2.Response, body: bytes) -> httpx2.Response:
    status = response.status_code
    said = _said(body)
    facts: Json = {"said": said, "status": status, "retry_after": response.headers.get("retry-after")}
    # What the specification wants is 404; many servers say 400.
    lost = _SESSION in request.headers and (status == 404 or (status == 400 and "session" in said.lower()))
    if lost:
        return _answer(request, Fault(kind="session_lost", **facts))
    if status in (401, 403):
        return _answer(request, Fault(kind="auth", retryable=False, **facts))
    if status == 429:
        return _answer(request, Fault(kind="rate_limited", **facts))
    if status < 500 and _is_rpc_error(body):
        # The SDK needs it as it is: versions are agreed upon in this way.
        return _whole(request, response, body)
    retryable = status in (408, 425) or status >= 500
    return _answer(request, Fault(kind="failed", retryable=retryable, **facts))


def _transport_fault(error: httpx2.TransportError) -> Fault:
    said = str(error)
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout):
        if isinstance(error, httpx2.ConnectTimeout):
            said = "no connection in time"
        return Fault(kind="unreachable", said=said)
    if isinstance(error, httpx2.TimeoutException):
        return Fault(kind="timeout")
    if isinstance(error, httpx2.RemoteProtocolError) and "isconnected" not in said and "peer closed" not in said:
        return Fault(kind="bad_response", said="something that is not HTTP", retryable=False)
    return Fault(kind="interrupted")


async def _read(response: httpx2.Response, limit: int) -> tuple[bytes, bool]:
    """The body up to `limit` bytes, and whether that is all. The response is closed."""
    body = bytearray()
    try:
        # Raw: nothing compressed was asked for, and what is small on the wire may be huge.
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > limit:
                return bytes(body[:limit]), False
    finally:
        await response.aclose()
    return bytes(body), True


def _answer(request: httpx2.Request, fault: Fault) -> httpx2.Response:
    data = {"mark": _MARK, "fault": fault.as_json()}
    error = {"code": FAULT_CODE, "message": fault.kind, "data": data}
    content = orjson.dumps({"jsonrpc": "2.0", "id": None, "error": error})
    return httpx2.Response(599, headers={"content-type": "application/json"}, content=content, request=request)


def _whole(request: httpx2.Request, response: httpx2.Response, body: bytes) -> httpx2.Response:
    """The response with its body read."""
    kept = {name: value for name, value in response.headers.items() if name in ("content-type", _SESSION)}
    return httpx2.Response(response.status_code, headers=kept, content=body, request=request)


def _is_notification(content: bytes) -> bool:
    # Ours are small.
    if len(content) > 4096:
        return False
    try:
        message = orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and "id" not in message


def _is_json(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def _is_rpc_error(body: bytes) -> bool:
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and "jsonrpc" in message and isinstance(message.get("error"), dict)


def _said(body: bytes) -> str:
    """The message of an error body, or all of its text."""
    if _is_rpc_error(body):
        return str(orjson.loads(body)["error"].get("message") or "")[:2000]
    return body[:2000].decode("utf-8", "replace")
