"""A few histories of the long form (`make histories`): lost replies and failovers on top of the state machine."""

from collections.abc import Iterator

import pytest
from histories import run_histories
from logkit import running_server

from shared.cli.binaries import find_binary

HISTORIES = 40


@pytest.fixture(scope="module")
def own_store_url() -> Iterator[str]:
    """A server of the module's own: histories clear it."""
    with running_server(find_binary()) as url:
        yield url


@pytest.mark.timeout(600)
def test_lost_replies_change_nothing_and_after_a_failover_owners_of_both_pasts_keep_every_promise(
    own_store_url: str,
) -> None:
    assert run_histories(own_store_url, range(HISTORIES)) == ""
