"""The run config: which providers there are, and the limits under which turns run.

`load` is for workers. `load_front` is for the API, which holds no provider credential: it never looks at
`providers`, so the variables named there need not be set in its environment.
"""

from shared.runconfig.defaults import MEMORY_PATH, default_config
from shared.runconfig.load import load, load_front
from shared.runconfig.model import (
    ApiKey,
    Durability,
    FrontConfig,
    Limits,
    ProviderInstance,
    Providers,
    RunConfig,
    SessionDocuments,
    StaticMemoryBank,
    StaticModel,
    StaticShield,
    StaticToolGroup,
    Turns,
)

__all__ = [
    "MEMORY_PATH",
    "ApiKey",
    "Durability",
    "FrontConfig",
    "Limits",
    "ProviderInstance",
    "Providers",
    "RunConfig",
    "SessionDocuments",
    "StaticMemoryBank",
    "StaticModel",
    "StaticShield",
    "StaticToolGroup",
    "Turns",
    "default_config",
    "load",
    "load_front",
]
