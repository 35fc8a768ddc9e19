"""The one reader of the environment: where things are, and how large they may be.

What a deployment sets by `TURNSTONE_*` variables. What the providers are stands in the run config
(`config_path`), which is read elsewhere.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from shared.errors import ConfigError
from shared.queues import MEMORY_QUEUE, QUEUES, TURNS_QUEUE

DEFAULT_CONFIG = Path("turnstone.yaml")
STORE_SCHEMES = ("redis", "rediss", "unix")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_FORMATS = ("text", "json")
MAX_PORT = 65535

_PASSWORD_PARAMETER = re.compile(r"([?&][^=&]*password[^=&]*=)[^&#]*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Where a process finds the store, the broker and the run config, and how it serves.

    `redis_url` is a redis-py URL (`redis://`, `rediss://`, `unix://`), `broker_url` a kombu URL. Both are
    empty in one case only: `from_env(require_store=False)` without TURNSTONE_REDIS_URL.
    `concurrency` is the number of turns that one worker process runs at once (1,000; of insert jobs 4); `queue` is what
    it serves: turns, calls, for which a client waits, or memory: insert jobs; `drain_s` is how long one that is
    told to stop lets go on what it is at.
    `metrics_host` and `metrics_port` are where a worker process serves its metrics; port 0: it does not. The API serves
    its own on its own port.
    """

    redis_url: str
    broker_url: str
    config_path: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8321
    api_processes: int = 1
    workers: int = 1
    concurrency: int = 1000
    key_prefix: str = "ts"
    log_level: str = "INFO"
    log_format: str = "text"
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 0
    queue: str = TURNS_QUEUE
    drain_s: int = 30

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, *, require_store: bool = True) -> "Settings":
        """Read `environ` (the process's own where None). An empty variable counts as one that is not set.

        Raises ConfigError, which names the variable and the fix.
        """
        source = os.environ if environ is None else environ
        env = {name: value for name, value in source.items() if value}
        redis_url = _store_url(env, required=require_store)
        return cls(
            redis_url=redis_url,
            broker_url=env.get("TURNSTONE_BROKER_URL") or kombu_url(redis_url),
            config_path=_config_path(env),
            host=env.get("TURNSTONE_HOST", "127.0.0.1"),
            port=_integer(env, "TURNSTONE_PORT", default=8321, most=MAX_PORT),
            api_processes=_integer(env, "TURNSTONE_API_PROCESSES", default=1),
            workers=_integer(env, "TURNSTONE_WORKERS", default=1),
            concurrency=_integer(env, "TURNSTONE_CONCURRENCY", default=_concurrency(env)),
            key_prefix=_key_prefix(env),
            log_level=_log_level(env),
            log_format=_log_format(env),
            metrics_host=env.get("TURNSTONE_METRICS_HOST", "127.0.0.1"),
            metrics_port=_integer(env, "TURNSTONE_METRICS_PORT", default=0, least=0, most=MAX_PORT),
            queue=_queue(env),
            drain_s=_integer(env, "TURNSTONE_DRAIN_S", default=30, least=0),
        )

    def as_environ(self) -> dict[str, str]:
        """The variables from which another process reads the same settings."""
        return {
            "TURNSTONE_REDIS_URL": self.redis_url,
            "TURNSTONE_BROKER_URL": self.broker_url,
            "TURNSTONE_CONFIG": "" if self.config_path is None else str(self.config_path),
            "TURNSTONE_HOST": self.host,
            "TURNSTONE_PORT": str(self.port),
            "TURNSTONE_API_PROCESSES": str(self.api_processes),
            "TURNSTONE_WORKERS": str(self.workers),
            "TURNSTONE_CONCURRENCY": str(self.concurrency),
            "TURNSTONE_KEY_PREFIX": self.key_prefix,
            "TURNSTONE_LOG_LEVEL": self.log_level,
            "TURNSTONE_LOG": self.log_format,
            "TURNSTONE_METRICS_HOST": self.metrics_host,
            "TURNSTONE_METRICS_PORT": str(self.metrics_port),
            "TURNSTONE_QUEUE": self.queue,
            "TURNSTONE_DRAIN_S": str(self.drain_s),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSettings:
    """How a process logs: what a child process needs of the settings, which were checked before it was started."""

    level: str = "INFO"
    format: str = "text"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "LogSettings":
        """Read `environ` (the process's own where None). Raises ConfigError as `Settings.from_env` does."""
        source = os.environ if environ is None else environ
        env = {name: value for name, value in source.items() if value}
        return cls(level=_log_level(env), format=_log_format(env))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientSettings:
    """Where the commands that use the API find it, and who they are.

    `url` is the API's address without `/v1`. `plain`: no colours and no moving lines, also on a terminal.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    plain: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "ClientSettings":
        """Read `environ` (the process's own where None). An empty variable counts as one that is not set.

        Raises ConfigError, which names the variable and the fix.
        """
        source = os.environ if environ is None else environ
        env = {name: value for name, value in source.items() if value}
        return cls(
            url=_api_url(env),
            api_key=_api_key(env),
            plain="NO_COLOR" in env or env.get("TERM") == "dumb",
        )


def kombu_url(redis_url: str) -> str:
    """The broker URL for the server that redis-py reaches under `redis_url`.

    The two differ for a unix socket only: `unix:///path?db=1` is kombu's
    `redis+socket:///path?virtual_host=1`.
    """
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return redis_url
    query = [("virtual_host" if name == "db" else name, value) for name, value in parse_qsl(parts.query)]
    tail = f"?{urlencode(query)}" if query else ""
    return f"redis+socket://{parts.netloc}{parts.path}{tail}"


def masked_url(url: str) -> str:
    """`url` as it may be shown: a password in it, also one in the query, becomes `***`."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    # By hand and not by urlsplit: the URL that gets printed is often one with a mistake in it, such as a
    # password with a bare slash. Up to the last @ all is taken for user and password.
    user, at, host = _PASSWORD_PARAMETER.sub(r"\1***", rest).rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{scheme}://{name}{colon}{'***' if colon else ''}{at}{host}"


def _store_url(env: Mapping[str, str], *, required: bool) -> str:
    url = env.get("TURNSTONE_REDIS_URL", "")
    if not url and required:
        raise ConfigError(
            "TURNSTONE_REDIS_URL is not set. Set it to the store's URL, for instance "
            "redis://127.0.0.1:6379/0, or use 'turnstone dev', which starts a store of its own."
        )
    if url and url.partition("://")[0] not in STORE_SCHEMES:
        raise ConfigError(
            f"TURNSTONE_REDIS_URL is '{masked_url(url)}', which is no Redis URL. "
            "It has to begin with redis://, rediss:// or unix://."
        )
    return url


def _config_path(env: Mapping[str, str]) -> Path | None:
    given = env.get("TURNSTONE_CONFIG")
    if given is None:
        return DEFAULT_CONFIG.resolve() if DEFAULT_CONFIG.is_file() else None
    path = Path(given).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"TURNSTONE_CONFIG is '{given}', and there is no such file. "
            "Correct the path, or unset it to run without a config file."
        )
    return path.resolve()


def _integer(env: Mapping[str, str], name: str, *, default: int, least: int = 1, most: int | None = None) -> int:
    text = env.get(name)
    if text is None:
        return default
    wanted = f"a whole number from {least}" + (f" to {most}" if most is not None else " up")
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"{name} is '{text}'. It has to be {wanted}.")
    value = int(text)
    if value < least or (most is not None and value > most):
        raise ConfigError(f"{name} is {text}. It has to be {wanted}.")
    return value


