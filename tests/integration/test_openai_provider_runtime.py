"""The OpenAI adapter where it really runs: under gevent, and over TLS."""

import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from fake_upstream import FakeUpstream, text

from shared.errors import ProviderError
from worker.providers.inference import ChatRequest, TextDelta
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import OpenAIConfig

# Each greenlet reads replies of its own; one upstream that hangs must hold up nobody else.
UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from shared.errors import ProviderError
from worker.providers.inference import ChatRequest, TextDelta
from worker.providers.openai import OpenAIInference
from worker.providers.openai_config import OpenAIConfig

config = OpenAIConfig(url=sys.argv[1], token_timeout_s=2, max_retries=0)
provider = OpenAIInference(provider_id="big", config=config)

def ask(words):
    request = ChatRequest(model="m", messages=[{"role": "user", "content": words}])
    try:
        return "".join(delta.text for delta in provider.chat(request) if isinstance(delta, TextDelta))
    except ProviderError as error:
        return error.code

jobs = [gevent.spawn(ask, "hang" if number == 0 else f"<{number}>") for number in range(50)]
gevent.joinall(jobs)
assert jobs[0].value == "provider_timeout", jobs[0].value
assert [job.value for job in jobs[1:]] == [f"<{number}>" * 20 for number in range(1, 50)]

# A turn that is killed while it waits for a token lets its connection go.
killed = gevent.spawn(ask, "hang")
gevent.sleep(0.1)
killed.kill()
print("fine")
"""


def test_under_gevent_replies_run_side_by_side_and_time_out_alone() -> None:
    with FakeUpstream() as upstream:
        upstream.default = lambda request: (
            text("Hel", end="hang")
            if request.json["messages"][0]["content"] == "hang"
            else text(*[request.json["messages"][0]["content"]] * 20, between_s=0.005)
        )
        command = [sys.executable, "-c", UNDER_GEVENT, upstream.url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == "fine\n", done.stderr
        upstream.wait_for(lambda: upstream.hangups >= 2)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that is its own authority, with its key in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, which makes the certificate")
    path = tmp_path / "server.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    key = ["-newkey", "rsa:2048", "-noenc", "-keyout", str(path), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([openssl, "req", "-x509", *key, *subject], check=True, capture_output=True)
    path.write_text(path.read_text() + (tmp_path / "cert.pem").read_text())
    return path


def test_over_tls_the_configured_authority_is_trusted_and_no_other(certificate: Path) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    request = ChatRequest(model="m", messages=[{"role": "user", "content": "hi"}])
    with FakeUpstream(tls=tls) as upstream:
        config = {"url": upstream.url, "max_retries": 0}
        trusting = OpenAIInference(
            provider_id="a", config=OpenAIConfig.model_validate({**config, "tls_verify": str(certificate)})
        )
        for _ in range(2):
            assert list(trusting.chat(request))[:2] == [TextDelta("Hello"), TextDelta(" world")]
        assert upstream.connections == 1
        trusting.close()

        doubting = OpenAIInference(provider_id="a", config=OpenAIConfig.model_validate(config))
        with pytest.raises(ProviderError, match=r"TLS failed .* `tls_verify`"):
            list(doubting.chat(request))
        doubting.close()
