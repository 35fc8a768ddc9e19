"""Which instances serve a model, by its name, pinned or not, and before anything is known."""

import gevent
import pytest

from shared.errors import ProviderError
from shared.registry import RegisteredModel
from worker.providers.inference import ChatRequest, InferenceProvider, TextDelta
from worker.providers.scripted import ScriptedConfig, ScriptedInference
from worker.router import Router


def a_provider(name: str, model: str = "m") -> InferenceProvider:
    return ScriptedInference(provider_id=name, config=ScriptedConfig.model_validate({"models": [model]}))


PROVIDERS = {name: a_provider(name) for name in ("big", "small")}
MODELS = [
    RegisteredModel(
        identifier="meta/m",
        model_type="llm",
        provider_ids=["big", "small"],
        resource_ids={"big": "m", "small": "m:latest"},
    ),
    RegisteredModel(identifier="big/own", model_type="llm", provider_ids=["small"], resource_ids={"small": "own"}),
]


@pytest.fixture
def router() -> Router:
    router = Router(providers=PROVIDERS)
    router.update(MODELS, complete=True)
    return router


@pytest.mark.parametrize(
    ("name", "instances"),
    [
        ("meta/m", {"big": "m", "small": "m:latest"}),
        ("big/meta/m", {"big": "m"}),
        ("small/meta/m", {"small": "m:latest"}),
        ("big/own", {"small": "own"}),
        ("small/big/own", {"small": "own"}),
    ],
)
def test_a_model_is_found_by_its_name_and_on_the_instance_that_it_is_pinned_to(
    router: Router, name: str, instances: dict[str, str]
) -> None:
    assert router.instances(name) == instances


def test_an_instance_that_the_run_config_has_no_more_serves_nothing() -> None:
    router = Router(providers={"small": PROVIDERS["small"]})
    gone = RegisteredModel(identifier="x", model_type="llm", provider_ids=["big"], resource_ids={"big": "x"})
    router.update([*MODELS, gone], complete=True)

    assert router.instances("meta/m") == {"small": "m:latest"}
    assert not router.serves("x")


def test_a_reply_comes_from_each_instance_under_its_own_name_of_the_model() -> None:
    providers = {"big": a_provider("big", "m"), "small": a_provider("small", "m:latest")}
    router = Router(providers=providers)
    router.update(MODELS, complete=True)
    request = ChatRequest(model="meta/m", messages=[{"role": "user", "content": "Hello"}])

    replies = [list(router.chat(request)) for _ in range(2)]

    assert [reply[0] for reply in replies] == [TextDelta("Hello")] * 2


@pytest.mark.parametrize("name", ["m", "other/meta/m", "big/big/own", "big/", "/", ""])
def test_what_is_not_served_is_refused_with_what_is(router: Router, name: str) -> None:
    with pytest.raises(ProviderError) as refusal:
        router.instances(name)

    assert refusal.value.code == "model_not_found"
    assert "Served: big/own, meta/m." in refusal.value.message


def test_before_all_providers_have_been_asked_a_turn_waits_for_its_model() -> None:
    router = Router(providers=PROVIDERS)
    waiting = gevent.spawn(router.instances, "meta/m")
    gevent.sleep(0)
    router.update([], complete=False)
    gevent.sleep(0)
    assert not waiting.ready()

    router.update(MODELS, complete=False)

    assert waiting.get(timeout=5)["big"] == "m"


def test_once_all_have_been_asked_it_waits_no_more() -> None:
    router = Router(providers=PROVIDERS)
    waiting = gevent.spawn(router.instances, "meta/m")
    gevent.sleep(0)

    router.update([], complete=True)
    waiting.join(timeout=5)

    assert isinstance(waiting.exception, ProviderError)


def test_a_model_that_is_known_is_not_waited_for() -> None:
    router = Router(providers=PROVIDERS)
    router.update(MODELS, complete=False)

    assert router.instances("meta/m")["big"] == "m"
