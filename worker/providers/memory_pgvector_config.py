"""The config of a `remote::pgvector` instance."""

import re
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, SecretStr, field_validator

from shared.runconfig.model import Count, Seconds, Section

# PostgreSQL cuts longer names in silence, and quotes others.
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class HnswConfig(Section):
    """How an HNSW index is built (`m`, `ef_construction`) and searched (`ef_search`): pgvector's names and bounds."""

    m: Annotated[int, Field(ge=2, le=100)] = 16
    ef_construction: Annotated[int, Field(ge=4, le=1000)] = 64
    ef_search: Annotated[int, Field(ge=1, le=1000)] = 100


class PgvectorConfig(Section):
    """A PostgreSQL database with the extension `vector`, and how long to wait for it.

    `url` is libpq's, postgresql://user:password@host:port/database?sslmode=…, and secret as a whole. `max_connections`
    is per worker process. `statement_timeout_s` is for each statement, waiting for other writers included.
    """

    url: SecretStr
    schema_name: str = Field("turnstone", alias="schema")
    max_connections: Count = 5
    connect_timeout_s: Seconds = 5
    statement_timeout_s: Seconds = 30
    index: Literal["none", "hnsw"] = "none"
    hnsw: HnswConfig = HnswConfig()

    @field_validator("url")
    @classmethod
    def _address(cls, value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value().strip())
        if parts.scheme not in ("postgresql", "postgres"):
            raise ValueError("has to be a URL such as postgresql://user:password@host:5432/database.")
        if "password" in parse_qs(parts.query):
            raise ValueError("must hold its password before the @, where it is masked, and not behind the ?.")
        return SecretStr(value.get_secret_value().strip())

    @field_validator("schema_name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not _SCHEMA.fullmatch(value) or value.startswith("pg_"):
            raise ValueError("use at most 63 lower case letters, digits and _ only, and not pg_ at the beginning.")
        return value
