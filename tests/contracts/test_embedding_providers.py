"""What memory may rely on from every inference provider that has embeddings."""

from collections.abc import Iterator
from importlib.util import find_spec

import gevent
import pytest
from fake_upstream import FakeUpstream

from shared.errors import ProviderError
from shared.runconfig import ProviderInstance, Providers, RunConfig
from worker.providers.inference import ChatRequest, EmbeddingRequest, InferenceProvider, Json, Model
from worker.providers.instances import build_inference

MODELS = {"inline::wordllama": "wordllama", "inline::scripted": "e", "remote::openai": "e", "remote::ollama": "e"}
TEXTS = ["Desks are booked a week ahead.", "", "été 日本語 😀", "a\x00b\nc", "Desks are booked a week ahead."]


def built(provider_type: str, config: Json) -> InferenceProvider:
    instance = ProviderInstance(provider_id="it", provider_type=provider_type, config=config)
    return build_inference(RunConfig(providers=Providers(inference=(instance,))))["it"]


@pytest.fixture(params=MODELS)
def provider(request: pytest.FixtureRequest) -> Iterator[InferenceProvider]:
    """A provider that serves an embedding model, by the name in `MODELS`."""
    if request.param == "inline::wordllama" and find_spec("wordllama") is None:
        pytest.skip("wordllama is not installed: pip install 'turnstone[embeddings]'")
    with FakeUpstream(models=["e"]) as upstream:
        config: Json = {}
        if request.param == "inline::scripted":
            config = {"embedding_models": ["e"]}
        elif request.param.startswith("remote"):
            config = {"url": upstream.url, "max_retries": 0}
            if request.param == "remote::ollama":
                config["pull_models"] = False
        one = built(request.param, config)
        yield one
        one.close()


def embedded(provider: InferenceProvider, *texts: str, **fields: Json) -> list[list[float]]:
    return provider.embed(EmbeddingRequest(model=MODELS[provider.provider_type], texts=texts, **fields))


def test_there_is_a_vector_for_each_text_and_all_have_the_same_length(provider: InferenceProvider) -> None:
    vectors = embedded(provider, *TEXTS)
    assert len(vectors) == len(TEXTS)
    assert len({len(vector) for vector in vectors}) == 1
    assert all(type(number) is float or type(number) is int for vector in vectors for number in vector)
    assert all(number == number for vector in vectors for number in vector)  # none is NaN


def test_vectors_are_in_the_order_of_the_texts_however_many_there_are(provider: InferenceProvider) -> None:
    texts = [f"{'word ' * (number % 7)}{number}" for number in range(200)]
    together, alone = embedded(provider, *texts), [embedded(provider, text)[0] for text in texts[::40]]
    if provider.provider_type.startswith("remote"):  # the test's server tells texts by their length and place
        together, alone = [vector[:1] for vector in together], [vector[:1] for vector in alone]
    assert together[::40] == [pytest.approx(vector, abs=1e-6) for vector in alone]


def test_many_may_ask_at_once(provider: InferenceProvider) -> None:
    asked = [gevent.spawn(embedded, provider, "x" * number) for number in range(1, 20)]
    gevent.joinall(asked, raise_error=True)
    assert [one.value for one in asked] == [embedded(provider, "x" * number) for number in range(1, 20)]


def test_a_model_is_registered_by_the_providers_own_name(provider: InferenceProvider) -> None:
    name = MODELS[provider.provider_type]
    alias = Model(identifier="mine", resource_id=name, model_type="embedding")
    assert provider.register_model(alias) == alias
    with pytest.raises(ProviderError, match=rf"It serves: (\w+, )*{name}\.") as caught:
        provider.register_model(Model(identifier="x", resource_id="x", model_type="embedding"))
    assert (caught.value.code, caught.value.provider_id) == ("model_not_found", "it")


def test_what_the_inline_model_lists_says_its_dimension_and_keeps_it() -> None:
    if find_spec("wordllama") is None:
        pytest.skip("wordllama is not installed: pip install 'turnstone[embeddings]'")
    provider = built("inline::wordllama", {})
    (model,) = provider.list_models()
    assert (model.identifier, model.model_type, model.metadata) == (
        "wordllama",
        "embedding",
        {"embedding_dimension": 256},
    )
    assert len(embedded(provider, "a")[0]) == 256
    provider.close()


def test_the_inline_model_says_that_it_is_none_to_talk_to() -> None:
    if find_spec("wordllama") is None:
        pytest.skip("wordllama is not installed: pip install 'turnstone[embeddings]'")
    provider = built("inline::wordllama", {})
    with pytest.raises(ProviderError, match=r"'it' \(inline::wordllama\) has no chat: ask for a model of another one"):
        list(provider.chat(ChatRequest(model="wordllama", messages=[{"role": "user", "content": "Hi"}])))
    with pytest.raises(ProviderError, match="as an embedding model only"):
        provider.register_model(Model(identifier="x", resource_id="wordllama"))
    provider.close()
