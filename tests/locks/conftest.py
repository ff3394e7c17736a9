"""What tests of locks use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer
from tests.conftest import URLS, MakeManager


@pytest.fixture
def own_redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that the test may end, and set as it likes."""
    server = RedisServer(**getattr(request, "param", {}))
    yield server
    server.stop()


@pytest.fixture
def unprivileged(postgres_server: PostgresServer) -> Iterator[str]:
    """A database whose only user can't end what another connection has sent to the server."""
    name = "unprivileged"
    postgres_server.create_database(name)
    postgres_server.execute(
        "CREATE ROLE locker LOGIN; GRANT ALL ON SCHEMA public TO locker; "
        "REVOKE EXECUTE ON FUNCTION pg_terminate_backend FROM PUBLIC",
        name,
    )
    yield name
    postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    postgres_server.execute("DROP ROLE locker")


@pytest.fixture(params=list(URLS))
def shared_url(request: pytest.FixtureRequest) -> str:
    """Every kind of database that several processes can share."""
    url: str = request.getfixturevalue(URLS[request.param])
    return url


@pytest.fixture
def manager(make_manager: MakeManager) -> BidLockManager:
    """One manager on a database of every kind."""
    return make_manager()
