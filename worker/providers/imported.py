"""Provider types of one's own: a class that the run config names by its import path, `package.module:Class`.

The class implements the port of its API and is called with `provider_id` and `config`. `config` is what stands in the
run config, checked against the pydantic model that the class has as its attribute `Config`; without one it is the
mapping as it stands, with credentials as pydantic's SecretStr. Where the class does not say, its `provider_type` is the
import path.
"""

import inspect
import re
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from shared.errors import ConfigError
from shared.runconfig import ProviderInstance
from shared.runconfig.check import check
from shared.runconfig.origin import KeyPath, Origin

_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
# A ConfigError with the words, for the key that holds the import path.
Wrong = Callable[[str], ConfigError]


def is_import_path(provider_type: str) -> bool:
    """Whether a provider type names a class and none of ours (`remote::openai`)."""
    return _PATH.fullmatch(provider_type) is not None


def build_imported(port: type[Any], instance: ProviderInstance, *, origin: Origin, at: KeyPath) -> Any:
    """An instance of the class that the provider type names. Raises ConfigError that names the key below `at`."""

    def wrong(words: str) -> ConfigError:
        return origin.error((*at, "provider_type"), f"'{instance.provider_type}' {words}")

    kind = _class(port, instance.provider_type, wrong)
    config: Any = instance.config
    model = getattr(kind, "Config", None)
    if inspect.isclass(model) and issubclass(model, BaseModel):
        config = check(model, config, origin=origin, at=(*at, "config"))
    try:
        provider = kind(provider_id=instance.provider_id, config=config)
    except ConfigError:
        raise
    except Exception as error:
        raise wrong(f"could not be made: {_told(error)}.") from error
    for name, value in (("provider_id", instance.provider_id), ("provider_type", instance.provider_type)):
        if not hasattr(provider, name):
            setattr(provider, name, value)
    return provider


def _class(port: type[Any], path: str, wrong: Wrong) -> type[Any]:
    module_name, name = path.split(":")
    kind = getattr(_module(module_name, wrong), name, None)
    if kind is None:
        raise wrong(f"names no class: the module '{module_name}' has no '{name}'.")
    if not (inspect.isclass(kind) and issubclass(kind, port)):
        raise wrong(f"is no {port.__name__}: derive it from {port.__module__}.{port.__name__}.")
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        raise wrong(f"lacks {', '.join(missing)}: {port.__module__} says what each has to do.")
    return kind


def _module(name: str, wrong: Wrong) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise wrong(
                f"cannot be imported: there is no module '{error.name}'. Install it into Turnstone's environment, or"
                " start where it lies, or name its folder in PYTHONPATH."
            ) from error
        raise wrong(f"cannot be imported: it needs '{error.name}', which is not installed.") from error
    except Exception as error:
        raise wrong(f"cannot be imported: {_told(error)}.") from error


def _told(error: Exception) -> str:
    """An error of somebody else's code, on one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
