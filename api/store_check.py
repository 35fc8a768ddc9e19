"""Whether an API would start on this store: `python -m api.store_check`.

A process of its own, because gunicorn's must not import what its workers have to patch first (sockets, TLS).
"""

import os
import sys

from shared.errors import ConfigError, StoreError
from shared.log.durability import StoreCheck
from shared.redis_client import connect
from shared.runconfig import load_front
from shared.settings import Settings


def main() -> None:
    """Exits with 78 (EX_CONFIG), and one line on standard error, where the store is not as safe as the run config
    promises. One that is away is asked before the first turn is accepted."""
    try:
        settings = Settings.from_env()
        front = load_front(settings.config_path, os.environ)
        StoreCheck(client=connect(settings.redis_url), durability=front.durability).require()
    except ConfigError as error:
        sys.stderr.write(f"turnstone api: {error.message}\n")
        sys.exit(os.EX_CONFIG)
    except StoreError as error:
        sys.stderr.write(f"turnstone api: durability is not checked yet: {error.message}\n")


if __name__ == "__main__":
    main()
