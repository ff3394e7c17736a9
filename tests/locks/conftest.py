"""What tests of locks use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from testing_support.servers.redis import RedisServer
from tests.conftest import URLS, MakeManager


@pytest.fixture
def own_redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that the test may end, and set as it likes."""
    server = RedisServer(**getattr(request, "param", {}))
    yield server
    server.stop()


@pytest.fixture(params=list(URLS))
def shared_url(request: pytest.FixtureRequest) -> str:
    """Every kind of database that several processes can share."""
    url: str = request.getfixturevalue(URLS[request.param])
    return url


@pytest.fixture
def manager(make_manager: MakeManager) -> BidLockManager:
    """One manager on a database of every kind."""
    return make_manager()
