"""Fetches documents from URLs that nobody has to trust.

A URL comes from a client, and this process stands in the operator's network. So each host's addresses are looked up
once, all of them are checked, and the connection is made to one of those very addresses; for each redirect anew. No
proxy of the environment is used, no cookie and no credential is sent.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath

import gevent
import httpcore
import httpx
from gevent import monkey

from worker.documents.addresses import Allowed
from worker.documents.bodies import header, read_body
from worker.documents.data_urls import body_of, is_data_url
from worker.documents.errors import UnreadableDocument
from worker.documents.kinds import can_be_read
from worker.documents.limits import FetchLimits
from worker.documents.pinned import Deadline, PinnedBackend, too_slow
from worker.documents.urls import Resolve, Target, addresses_of, parse, permitted, target_of

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429})
_GRACE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A document. `mime_type` is what its server says, with its parameters; None where that says nothing.

    `url` is where the last redirect led to, and `data:` for a document that stood in its URL. It may be as secret as
    the one that was asked for.
    """

    body: bytes = field(repr=False)
    mime_type: str | None
    url: str = field(repr=False)

    @property
    def name(self) -> str:
        """What a browser would save it as; empty where the URL says nothing."""
        return PurePosixPath(httpx.URL(self.url).path).name


def fetch(
    url: str,
    *,
    allowed: Allowed | None = None,
    limits: FetchLimits | None = None,
    accepts: Callable[[str], bool] = can_be_read,
    resolve: Resolve = addresses_of,
    ssl_context: ssl.SSLContext | None = None,
) -> Fetched:
    """The document at an http, https or data URL; `accepts` is asked about its mime type before its body is read.

    Raises UnreadableDocument. Waits, in a worker without blocking other greenlets.
    """
    limits = limits or FetchLimits()
    if is_data_url(url):
        body, mime_type = body_of(url, max_bytes=limits.max_bytes)
        return Fetched(body=body, mime_type=mime_type, url="data:")
    fetcher = _Fetcher(allowed or Allowed(), limits, accepts, resolve, ssl_context)
    with _ended_after(limits.total_s + _GRACE_S):
        return fetcher.fetch(parse(url))


@dataclass(frozen=True, slots=True)
class _Fetcher:
    """What holds for one document's URL and for those that it redirects to."""

    allowed: Allowed
    limits: FetchLimits
    accepts: Callable[[str], bool]
    resolve: Resolve
    ssl_context: ssl.SSLContext | None

    def fetch(self, target: Target) -> Fetched:
        deadline = Deadline(self.limits.total_s)
        for _ in range(self.limits.max_redirects + 1):
            addresses = permitted(target, allowed=self.allowed, resolve=self.resolve)
            backend = PinnedBackend(addresses, connect_s=self.limits.connect_s, deadline=deadline)
            with self._exchange(target, backend) as response:
                if response.status not in _REDIRECTS:
                    return self._document(target, response)
                target = _redirected(target, header(response, b"location"))
        raise UnreadableDocument("url_redirects", f"The URL redirects more than {self.limits.max_redirects} times.")

    def _document(self, target: Target, response: httpcore.Response) -> Fetched:
        if response.status != 200:
            passing = response.status >= 500 or response.status in _PASSING
            problem = f"The URL's server answers with status {response.status} and not with a document."
            raise UnreadableDocument("url_refused", problem, retryable=passing)
        mime_type = header(response, b"content-type") or None
        if mime_type is not None and not self.accepts(mime_type):
            problem = "The URL has a document of a type that is not read. Send one as text, HTML, PDF or DOCX."
            raise UnreadableDocument("unsupported_type", problem)
        body = read_body(response, max_bytes=self.limits.max_bytes)
        return Fetched(body=body, mime_type=mime_type, url=str(target.url))

    @contextmanager
    def _exchange(self, target: Target, backend: PinnedBackend) -> Iterator[httpcore.Response]:
        """The response to a GET, whose body is still to be read. Errors of httpcore become ours, also in the block."""
        host = target.host.encode("ascii")
        origin = httpcore.Origin(target.scheme.encode("ascii"), host, target.port)
        url = httpcore.URL(scheme=origin.scheme, host=host, port=target.port, target=target.url.raw_path)
        secure = (self.ssl_context or _certificates()) if target.scheme == "https" else None
        connection = httpcore.HTTPConnection(origin, ssl_context=secure, network_backend=backend)
        headers = [
            ("Host", target.host_header),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
            ("User-Agent", "turnstone"),
        ]
        try:
            with connection.stream("GET", url, headers=headers) as response:
                yield response
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise _unreachable(error) from None
        finally:
            connection.close()


def _redirected(target: Target, location: str) -> Target:
    if not location:
        raise UnreadableDocument("url_redirects", "The URL redirects without saying where to.")
    try:
        following = target_of(target.url.join(location).copy_with(fragment=None))
    except (httpx.InvalidURL, UnicodeError, UnreadableDocument):
        raise UnreadableDocument("url_redirects", "The URL redirects to something that is not fetched.") from None
    if target.scheme == "https" and following.scheme != "https":
        raise UnreadableDocument("url_redirects", "The URL redirects from https to http.")
    return following


def _unreachable(error: Exception) -> UnreadableDocument:
    """Says what the peer did, and not with which address or port."""
    if isinstance(error.__cause__, ssl.SSLError):
        return UnreadableDocument("url_unreachable", "The URL's server has no valid certificate for its name.")
    if isinstance(error, httpcore.ReadTimeout | httpcore.WriteTimeout):
        return too_slow()
    if isinstance(error, httpcore.ProtocolError):
        problem = "The URL's server does not speak valid HTTP, or broke off."
    else:
        problem = "The URL's server cannot be reached, or does not answer."
    return UnreadableDocument("url_unreachable", problem, retryable=True)


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """Ends what keeps no time by itself: looking up a name, a TLS handshake. Only where gevent switches can it."""
    if not monkey.is_module_patched("socket"):
        yield
        return
    with gevent.Timeout(seconds) as timer:
        try:
            yield
        except gevent.Timeout as fired:
            if fired is not timer:
                raise
            raise too_slow() from None


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)
