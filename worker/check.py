"""`python -m worker.check`: whether the providers of the run config could be built; none of them is asked anything."""

import os
import sys
from collections.abc import Iterator
from typing import Any

from shared.errors import ConfigError
from shared.runconfig import load
from shared.settings import Settings
from worker.providers.instances import build_inference, build_safety


def main() -> None:
    """Exits with 78 (EX_CONFIG), and every reason on standard error, where a worker would not start."""
    try:
        config = load(Settings.from_env(require_store=False).config_path, os.environ)
        build_inference(config)
        build_safety(config, chat=_nothing_is_asked, serves=lambda _: False)
    except ConfigError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(os.EX_CONFIG)


def _nothing_is_asked(*args: Any, **kwargs: Any) -> Iterator[Any]:
    raise AssertionError("a check asks no provider anything")


if __name__ == "__main__":
    main()
