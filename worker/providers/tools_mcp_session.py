"""Sessions with MCP servers, kept open and made anew. For the MCP process: all of this is asyncio."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REQUEST_TIMEOUT,
    Implementation,
    Tool,
)
from pydantic import ValidationError

from worker.providers.tools_mcp_faults import Fault, Json, RequestFailed
from worker.providers.tools_mcp_results import result_json, tool_json
from worker.providers.tools_mcp_transport import FaultTransport, fault_in

MAX_PAGES = 50
MAX_CONNECTIONS = 1000
KEEPALIVE_S = 45.0
FAREWELL_S = 2.0
# JSON text is longer than the text that it holds, and a message is more than its result.
_SLACK = 8
_LEAST_BYTES = 1_048_576
_IDEMPOTENCY_KEY = "turnstone/idempotency-key"


class Session:
    """One session, from its handshake to its end, held by a task of its own as the SDK wants it."""

    def __init__(self, endpoint: Json) -> None:
        self._endpoint = endpoint
        self._calls = 0
        self._retired = False
        self._leave = asyncio.Event()
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._hold())

    @property
    def ended(self) -> bool:
        """Whether it can be used no more."""
        return self._task.done()

    async def client(self) -> Client:
        """The client, once the handshake is done. Raises RequestFailed with a fault that is marked as not sent."""
        # A caller that gives up takes nobody's handshake away.
        return await asyncio.shield(self._client)

    @contextmanager
    def used(self) -> Iterator[None]:
        """One more call uses it meanwhile."""
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._leave_if_retired()

    def retire(self) -> None:
        """End it as soon as no call uses it any more."""
        self._retired = True
        self._leave_if_retired()

    def _leave_if_retired(self) -> None:
        if self._retired and not self._calls:
            self._leave.set()

    async def close(self) -> None:
        """End it, telling the server; not for long."""
        self._leave.set()
        done, _ = await asyncio.wait([self._task], timeout=FAREWELL_S)
        if not done:
            self._task.cancel()

    async def _hold(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(self._endpoint["timeout_s"]):
                    client = await self._enter(stack)
                    # What the server lists decides about headers of calls and the shape of results.
                    await listed(client)
                self._client.set_result(client)
                await self._leave.wait()
        except BaseException as error:
            if not self._client.done():
                self._client.set_exception(RequestFailed(_not_sent(error)))
                self._client.exception()  # also where nobody waits any more
            if not isinstance(error, Exception):
                raise

    async def _enter(self, stack: AsyncExitStack) -> Client:
        endpoint = self._endpoint
        http = await stack.enter_async_context(_http_client(endpoint))
        transport = streamable_http_client(endpoint["uri"], http_client=http, max_sse_event_size=_max_bytes(endpoint))
        client = Client(
            transport,
            cache=None,
            client_info=Implementation(name="turnstone", version="1"),
            # A server that does not answer one way of greeting is asked the other way in time.
            read_timeout_seconds=endpoint["timeout_s"] / 3,
        )
        return await stack.enter_async_context(client)


class Sessions:
    """The sessions by endpoint; each is made when it is first needed, and again after it has ended."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    async def list_tools(self, endpoint: Json) -> list[Json]:
        """The tools of a server, asked of it now."""

        async def ask(client: Client) -> list[Json]:
            return [tool_json(tool) for tool in await listed(client)]

        tools: list[Json] = await self._with_session(endpoint, ask)
        return tools

    async def call(self, endpoint: Json, name: str, arguments: Json, key: str) -> Json:
        """The result of a tool. Cancelling this tells the server."""
        limit = endpoint["max_result_bytes"]

        async def ask(client: Client) -> Json:
            meta: Any = {_IDEMPOTENCY_KEY: key}
            wait = endpoint["timeout_s"]
            try:
                result = await client.call_tool(name, arguments, read_timeout_seconds=wait, meta=meta)
            except MCPError as error:
                if error.code not in (INVALID_PARAMS, METHOD_NOT_FOUND):
                    raise
                return _refusal(error.message)
            except RuntimeError as error:
                # The SDK holds results against the schema that the server gives for them.
                return _refusal(str(error)[:2000])
            return result_json(result, limit)

        result: Json = await self._with_session(endpoint, ask)
        return result

    def forget(self, endpoint: Json) -> None:
        """End the session with a server that is not needed any more."""
        session = self._sessions.pop(_key(endpoint), None)
        if session is not None:
            session.retire()

    async def close(self) -> None:
        """End all sessions."""
        sessions, self._sessions = list(self._sessions.values()), {}
        await asyncio.gather(*(session.close() for session in sessions))

    async def _with_session(self, endpoint: Json, ask: Any) -> Any:
        """What `ask` gets of the server, once more where the server has forgotten our session.

        Raises RequestFailed, at the latest after the endpoint's `timeout_s`.
        """
        sent = False
        try:
            async with asyncio.timeout(endpoint["timeout_s"]):
                for again in (True, False):
                    sent = False
                    session = self._session(endpoint)
                    client = await session.client()
                    sent = True
                    try:
                        with session.used():
                            return await ask(client)
                    except (MCPError, ValidationError) as error:
                        fault = fault_of(error)
                        if fault.kind == "session_lost":
                            self._drop(endpoint, session)
                            if again:
                                continue
                        raise RequestFailed(fault) from None
        except TimeoutError:
            raise RequestFailed(Fault(kind="timeout", sent=sent)) from None
        raise AssertionError("unreachable")

    def _session(self, endpoint: Json) -> Session:
        key = _key(endpoint)
        session = self._sessions.get(key)
        if session is None or session.ended:
            session = self._sessions[key] = Session(endpoint)
        return session

    def _drop(self, endpoint: Json, session: Session) -> None:
        """Another call may have made a new one already."""
        if self._sessions.get(_key(endpoint)) is session:
            del self._sessions[_key(endpoint)]
        session.retire()


