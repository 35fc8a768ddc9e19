"""What both rooms stand on: types, the turn log, the registry, configuration and errors."""

from importlib.metadata import version

VERSION = version("turnstone")
