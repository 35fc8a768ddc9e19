"""Which bank of a provider a tenant's name means."""

from itertools import product

from worker.memory.banks import _resource_id


def test_names_with_slashes_reach_no_other_tenants_bank() -> None:
    names, tenants = ("b", "acme/b", "default/b", "acme/acme/b", "a"), ("default", "acme", "a")

    found = [_resource_id(tenant, name) for tenant, name in product(tenants, names)]

    assert len(set(found)) == len(found)
