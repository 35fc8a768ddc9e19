"""The config of a `remote::mcp` tool provider, and the endpoints that it leads to."""

from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator

from shared.runconfig.model import Name, Section
from worker.providers.tools_config import HttpUrl, MaxResultKb, Seconds, SecretHeaders, TlsVerify, sent_headers

Json = dict[str, Any]


class McpEndpoint(Section):
    """Where an MCP server is (streamable HTTP): what a tool group's `mcp_endpoint` holds."""

    uri: HttpUrl
    headers: SecretHeaders = Field(default_factory=dict[str, SecretStr])


class McpConfig(Section):
    """An MCP server, and how to speak with it and with the servers of tool groups that are registered later.

    `uri`, or `mcp_endpoint: {uri}`; without it the instance serves registered tool groups only. `headers` go to the
    configured server alone. The server's tools are the tool group `toolgroup_id`, or else the provider's id.
    `timeout_s` is for a whole call.
    """

    uri: HttpUrl | None = None
    mcp_endpoint: McpEndpoint | None = None
    headers: SecretHeaders = Field(default_factory=dict[str, SecretStr])
    toolgroup_id: Name | None = None
    timeout_s: Seconds = 30
    connect_timeout_s: Seconds = 5
    max_result_kb: MaxResultKb = 256
    tls_verify: TlsVerify = True

    @model_validator(mode="after")
    def _one_address(self) -> Self:
        if self.uri and self.mcp_endpoint:
            raise ValueError("has both uri and mcp_endpoint; keep one.")
        if self.own_uri is None and (self.toolgroup_id or self.headers):
            raise ValueError("toolgroup_id and headers belong to a server; add its uri.")
        return self

    @property
    def own_uri(self) -> str | None:
        """The address of the configured server."""
        return self.mcp_endpoint.uri if self.mcp_endpoint else self.uri

    @property
    def own_headers(self) -> dict[str, str]:
        """What is sent to the configured server."""
        return {**sent_headers(self.headers), **(sent_headers(self.mcp_endpoint.headers) if self.mcp_endpoint else {})}

    def endpoint(self, uri: str, headers: dict[str, str]) -> Json:
        """A server as the MCP process needs to know it. Our credentials go to their own origin only."""
        own = self.own_headers if self.own_uri and _origin(self.own_uri) == _origin(uri) else {}
        return {
            "uri": uri,
            "headers": {**own, **headers},
            "timeout_s": self.timeout_s,
            "connect_timeout_s": self.connect_timeout_s,
            "tls_verify": self.tls_verify,
            "max_result_bytes": self.max_result_kb * 1024,
        }


def _origin(uri: str) -> tuple[str, str | None, int]:
    parts = urlsplit(uri)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
