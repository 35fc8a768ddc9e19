"""Reads the run config from its file."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from shared.errors import ConfigError
from shared.runconfig.check import check
from shared.runconfig.defaults import default_config
from shared.runconfig.document import parse
from shared.runconfig.model import NO_FILE_DIGEST, FrontConfig, Providers, RunConfig
from shared.runconfig.origin import KeyPath, Origin
from shared.runconfig.substitute import substitute


def load(path: Path | None, environ: Mapping[str, str]) -> RunConfig:
    """The whole config in `path`, or the default one for this environment where `path` is None.

    Raises ConfigError that names file, line, key and fix. It never holds a credential.
    """
    if path is None:
        return default_config(environ)
    data, origin, digest = _read(path)
    config = check(RunConfig, substitute(data, environ, origin), origin=origin)
    _refuse_double_ids(config.providers, origin)
    _refuse_unknown_providers(config, origin)
    return config.read_from(origin, digest)


def load_front(path: Path | None, environ: Mapping[str, str]) -> FrontConfig:
    """The config without its providers: they are dropped unread, with the variables that they name.

    Its digest equals that of `load`, so the API can tell whether workers run with the same file.
    """
    if path is None:
        return FrontConfig().read_from(Origin(), NO_FILE_DIGEST)
    data, origin, digest = _read(path)
    data.pop("providers", None)
    return check(FrontConfig, substitute(data, environ, origin), origin=origin).read_from(origin, digest)


def _read(path: Path) -> tuple[dict[str, Any], Origin, str]:
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"The run config {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path.name}, line {line}: not UTF-8 text; save the file as UTF-8.") from None
    data, origin = parse(text, path.name)
    return data, origin, sha256(raw).hexdigest()


def _refuse_double_ids(providers: Providers, origin: Origin) -> None:
    seen: dict[str, KeyPath] = {}
    for api, index, instance in providers.instances():
        at: KeyPath = ("providers", api, index, "provider_id")
        first = seen.setdefault(instance.provider_id, at)
        if first != at:
            taken = f"'{instance.provider_id}' is taken already ({origin.where(first)}); choose another."
            raise origin.error(at, taken)


def _refuse_unknown_providers(config: RunConfig, origin: Origin) -> None:
    """A registration at start names its provider by id: a typing error there is found here, not in a turn."""
    listed = {
        "models": config.providers.inference,
        "shields": config.providers.safety,
        "memory_banks": config.providers.memory,
        "toolgroups": config.providers.tool_runtime,
    }
    for section, instances in listed.items():
        ids = [instance.provider_id for instance in instances]
        for index, entry in enumerate(getattr(config, section)):
            if entry.provider_id is not None and entry.provider_id not in ids:
                known = f"there are: {', '.join(ids)}" if ids else "none is configured"
                problem = f"no such provider instance; {known}."
                raise origin.error((section, index, "provider_id"), problem)
