"""Tenants meet in one memory provider, and none finds what is another's, whatever they call their banks."""

from pathlib import Path
from typing import Any

from stack import Stack, answered, running
from test_memory import config_of, inserted, names

Json = dict[str, Any]

KEYS = {"default": "key-of-the-default-tenant", "two": "key-of-tenant-two"}


def bank(stack: Stack, tenant: str, name: str, secret: str) -> None:
    """A new bank of a tenant's, with a document in it."""
    with stack.http() as http:
        http.headers["Authorization"] = f"Bearer {KEYS[tenant]}"
        body = {"memory_bank_id": name, "type": "keyword", "provider_id": "one"}
        answered(http.post("/memory-banks", json=body))
        assert inserted(http, name, {"document_id": secret, "content": f"beetle {secret}"})["status"] == "completed"


def found(stack: Stack, tenant: str, name: str) -> list[str]:
    with stack.http() as http:
        http.headers["Authorization"] = f"Bearer {KEYS[tenant]}"
        return names(http, name, "beetle")


def test_no_name_of_a_bank_leads_to_another_tenants(tmp_path: Path) -> None:
    keys = [{"key": key, "tenant": tenant} for tenant, key in KEYS.items()]
    with running(tmp_path, config_of(tmp_path) | {"api_keys": keys}) as stack:
        bank(stack, "default", "two/x", "mine")
        bank(stack, "two", "x", "theirs")
        bank(stack, "default", "x", "plain")
        assert found(stack, "default", "two/x") == ["mine"]
        assert found(stack, "two", "x") == ["theirs"]
        assert found(stack, "default", "x") == ["plain"]
