"""The inline embedding model in its child: what a text, a signal or a slow machine can do to it, and what not."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import gevent
import psutil
import pytest
from waiting import wait_for

from shared.errors import ConfigError, ProviderError
from shared.runconfig import load
from worker.providers import wordllama as module
from worker.providers import wordllama_process
from worker.providers.inference import EmbeddingRequest
from worker.providers.instances import build_inference
from worker.providers.wordllama import DIMENSIONS, MODEL, MOST_BYTES, MOST_TEXTS, WordllamaConfig, WordllamaInference

if find_spec("wordllama") is None:
    pytest.skip("wordllama is not installed: pip install 'turnstone[embeddings]'", allow_module_level=True)

# Enough that it is at it for a while.
MUCH = ["word " * 2_000] * MOST_TEXTS

# Embedding takes the CPU time of the child, and the loop goes on; the child ends with its worker.
UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from worker.providers.inference import EmbeddingRequest
from worker.providers.wordllama import MODEL, WordllamaConfig, WordllamaInference

provider = WordllamaInference(provider_id="it", config=WordllamaConfig())
ticks = 0
def tick():
    global ticks
    while True:
        ticks += 1
        gevent.sleep(0.001)
gevent.spawn(tick)
asked = [
    gevent.spawn(provider.embed, EmbeddingRequest(model=MODEL, texts=["some words of a document " * 100] * 250))
    for _ in range(4)
]
gevent.sleep(0)
before = ticks
gevent.joinall(asked, raise_error=True)
assert ticks - before > 50, ticks - before
print(provider.pid, *[len(one.value) for one in asked], flush=True)
sys.stdin.readline()
"""


def made(**config: float) -> WordllamaInference:
    return WordllamaInference(provider_id="it", config=WordllamaConfig(**config))


@pytest.fixture
def provider() -> Iterator[WordllamaInference]:
    one = made()
    yield one
    one.close()
    assert one.pid is None


def embedded(provider: WordllamaInference, *texts: str, dimensions: int | None = None) -> list[list[float]]:
    return provider.embed(EmbeddingRequest(model=MODEL, texts=texts, dimensions=dimensions))


