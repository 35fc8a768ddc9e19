"""The small parts below the adapter: chunks, events, waits, and the words of errors."""

from datetime import UTC, datetime
from itertools import pairwise

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigError, ProviderError
from shared.runconfig.check import check
from shared.runconfig.origin import Origin
from worker.providers.openai_config import OpenAIConfig
from worker.providers.openai_faults import Faults
from worker.providers.retry import Backoff, parse_retry_after
from worker.providers.sse import EventTooLong, event_data
from worker.providers.wire import ChunkedFrames

SECRET = "abcd-very-secret"


def cut(data: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(data) + 1) for point in points), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


points = st.lists(st.integers(min_value=0), max_size=8)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), points, st.booleans())
def test_chunks_are_undone_wherever_the_network_cuts_them(
    chunks: list[bytes], where: list[int], trailers: bool
) -> None:
    framed = b"".join(b"%X;x=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    framed += b"0\r\nx-sum: 1\r\n\r\n" if trailers else b"0\r\n\r\n"
    frames = ChunkedFrames()
    content = b"".join(frames.feed(piece) for piece in cut(framed, where))
    assert content == b"".join(chunks)
    assert frames.ended


@pytest.mark.parametrize("data", [b"zz\r\nab", b"\r\n\r\n5\r\n", b"5 x\r\n", b"1" * 2_000])
def test_what_is_no_chunk_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(httpcore.RemoteProtocolError):
        ChunkedFrames().feed(data)


def test_trailers_that_do_not_end_are_a_protocol_error() -> None:
    with pytest.raises(httpcore.RemoteProtocolError):
        ChunkedFrames().feed(b"0\r\n" + b"x: y\r\n" * 20_000)


STREAM = (
    b": hello\n\ndata: one\n\ndata:two\r\n\r\nevent: x\nid: 3\ndata: a\ndata: b\n\n"
    b"retry: 5\n\ndata\n\ndata: \xc3\xa4\rdata: c\r\r\ndata: last"
)


@given(points)
def test_events_are_found_wherever_the_network_cuts_them(where: list[int]) -> None:
    assert list(event_data(cut(STREAM, where))) == [b"one", b"two", b"a\nb", b"\xc3\xa4\nc", b"last"]


def test_whole_events_need_no_buffer() -> None:
    assert list(event_data([b"data: a\n\n", b"data: b\n\ndata: c\n\n", b"data: d\n", b"\n"])) == [
        b"a",
        b"b",
        b"c",
        b"d",
    ]


def test_an_event_without_end_is_given_up() -> None:
    with pytest.raises(EventTooLong):
        list(event_data(b"x" * 1_000_000 for _ in range(10)))


NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30.0),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_holds_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


def test_waits_grow_up_to_a_bound_and_the_servers_wish_is_bounded_too() -> None:
    backoff = Backoff(max_retries=3, first_s=0.5, longest_s=8)
    assert 0.25 <= backoff.wait_s(0) <= 0.5
    assert 1.0 <= backoff.wait_s(2) <= 2.0
    assert 4.0 <= backoff.wait_s(30) <= 8.0
    assert backoff.wait_s(0, retry_after=7) == 7
    assert backoff.wait_s(0, retry_after=3_600) == 60


FAULTS = Faults(provider_id="big", url="http://gpu-1:8000/v1", secrets=[SECRET])


def refused(status: int, body: str = "", model: str | None = "m", **headers: str) -> ProviderError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return FAULTS.refused(status, named, body.encode(), model=model)


@pytest.mark.parametrize(
    ("error", "code", "retryable", "words"),
    [
        (refused(401), "provider_auth", False, "Provider 'big' does not accept the credentials (401): check"),
        (refused(403), "provider_auth", False, "does not allow this request (403)"),
        (refused(404, '{"error": {"message": "The model m does not exist"}}'), "model_not_found", False, "'m'"),
        (refused(404, '{"detail": "Not Found"}'), "provider_bad_request", False, "check that `url` ends where"),
        (refused(400, '{"message": "too long"}'), "provider_bad_request", False, "It said: too long"),
        (refused(422, '{"detail": [{"msg": "bad"}]}'), "provider_bad_request", False, '[{"msg":"bad"}]'),
        (refused(302), "provider_bad_request", False, "redirects (302)"),
        (refused(409), "provider_error", True, "failed (409)"),
        (refused(500, "<html><style>b{}</style><h1>Oops</h1>"), "provider_error", True, "It said: Oops"),
        (refused(501), "provider_error", False, "failed (501)"),
        (refused(503, x_should_retry="false"), "provider_error", False, "gpu-1:8000"),
        (refused(429, retry_after="3"), "provider_rate_limited", True, "limits its rate (429)"),
        (refused(429, '{"error": {"code": "insufficient_quota"}}'), "provider_rate_limited", False, "quota"),
    ],
)
def test_a_refusal_says_who_what_and_what_to_do(error: ProviderError, code: str, retryable: bool, words: str) -> None:
    assert (error.code, error.retryable, error.provider_id) == (code, retryable, "big")
    assert words in error.message