def _api_url(env: Mapping[str, str]) -> str:
    default = f"http://127.0.0.1:{_integer(env, 'TURNSTONE_PORT', default=8321, most=MAX_PORT)}"
    text = env.get("TURNSTONE_URL", default).strip().rstrip("/").removesuffix("/v1")
    shown = masked_url(text) if "://" in text else text.rpartition("@")[2]
    wrong = ConfigError(
        f"The API's address is '{shown}'. Write --url or TURNSTONE_URL as http://host:port or https://host."
    )
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise wrong
    return text


def _api_key(env: Mapping[str, str]) -> str | None:
    key = env.get("TURNSTONE_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("TURNSTONE_API_KEY has characters that no HTTP header can carry. Copy the key again.")
    return key or None


def _key_prefix(env: Mapping[str, str]) -> str:
    prefix = env.get("TURNSTONE_KEY_PREFIX", "ts")
    # Braces would become the hash tag that decides the cluster slot of every key.
    if not prefix.isascii() or not prefix.isprintable() or any(sign in "{} " for sign in prefix):
        raise ConfigError(
            f"TURNSTONE_KEY_PREFIX is '{prefix}'. It begins every key in the store: "
            "use ASCII letters, digits and signs, no braces and no spaces."
        )
    return prefix


def _queue(env: Mapping[str, str]) -> str:
    queue = env.get("TURNSTONE_QUEUE", TURNS_QUEUE)
    if queue not in QUEUES:
        raise ConfigError(f"TURNSTONE_QUEUE is '{queue}'. It has to be one of {', '.join(QUEUES)}.")
    return queue


def _concurrency(env: Mapping[str, str]) -> int:
    """Turns wait for others nearly all of the time, insert jobs do not."""
    return 4 if _queue(env) == MEMORY_QUEUE else 1000


def _log_level(env: Mapping[str, str]) -> str:
    level = env.get("TURNSTONE_LOG_LEVEL", "INFO").upper()
    if level not in LOG_LEVELS:
        raise ConfigError(
            f"TURNSTONE_LOG_LEVEL is '{env['TURNSTONE_LOG_LEVEL']}'. It has to be one of {', '.join(LOG_LEVELS)}."
        )
    return level


def _log_format(env: Mapping[str, str]) -> str:
    name = env.get("TURNSTONE_LOG", "text").lower()
    if name not in LOG_FORMATS:
        raise ConfigError(f"TURNSTONE_LOG is '{env['TURNSTONE_LOG']}'. It has to be one of {', '.join(LOG_FORMATS)}.")
    return name