def refused(provider: WordllamaInference, *texts: str, dimensions: int | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        embedded(provider, *texts, dimensions=dimensions)
    assert caught.value.provider_id == "it"
    return caught.value


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_text_of_the_same_meaning_is_nearest_though_it_shares_no_word(provider: WordllamaInference) -> None:
    question, *answers = embedded(
        provider, "car engine repair", "automobile motor maintenance", "a recipe of bread", "the stock exchange closed"
    )
    nearest = max(answers, key=lambda answer: dot(question, answer))
    assert nearest == answers[0]
    assert all(abs(dot(one, one) - 1) < 1e-5 for one in (question, *answers))


def test_a_text_without_words_is_near_nothing_and_no_fault(provider: WordllamaInference) -> None:
    assert embedded(provider, "", "a")[0] == [0.0] * DIMENSIONS
    assert embedded(provider, "") == [[0.0] * DIMENSIONS]
    assert embedded(provider) == []
    assert provider.embed(EmbeddingRequest(model=MODEL, texts=[])) == []


def test_malformed_text_is_embedded_like_any_other(provider: WordllamaInference) -> None:
    for text in ("\ud800 half a character", "\x00\x01\x7f", "\u202e\ufeff", "a" * 100_000, "🏴" * 1_000, "\r\n\t "):
        (vector,) = embedded(provider, text)
        assert abs(dot(vector, vector) - 1) < 1e-5


def test_the_largest_texts_fit_and_larger_ones_are_refused_with_their_place(provider: WordllamaInference) -> None:
    assert len(embedded(provider, "\x01" * MOST_BYTES, "x", "\x02" * MOST_BYTES)) == 3
    pid = provider.pid
    error = refused(provider, "x", "é" * (MOST_BYTES // 2 + 1))
    assert (error.code, error.status) == ("provider_bad_request", 400)
    assert f"at most {MOST_BYTES} bytes, and text 1 has {MOST_BYTES + 2}. Cut it" in error.message
    assert provider.pid == pid


def test_too_many_texts_at_once_are_refused_and_as_many_as_may_be_are_not(provider: WordllamaInference) -> None:
    assert len(embedded(provider, *["a"] * MOST_TEXTS)) == MOST_TEXTS
    error = refused(provider, *["a"] * (MOST_TEXTS + 1))
    assert error.code == "provider_bad_request"
    assert f"at most {MOST_TEXTS} texts in a request, not {MOST_TEXTS + 1}" in error.message


def test_shorter_vectors_are_the_beginnings_of_the_long_ones(provider: WordllamaInference) -> None:
    (long,), (short,) = embedded(provider, "some words"), embedded(provider, "some words", dimensions=64)
    assert len(short) == 64
    assert abs(dot(short, short) - 1) < 1e-5
    length = dot(long[:64], long[:64]) ** 0.5
    assert short == pytest.approx([number / length for number in long[:64]], abs=1e-6)
    error = refused(provider, "some words", dimensions=100)
    assert (error.code, "64, 128, 256 dimensions, not 100" in error.message) == ("unsupported_parameter", True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_died_while_idle_is_replaced(provider: WordllamaInference, number: signal.Signals) -> None:
    before, pid = embedded(provider, "a"), provider.pid
    assert pid is not None
    os.kill(pid, number)
    wait_for(lambda: is_gone(pid), "the child has died")
    assert embedded(provider, "a") == before
    assert provider.pid != pid


def test_a_child_that_dies_at_its_work_costs_no_vector(provider: WordllamaInference) -> None:
    (one,) = embedded(provider, MUCH[0])
    pid = provider.pid
    assert pid is not None
    asked = gevent.spawn(embedded, provider, *MUCH)
    gevent.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    assert asked.get() == [pytest.approx(one, abs=1e-6)] * len(MUCH)
    assert provider.pid != pid


@pytest.mark.parametrize("command", ["false", "no-such-command"])
def test_a_child_that_cannot_start_is_a_fault_that_may_pass(
    provider: WordllamaInference, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", command)
    error = refused(provider, "a")
    assert (error.code, error.retryable) == ("provider_unavailable", True)
    monkeypatch.undo()
    assert embedded(provider, "a")


def test_a_batch_that_takes_too_long_is_given_up_and_the_error_names_the_setting() -> None:
    provider = made(timeout_s=0.001)
    error = refused(provider, "word " * 20_000)
    assert (error.code, error.retryable) == ("provider_timeout", True)
    assert "Raise `timeout_s`" in error.message
    assert provider.pid is None


def test_a_greenlet_that_is_killed_ends_its_child_and_the_next_has_one(provider: WordllamaInference) -> None:
    embedded(provider, "a")
    pid = provider.pid
    assert pid is not None
    asked = gevent.spawn(embedded, provider, *MUCH)
    gevent.sleep(0.05)
    asked.kill()
    assert is_gone(pid)
    assert embedded(provider, "a")


def test_who_still_waits_when_it_is_closed_may_try_again_elsewhere(provider: WordllamaInference) -> None:
    embedded(provider, "a")
    asked = [gevent.spawn(refused, provider, *MUCH), gevent.spawn(refused, provider, "a")]
    gevent.sleep(0.05)
    provider.close()
    assert {one.get().code for one in asked} == {"provider_unavailable"}
    assert refused(provider, "a").code == "provider_unavailable"


def test_a_child_has_one_thread_and_none_of_the_workers_secrets(
    provider: WordllamaInference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_API_KEY", "s3cret")
    embedded(provider, *MUCH[:128])
    child = psutil.Process(provider.pid)
    assert child.num_threads() == 1
    assert "PROVIDER_API_KEY" not in child.environ()


def test_the_model_is_read_from_its_package_and_no_network_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    embed = wordllama_process.load()
    assert len(embed(["a", "b"], 64)) == 2 * 64 * 4
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_config_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    file = tmp_path / "turnstone.yaml"
    file.write_text("providers: {inference: [{provider_id: near, provider_type: 'inline::wordllama'}]}")
    with pytest.raises(ConfigError, match=r"'near' needs wordllama\. .*pip install 'turnstone\[embeddings\]'"):
        build_inference(load(file, {}))


def test_a_setting_that_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "turnstone.yaml"
    config = "{timeout_s: 0}"
    file.write_text(
        f"providers: {{inference: [{{provider_id: n, provider_type: 'inline::wordllama', config: {config}}}]}}"
    )
    with pytest.raises(ConfigError, match="timeout_s"):
        build_inference(load(file, {}))


def test_under_gevent_nobody_waits_for_it_and_the_child_ends_with_its_worker() -> None:
    process = subprocess.Popen([sys.executable, "-c", UNDER_GEVENT], stdin=-1, stdout=-1, stderr=-1, text=True)
    with process:
        assert process.stdout is not None and process.stderr is not None
        said = process.stdout.readline().split()
        if not said:
            pytest.fail(process.stderr.read())
        process.kill()
    pid = int(said[0])
    assert said[1:] == ["250"] * 4
    wait_for(lambda: is_gone(pid), "the child has ended with its worker")
