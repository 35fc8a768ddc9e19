"""What integration tests may use besides the store."""

from collections.abc import Iterator

import pytest
from apikit import Api


@pytest.fixture
def api(redis_url: str, key_prefix: str) -> Iterator[Api]:
    """The API on the store, with models in its registry and no worker."""
    api = Api.on(redis_url, key_prefix)
    yield api
    api.services.tails.close()
