"""Whether the store keeps what it has answered for, as `durability` in the run config promises it."""

from typing import cast

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from shared.errors import ConfigError, StoreError
from shared.log.turn_log import Durability

_FSYNC = {"appendonly": "yes", "appendfsync": "always"}


class StoreCheck:
    """Looks at the store's configuration, once it answers and until it is as it has to be. One per process."""

    def __init__(self, *, client: Redis, durability: Durability) -> None:
        self._client = client
        self._durability = durability
        self._passed = durability == "none"

    def require(self) -> None:
        """Raises ConfigError where the store is not set up for `durability`, StoreError where it cannot be asked."""
        if self._passed:
            return
        try:
            if self._durability == "fsync":
                self._require_fsync()
            else:
                self._require_log()
        except (RedisError, OSError) as error:
            raise StoreError(f"The store cannot be asked for its configuration: {error}") from error
        self._passed = True

    def _require_fsync(self) -> None:
        found = self._config()
        wrong = [f"{name} {found.get(name, '?')}" for name, value in _FSYNC.items() if found.get(name) != value]
        if wrong:
            raise ConfigError(
                f"durability: fsync needs a store with appendonly yes and appendfsync always; it has"
                f" {' and '.join(wrong)}. Set them in the store's configuration, or choose another durability."
            )

    def _config(self) -> dict[str, str]:
        try:
            found = cast(dict[str, str], self._client.config_get(*_FSYNC))
        except ResponseError as error:
            raise _unchecked(str(error)) from error
        if not found:
            raise _unchecked("it shows nothing")
        return found

    def _require_log(self) -> None:
        """A wait for nobody: it is refused where there could be nothing to wait for."""
        try:
            self._client.waitaof(1, 0, 1)
        except ResponseError as error:
            raise ConfigError(
                "durability: replicated needs a store that knows WAITAOF (Redis 7.2 or later, or Valkey) and has"
                f" appendonly yes, as its replicas do; it says: {error}."
            ) from error


def _unchecked(why: str) -> ConfigError:
    return ConfigError(
        f"durability: fsync cannot be checked: the store refuses CONFIG GET ({why}). Allow it to this user (ACL:"
        " +config|get); or choose durability: replicated, which needs no CONFIG, or none, where whoever runs the store"
        " vouches for it."
    )
