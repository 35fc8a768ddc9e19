"""Words the errors of tool providers, and says in their codes what is known about the call.

| code | what happened | was the call made? |
|---|---|---|
| `tool_unreachable` | no connection, or no session: it was never sent | certainly not |
| `tool_auth` | the server refused our credentials (MCP only) | no |
| `toolgroup_not_found`, `tool_not_found` | there is no such thing here | no |
| `tool_rate_limited` | 429 | the server says no |
| `tool_timeout` | sent, and no result in time | unknown |
| `tool_interrupted` | sent, and the connection or the server went away | unknown |
| `tool_failed` | the server failed (5xx), or refuses in a way that no model can mend | unknown |
| `tool_bad_response` | an answer that makes no sense | most likely |
"""

from collections.abc import Iterable
from typing import Any

from shared.errors import ProviderError
from worker.providers.openai_faults import Faults

UNREACHABLE = "tool_unreachable"

NOT_EXECUTED = frozenset({UNREACHABLE, "tool_auth", "toolgroup_not_found", "tool_not_found"})
"""Codes of a ProviderError after which the call was certainly not made: it may be journalled as not done."""

MAX_LISTED = 20


class ToolFaults:
    """Errors of one provider instance. No message, and no result that went through `clean`, holds a credential."""

    def __init__(self, *, provider_id: str, secrets: Iterable[str]) -> None:
        self._provider_id = provider_id
        self._secrets: list[str] = []
        self.hide(secrets)

    def hide(self, secrets: Iterable[str]) -> None:
        """Know of further credentials."""
        # Short ones would blot out ordinary words, and no real credential is that short.
        known = {secret for secret in secrets if len(secret) > 3}.union(self._secrets)
        self._secrets = sorted(known, key=len, reverse=True)
        self._faults = Faults(provider_id=self._provider_id, url="", secrets=self._secrets)

    def error(self, code: str, problem: str, *, tool: str | None = None, **facts: Any) -> ProviderError:
        """`problem` continues the sentence that begins with the name of the tool or the provider."""
        subject = f"Tool '{tool}' of provider" if tool else "Tool provider"
        message = f"{subject} '{self._provider_id}' {problem}"
        return ProviderError(message, provider_id=self._provider_id, code=code, **facts)

    def not_found(self, kind: str, name: str, known: Iterable[str]) -> ProviderError:
        """There is no tool or tool group of this name."""
        names = list(known)
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        has = ", ".join(names[:MAX_LISTED]) or "none"
        noun = "tool group" if kind == "toolgroup" else kind
        return self.error(f"{kind}_not_found", f"has no {noun} '{name}'. It has: {has}{more}.")

    def clean(self, text: str) -> str:
        """`text` without our credentials."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def clean_bytes(self, data: bytes) -> bytes:
        """As `clean`, of a file."""
        for secret in self._secrets:
            data = data.replace(secret.encode(), b"***")
        return data

    def said(self, text: str) -> str:
        """A sentence with a short piece of what a server said, or nothing where it said nothing."""
        excerpt = self._faults.excerpt(text)
        return f" It said: {excerpt}" if excerpt else ""
