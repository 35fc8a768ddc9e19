"""`python -m worker.check`: whether a worker would start with the run config. No provider and no store is asked."""

import os
import sys

from shared.errors import ConfigError
from shared.log.keys import Keys
from shared.redis_client import connect
from shared.registrations import RegistrationStore
from shared.runconfig import load
from shared.settings import Settings
from worker.fleet import build_fleet

# Connections are made when the first command is sent, and none is.
NO_STORE = "redis://127.0.0.1:0/0"


def main() -> None:
    """Exits with 78 (EX_CONFIG), and every reason on standard error, where a worker would not start."""
    try:
        settings = Settings.from_env(require_store=False)
        registrations = RegistrationStore(client=connect(NO_STORE), keys=Keys(settings.key_prefix))
        build_fleet(load(settings.config_path, os.environ), registrations).close()
    except ConfigError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(os.EX_CONFIG)


if __name__ == "__main__":
    main()
