"""Provider types of one's own: found by their import path, checked, and refused with a reason."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.errors import ConfigError
from shared.runconfig import load
from worker.providers.inference import InferenceProvider
from worker.providers.instances import build_inference

GOOD = """
from pydantic import BaseModel, SecretStr
from worker.providers.inference import Finished, InferenceProvider, Model, StopReason, TextDelta

class Parrot(InferenceProvider):
    class Config(BaseModel):
        word: str
        api_key: SecretStr | None = None

    def __init__(self, *, provider_id, config):
        self.provider_id, self.config = provider_id, config

    def list_models(self):
        return [Model(identifier="parrot", resource_id="parrot")]

    def register_model(self, model):
        return model

    def chat(self, request):
        yield TextDelta(self.config.word)
        yield Finished(stop_reason=StopReason.END_OF_TURN)

    def close(self):
        pass

class Bare(Parrot):
    Config = None

class Half(InferenceProvider):
    pass

class Broken(Parrot):
    def __init__(self, *, provider_id, config):
        raise ValueError("no bird\\nhere")

nothing = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "birds_for_tests.py").write_text(GOOD)
    (tmp_path / "needy_for_tests.py").write_text("import no_such_library\n")
    (tmp_path / "faulty_for_tests.py").write_text("1 / 0\n")
    return tmp_path


def built(folder: Path, provider_type: str, config: dict[str, Any] | None = None) -> InferenceProvider:
    file = folder / "turnstone.yaml"
    instance = {"provider_id": "polly", "provider_type": provider_type, "config": config or {}}
    file.write_text(yaml.safe_dump({"providers": {"inference": [instance]}}))
    return build_inference(load(file, {}))["polly"]


def test_a_class_of_ones_own_serves_as_a_provider(own: Path) -> None:
    provider = built(own, "birds_for_tests:Parrot", {"word": "Hello."})

    assert (provider.provider_id, provider.provider_type) == ("polly", "birds_for_tests:Parrot")
    assert [model.identifier for model in provider.list_models()] == ["parrot"]


def test_a_class_without_a_config_model_gets_the_mapping_with_its_credentials_hidden(own: Path) -> None:
    provider = built(own, "birds_for_tests:Bare", {"word": "Hello.", "api_key": "hidden"})

    config = provider.config  # type: ignore[attr-defined]
    assert config["word"] == "Hello."
    assert "hidden" not in repr(config)


@pytest.mark.parametrize(
    ("provider_type", "words"),
    [
        ("no_such_module:Parrot", "there is no module 'no_such_module'"),
        ("birds_for_tests.deeper:Parrot", "cannot be imported"),
        ("birds_for_tests:Eagle", "the module 'birds_for_tests' has no 'Eagle'"),
        ("birds_for_tests:nothing", "is no InferenceProvider: derive it from worker.providers.inference"),
        ("birds_for_tests:Half", "lacks chat, close, list_models, register_model"),
        ("birds_for_tests:Broken", "could not be made: ValueError: no bird here."),
        ("needy_for_tests:Parrot", "it needs 'no_such_library', which is not installed"),
        ("faulty_for_tests:Parrot", "cannot be imported: ZeroDivisionError: division by zero."),
        ("remote::nowhere", "or one of your own as package.module:Class"),
    ],
)
def test_what_cannot_be_loaded_is_an_error_at_its_key_that_says_why(own: Path, provider_type: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(own, provider_type, {"word": "x"})

    assert "providers.inference[0].provider_type" in caught.value.message
    assert words in caught.value.message


def test_its_config_is_checked_like_that_of_any_other(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.word.*missing"):
        built(own, "birds_for_tests:Parrot")