async def listed(client: Client) -> list[Tool]:
    """All pages of a server's list of tools."""
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools


def fault_of(error: MCPError | ValidationError) -> Fault:
    """What the SDK's error means."""
    if isinstance(error, ValidationError):
        return Fault(kind="bad_response", said="a message that does not fit the protocol", retryable=False)
    known = fault_in(error.code, error.message, error.data)
    if known is not None:
        return known
    if error.code == CONNECTION_CLOSED and "byte limit" in error.message:
        return Fault(kind="too_large", retryable=False)
    if error.code == CONNECTION_CLOSED:
        return Fault(kind="interrupted")
    if error.code == REQUEST_TIMEOUT:
        return Fault(kind="timeout")
    if error.code == PARSE_ERROR:
        return Fault(kind="bad_response", said="a message that does not fit the protocol", retryable=False)
    return Fault(kind="failed", said=error.message[:2000], retryable=error.code == INTERNAL_ERROR)


def _refusal(message: str) -> Json:
    """An error of the protocol that is the model's to mend: an unknown tool, arguments that do not fit."""
    return {"content": message, "error": True, "metadata": {}}


def _not_sent(error: BaseException) -> Fault:
    """The fault of a request for which no session could be made."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, MCPError | ValidationError):
        fault = fault_of(error)
        return Fault(**{**fault.as_json(), "sent": False})
    if isinstance(error, TimeoutError):
        return Fault(kind="timeout", sent=False)
    return Fault(kind="interrupted", sent=False)


def _http_client(endpoint: Json) -> httpx2.AsyncClient:
    wait = endpoint["timeout_s"]
    inner = httpx2.AsyncHTTPTransport(
        verify=_verify(endpoint["tls_verify"]),
        trust_env=False,
        limits=httpx2.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_S),
    )
    connect = min(endpoint["connect_timeout_s"], wait)
    return httpx2.AsyncClient(
        transport=FaultTransport(inner, max_bytes=_max_bytes(endpoint)),
        headers={"user-agent": "turnstone", "accept-encoding": "identity", **endpoint["headers"]},
        # Reading longer than a call lasts: the call's own end tells the server, a cut connection does not.
        timeout=httpx2.Timeout(connect=connect, write=wait, read=wait + FAREWELL_S, pool=connect),
        trust_env=False,
    )


def _verify(value: bool | str) -> Any:
    if isinstance(value, str):
        import ssl

        return ssl.create_default_context(cafile=value)
    return value


def _max_bytes(endpoint: Json) -> int:
    return max(_LEAST_BYTES, _SLACK * int(endpoint["max_result_bytes"]))


def _key(endpoint: Json) -> str:
    return json.dumps(endpoint, sort_keys=True)
