"""vLLM, TGI and Ollama where they differ from OpenAI, on real sockets: what is sent, and what their users are told."""

from collections.abc import Iterator
from typing import Any

import pytest
from fake_upstream import Failure, FakeUpstream, Raw, Reply, Stream, pulled

from shared.errors import ConfigError, ProviderError
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers import ollama
from worker.providers.inference import ChatRequest, CompletionRequest, EmbeddingRequest, InferenceProvider, Model
from worker.providers.instances import build_inference

Json = dict[str, Any]

SECRET = "sk-server-secret"
TOOL = {"name": "look", "parameters": []}
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}}
AS_JSON = {"type": "json_schema", "json_schema": SCHEMA}


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    with FakeUpstream() as server:
        yield server


_BUILT: list[InferenceProvider] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Whatever a test builds is closed after it."""
    yield
    while _BUILT:
        _BUILT.pop().close()


def built(kind: str, **config: Any) -> InferenceProvider:
    instance = ProviderInstance(provider_id="it", provider_type=f"remote::{kind}", config=config)
    _BUILT.append(build_inference(RunConfig(providers=Providers(inference=(instance,))))["it"])
    return _BUILT[-1]


def remote(kind: str, upstream: FakeUpstream, **config: Any) -> InferenceProvider:
    """An instance at `upstream`, whose address is given as people write it: without /v1."""
    url = upstream.url.removesuffix("/v1")
    return built(kind, url=url, api_key=SECRET, max_retries=0, **config)


def sent(provider: InferenceProvider, upstream: FakeUpstream, **fields: Any) -> Json:
    """The body of a chat completion as the server gets it."""
    asked = ChatRequest(model="m", messages=[{"role": "user", "content": "Hello"}], **fields)
    assert list(provider.chat(asked))
    request = upstream.requests[-1]
    assert request.path == "/v1/chat/completions"
    return dict(request.json)


def refusal(provider: InferenceProvider, **fields: Any) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        list(provider.chat(ChatRequest(model="m", messages=[{"role": "user", "content": "Hello"}], **fields)))
    assert SECRET not in caught.value.message
    return caught.value


@pytest.mark.parametrize(("kind", "path"), [("vllm", "/v1/models"), ("tgi", "/info"), ("ollama", "/api/tags")])
@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_each_is_asked_for_its_models_in_its_own_way_wherever_its_address_ends(
    upstream: FakeUpstream, kind: str, path: str, ending: str
) -> None:
    provider = built(kind, url=f"http://127.0.0.1:{upstream.port}{ending}", api_key=SECRET)

    assert [model.identifier for model in provider.list_models()] == ["m"]
    assert (upstream.requests[-1].path, upstream.requests[-1].method) == (path, "GET")
    assert upstream.requests[-1].headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("kind", ["vllm", "tgi", "ollama"])
def test_on_its_own_machine_each_needs_no_config(kind: str) -> None:
    assert built(kind).provider_type == f"remote::{kind}"


@pytest.mark.parametrize("kind", ["vllm", "tgi", "ollama"])
@pytest.mark.parametrize("body", ["[]", '{"data": 7, "models": 7}', "<html>hello</html>", "null", '{"models": [3]}'])
def test_a_listing_that_is_none_is_said_to_be_so(upstream: FakeUpstream, kind: str, body: str) -> None:
    upstream.models_reply = Failure(status=200, body=body)

    with pytest.raises(ProviderError) as caught:
        remote(kind, upstream).list_models()

    assert caught.value.code == "provider_bad_response"


def test_what_the_servers_say_of_their_models_is_kept(upstream: FakeUpstream) -> None:
    upstream.models = [{"id": "m", "max_model_len": 8192}]
    assert remote("vllm", upstream).list_models()[0].metadata == {"max_model_len": 8192}
    assert remote("tgi", upstream).list_models()[0].metadata == {"max_input_tokens": 4095, "max_total_tokens": 4096}

    details = {"family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_K_M", "format": "gguf"}
    upstream.models = [{"id": "m:latest", "details": details}]
    del details["format"]
    assert remote("ollama", upstream).list_models()[0].metadata == details


@pytest.mark.parametrize(
    "entry",
    [
        {"id": "all-minilm", "details": {"family": "bert"}},
        {"id": "x", "capabilities": ["embedding"], "details": {"family": "gemma3"}},
        {"id": "nomic-embed-text"},
    ],
)
def test_ollamas_embedding_models_are_told_from_the_others(upstream: FakeUpstream, entry: Json) -> None:
    upstream.models = [{"id": "llama3.2:latest", "details": {"family": "llama"}}, entry]

    assert [model.model_type for model in remote("ollama", upstream).list_models()] == ["llm", "embedding"]


# What is sent


def test_vllm_takes_top_k_and_a_repetition_penalty_and_openais_schema(upstream: FakeUpstream) -> None:
    params = {"strategy": {"type": "top_k", "top_k": 5}, "repetition_penalty": 1.2}

    body = sent(remote("vllm", upstream), upstream, sampling_params=params, response_format=AS_JSON)

    assert (body["top_k"], body["repetition_penalty"]) == (5, 1.2)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize("kind", ["tgi", "ollama"])
@pytest.mark.parametrize("params", [{"strategy": {"type": "top_k", "top_k": 5}}, {"repetition_penalty": 1.2}])
def test_what_tgi_and_ollama_would_ignore_is_refused(upstream: FakeUpstream, kind: str, params: Json) -> None:
    error = refusal(remote(kind, upstream), sampling_params=params)

    assert error.code == "unsupported_parameter"
    with pytest.raises(ConfigError, match="ignores parameters that are not OpenAI's"):
        remote(kind, upstream, extra_params=["top_k"])


def test_tgi_is_asked_for_its_model_and_for_json_in_its_own_words(upstream: FakeUpstream) -> None:
    params = {"strategy": {"type": "top_p", "temperature": 0.7, "top_p": 1.0}, "max_tokens": 9}

    body = sent(remote("tgi", upstream), upstream, sampling_params=params, response_format=AS_JSON)

    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tgi", 9, 0.7)
    assert "top_p" not in body
    assert body["response_format"] == {"type": "json", "value": SCHEMA}


def test_tgi_takes_no_tools_together_with_a_schema(upstream: FakeUpstream) -> None:
    error = refusal(remote("tgi", upstream), tools=[TOOL], response_format=AS_JSON)

    assert error.message == "Provider 'it' takes tools or a response format, not both."


@pytest.mark.parametrize("kind", ["vllm", "tgi"])
def test_a_tool_may_be_forced_on_vllm_and_tgi(upstream: FakeUpstream, kind: str) -> None:
    provider = remote(kind, upstream)

    assert sent(provider, upstream, tools=[TOOL], tool_choice="required")["tool_choice"] == "required"
    assert sent(provider, upstream, tools=[TOOL], tool_choice="look")["tool_choice"]["function"] == {"name": "look"}


def test_ollama_has_no_tool_choice_so_none_leaves_the_tools_out_and_force_is_refused(upstream: FakeUpstream) -> None:
    provider = remote("ollama", upstream)

    body = sent(provider, upstream, tools=[TOOL], tool_choice="none")
    assert "tools" not in body
    assert len(sent(provider, upstream, tools=[TOOL])["tools"]) == 1
    for choice in ("required", "look"):
        error = refusal(provider, tools=[TOOL], tool_choice=choice)
        assert (error.code, f"'{choice}'" in error.message) == ("unsupported_parameter", True)


def test_a_generation_that_tgi_gave_up_may_be_asked_for_again(upstream: FakeUpstream) -> None:
    upstream.script(Failure(status=424, body={"error": "Request failed during generation", "error_type": "generation"}))

    error = refusal(remote("tgi", upstream))

    assert (error.code, error.status, error.retryable) == ("provider_error", 424, True)
    assert "Request failed during generation" in error.message


def test_tgi_is_asked_for_completions_of_its_model_too_and_has_no_embeddings(upstream: FakeUpstream) -> None:
    provider = remote("tgi", upstream)

    assert list(provider.complete(CompletionRequest(model="m", content="Once")))
    assert (upstream.requests[-1].path, upstream.requests[-1].json["model"]) == ("/v1/completions", "tgi")
    with pytest.raises(ProviderError, match="has no embeddings"):
        provider.embed(EmbeddingRequest(model="m", texts=["Once"]))


@pytest.mark.parametrize("kind", ["tgi", "ollama"])
def test_a_response_format_that_completions_would_ignore_is_refused(upstream: FakeUpstream, kind: str) -> None:
    request = CompletionRequest(model="m", content="Once", response_format=AS_JSON)

    with pytest.raises(ProviderError) as caught:
        list(remote(kind, upstream).complete(request))

    assert caught.value.code == "unsupported_parameter"
    assert upstream.requests == []


# Ollama's pull


def pulls(upstream: FakeUpstream) -> list[Json]:
    return [request.json for request in upstream.requests if request.path == "/api/pull"]


@pytest.mark.parametrize("name", ["m", "m:latest"])
def test_a_model_that_is_there_is_not_pulled(upstream: FakeUpstream, name: str) -> None:
    upstream.models = [{"id": "m:latest"}]
    model = Model(identifier="mine", resource_id=name)

    assert remote("ollama", upstream).register_model(model) == model
    assert pulls(upstream) == []


def test_a_model_that_is_not_there_is_pulled_as_it_is_registered(upstream: FakeUpstream) -> None:
    provider = remote("ollama", upstream)

    model = provider.register_model(Model(identifier="llama", resource_id="llama3.2:1b"))

    assert (model.identifier, model.resource_id) == ("llama", "llama3.2:1b")
    assert pulls(upstream) == [{"model": "llama3.2:1b", "stream": True}]
    assert "llama3.2:1b" in [served.resource_id for served in provider.list_models()]


REGISTRY_SAYS = {"error": "pull model manifest: file does not exist"}


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Failure(status=500, body=REGISTRY_SAYS), "pull model manifest: file does not exist"),
        (pulled({"status": "pulling manifest"}, REGISTRY_SAYS), "pull model manifest: file does not exist"),
        (pulled({"status": "pulling manifest"}, {"error": f"denied for {SECRET}"}), "denied for ***"),
        (pulled({"status": "pulling manifest"}), "registering again goes on from there"),
        (pulled({"status": "pulling manifest"}, end="cut"), "cut the connection"),
        (Stream(pieces=[b"[1]\n"]), "something else than the progress of a pull"),
        (Stream(pieces=[b"nonsense\n"]), "something that is not JSON"),
        (Stream(pieces=[b"x" * 70_000]), "a line that does not end"),
        (Failure(status=400, body={"error": "invalid model name"}), "invalid model name"),
        (Raw(), "cut the connection"),
    ],
)
def test_a_pull_that_fails_refuses_the_registration_with_ollamas_reason(
    upstream: FakeUpstream, reply: Reply, words: str
) -> None:
    upstream.pulls.append(reply)

    with pytest.raises(ProviderError) as caught:
        remote("ollama", upstream).register_model(Model(identifier="x", resource_id="x"))

    assert words in caught.value.message
    assert SECRET not in caught.value.message
    assert caught.value.provider_id == "it"


def test_a_pull_without_progress_is_given_up(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama, "PULL_SILENCE_S", 0.1)
    upstream.pulls.append(pulled({"status": "pulling manifest"}, end="hang"))

    with pytest.raises(ProviderError) as caught:
        remote("ollama", upstream).register_model(Model(identifier="x", resource_id="x"))

    assert caught.value.message == "Provider 'it' sent no progress of the pull for 0.1 s."
    upstream.wait_for(lambda: upstream.hangups == 1)


def test_where_pulling_is_switched_off_only_what_is_there_is_accepted(upstream: FakeUpstream) -> None:
    with pytest.raises(ProviderError) as caught:
        remote("ollama", upstream, pull_models=False).register_model(Model(identifier="x", resource_id="x"))

    assert "does not serve 'x'. It serves: m." in caught.value.message
    assert pulls(upstream) == []
