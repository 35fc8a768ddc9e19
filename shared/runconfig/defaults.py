"""The config of someone who wrote none: what the environment makes available."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from shared.errors import ConfigError
from shared.runconfig.model import ProviderInstance, Providers, RunConfig

MEMORY_PATH = "TURNSTONE_MEMORY"
"""Where the memory of someone who wrote no config lies: a file that all workers of a machine share."""
OPENAI_COMPATIBLE = "remote::openai"
SCRIPTED = "inline::scripted"
SQLITE = "inline::sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    """A service that is used when its key or its address is in the environment.

    `url` is where a hosted service lives; without it the address must be given. `base` is appended to an
    address that has no path.
    """

    provider_id: str
    key: str | None = None
    address: str | None = None
    url: str | None = None
    base: str = "/v1"
    port: int | None = None
    provider_type: str = OPENAI_COMPATIBLE


# Everything else is echoed.
_GREETING = {
    "match": r"(?i)^\s*(hi|hello|hey)\b",
    "role": "user",
    "text": "Hello! I am the scripted model: I answer by rules, and say back whatever no rule is for. "
    "Set OPENAI_API_KEY or OLLAMA_HOST, or write a turnstone.yaml, to talk to a real one.",
}

# The variables that the services' own tools and Llama Stack's distributions read.
_SERVICES = (
    _Service(provider_id="openai", key="OPENAI_API_KEY", address="OPENAI_BASE_URL", url="https://api.openai.com/v1"),
    _Service(
        provider_id="ollama", key="OLLAMA_API_KEY", address="OLLAMA_HOST", port=11434, provider_type="remote::ollama"
    ),
    _Service(provider_id="vllm", key="VLLM_API_TOKEN", address="VLLM_URL", provider_type="remote::vllm"),
    _Service(provider_id="tgi", key="TGI_API_TOKEN", address="TGI_URL", provider_type="remote::tgi"),
    _Service(provider_id="together", key="TOGETHER_API_KEY", url="https://api.together.xyz/v1"),
    _Service(provider_id="fireworks", key="FIREWORKS_API_KEY", url="https://api.fireworks.ai/inference/v1"),
    _Service(provider_id="groq", key="GROQ_API_KEY", url="https://api.groq.com/openai/v1"),
)


def default_config(environ: Mapping[str, str]) -> RunConfig:
    """The scripted model, which answers with an echo, and every service that `environ` names."""
    found = [_instance(service, environ) for service in _SERVICES if _named(service, environ)]
    config = {"models": ["scripted"], "embedding_models": ["scripted-embedding"], "rules": [_GREETING]}
    scripted = ProviderInstance(provider_id="scripted", provider_type=SCRIPTED, config=config)
    return RunConfig(providers=Providers(inference=(scripted, *found), memory=_memory(environ)))


def _memory(environ: Mapping[str, str]) -> tuple[ProviderInstance, ...]:
    """The embedded provider, where its libraries are installed."""
    if not all(find_spec(name) for name in ("apsw", "sqlite_vec")):
        return ()
    config = {"path": environ[MEMORY_PATH]} if environ.get(MEMORY_PATH) else {}
    return (ProviderInstance(provider_id="sqlite", provider_type=SQLITE, config=config),)


def _named(service: _Service, environ: Mapping[str, str]) -> bool:
    if service.address and environ.get(service.address):
        return True
    return bool(service.url and service.key and environ.get(service.key))


def _instance(service: _Service, environ: Mapping[str, str]) -> ProviderInstance:
    address = environ.get(service.address or "", "")
    config: dict[str, Any] = {"url": _url(service, address) if address else service.url}
    if service.key and environ.get(service.key):
        config["api_key"] = environ[service.key]
    return ProviderInstance(provider_id=service.provider_id, provider_type=service.provider_type, config=config)


def _url(service: _Service, address: str) -> str:
    """A full base URL from what people write into these variables: `gpu-1:8080`, `0.0.0.0`, `http://gpu-1/`."""
    text = address.strip()
    bare = "://" not in text
    parts = urlsplit(f"http://{text}" if bare else text)
    try:
        port = parts.port or (service.port if bare else None)
    except ValueError:
        raise ConfigError(f"{service.address} is no address; write http://host:port.") from None
    if not parts.hostname:
        raise ConfigError(f"{service.address} is no address; write http://host:port.")
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    # A server is told to listen on 0.0.0.0 by the same variable; one connects to loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(parts.hostname, parts.hostname)
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    authority = f"{host}:{port}" if port else host
    return f"{parts.scheme}://{user}{authority}{parts.path.rstrip('/') or service.base}"
