"""The stores that the contracts of the turn log hold on, and a log on each of them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from logkit import LogKit, guard_keys, opened, running_cluster, running_server

from shared.cli.binaries import ON_PATH, find_binary, inspect_binary, is_recent


def _others() -> list[str]:
    """Servers on PATH that are recent enough, besides the one that every test run starts."""
    usual = find_binary()
    found = [path for command in ON_PATH if (path := shutil.which(command))]
    binaries = [inspect_binary(Path(path), origin="on PATH") for path in found]
    return [str(one.path) for one in binaries if one.path != usual.path and is_recent(one.version)]


@pytest.fixture(scope="session", params=["store", "cluster", *_others()])
def log_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a store: the usual one, a cluster, and each other server that this machine has."""
    if request.param == "store":
        yield request.getfixturevalue("redis_url")
    elif request.param == "cluster":
        with running_cluster(find_binary()) as url:
            yield url
    else:
        with running_server(inspect_binary(Path(request.param), origin="on PATH")) as url:
            yield url


@pytest.fixture
def kit(
    log_url: str, key_prefix: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LogKit]:
    """A turn log of the test's own, whose invariants hold at the end. On the cluster undeclared keys are refused."""
    if request.node.callspec.params["log_url"] == "cluster":
        guard_keys(monkeypatch)
    with opened(log_url, key_prefix) as kit:
        yield kit