def test_the_servers_wish_to_wait_is_kept() -> None:
    assert refused(503, retry_after="4").retry_after == 4


@pytest.mark.parametrize(
    "text",
    [SECRET, "Bearer xyz", "Incorrect API key provided: sk-abc***********wxyz.", "hf_abcdefghijkl"],
)
def test_no_credential_survives_in_what_the_server_said(text: str) -> None:
    message = refused(401, text).message
    assert "***" in message
    assert not any(part in message for part in (SECRET, "xyz", "sk-", "hf_"))


def test_what_the_server_said_is_bounded() -> None:
    assert len(refused(400, "x" * 10_000).message) < 400


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (httpcore.ConnectError("[Errno 111] Connection refused"), "provider_unreachable", "Is the server running"),
        (httpcore.ConnectError("[Errno -2] Name or service not known"), "provider_unreachable", "host name"),
        (httpcore.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED]"), "provider_unreachable", "tls_verify"),
        (httpcore.ConnectTimeout("timed out"), "provider_unreachable", "no connection to gpu-1:8000 in time"),
        (httpcore.ReadTimeout("timed out"), "provider_timeout", "sent no token."),
        (httpcore.WriteTimeout("timed out"), "provider_timeout", "does not read the request"),
        (httpcore.PoolTimeout("timed out"), "provider_timeout", "raise `max_connections`"),
        (httpcore.ReadError("reset"), "provider_interrupted", "cut the connection"),
        (httpcore.RemoteProtocolError("Server disconnected"), "provider_interrupted", "cut the connection"),
        (httpcore.RemoteProtocolError("illegal status line"), "provider_bad_response", "not HTTP"),
        (httpcore.LocalProtocolError(f"Illegal header {SECRET}"), "provider_bad_request", "not valid HTTP"),
    ],
)
def test_faults_of_the_network_have_their_own_words(error: Exception, code: str, words: str) -> None:
    translated = FAULTS.transport(error, waited="no token")
    assert translated.code == code
    assert words in translated.message
    assert SECRET not in translated.message


def config_refusal(**config: object) -> str:
    with pytest.raises(ConfigError) as caught:
        check(OpenAIConfig, config, origin=Origin(name="t.yaml"), at=("config",))
    assert SECRET not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"urll": "http://h/v1"}, "t.yaml: config.urll: unknown key; did you mean url?"),
        ({}, "t.yaml: config.url: this key is missing; add it."),
        ({"url": "h:80"}, "config.url: has to be a URL such as http://host:port/v1."),
        ({"url": "http://h:x/v1"}, "config.url: this is no URL"),
        ({"url": f"http://u:{SECRET}@h/v1"}, "config.url: must not hold a user or password"),
        ({"url": f"http://h/v1?key={SECRET}"}, "config.url: must end before ?"),
        ({"url": "http://h/v1", "api_key": f"{SECRET}\nx"}, "config.api_key: must be printable ASCII"),
        ({"url": "http://h/v1", "headers": {"x": f"{SECRET}\r"}}, "config.headers: must be printable ASCII"),
        ({"url": "http://h/v1", "headers": {"x y": "z"}}, "config.headers: a header's name"),
        ({"url": "http://h/v1", "max_retries": -1}, "config.max_retries: has to be greater than or equal to 0."),
        ({"url": "http://h/v1", "extra_params": ["x"]}, "config.extra_params[0]: has to be 'top_k' or"),
        ({"url": "http://h/v1", "tls_verify": "/gone.pem"}, "config.tls_verify: has to be true, false or the path"),
        ({"url": "http://h/v1", "token_timeout_s": 0}, "config.token_timeout_s: has to be greater than 0."),
    ],
)
def test_a_mistake_in_the_config_is_named(config: dict[str, object], expected: str) -> None:
    assert expected in config_refusal(**config)


def test_what_a_file_or_the_environment_adds_to_a_value_is_taken_off() -> None:
    config = OpenAIConfig.model_validate({"url": "http://h/v1/", "api_key": "k\n", "tls_verify": "false"})
    assert config.api_key is not None
    assert (config.url, config.api_key.get_secret_value(), config.tls_verify) == ("http://h/v1", "k", False)
