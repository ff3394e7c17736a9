"""Databases for the tests of locks."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer

_numbers = itertools.count()

MakeManager = Callable[..., BidLockManager]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server for the whole run."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """Tables of its own on that server; the name in the URL gives the test connections of its own, too."""
    tables = ("distributed_locks", "arbitrageai_lock_fences", "arbitrageai_lock_waiters")
    postgres_server.execute(f"DROP TABLE IF EXISTS {', '.join(tables)}")
    return f"{postgres_server.url()}?application_name=test-{next(_numbers)}"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis server for the whole run."""
    server = RedisServer()
    yield server
    server.stop()


@pytest.fixture
def own_redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that the test may end, and set as it likes."""
    server = RedisServer(**getattr(request, "param", {}))
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """That server, empty; the name in the URL gives the test connections of its own."""
    redis_server.execute("FLUSHALL")
    return f"{redis_server.url()}?client_name=test-{next(_numbers)}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file of its own."""
    return f"sqlite:///{tmp_path / 'locks.db'}"


_URLS = {"sqlite": "sqlite_url", "postgresql": "postgres_url", "redis": "redis_url"}


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """Every kind of database that several processes can share."""
    url: str = request.getfixturevalue(_URLS[request.param])
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def table_url(request: pytest.FixtureRequest) -> str:
    """Those of them that keep a row after it has expired."""
    url: str = request.getfixturevalue(_URLS[request.param])
    return url


@pytest.fixture(params=["sqlite", "memory", "postgresql", "redis"])
async def make_manager(request: pytest.FixtureRequest) -> AsyncIterator[MakeManager]:
    """Makes managers of one database, of every kind; closes them in the end."""
    fixture = _URLS.get(request.param)
    url = "sqlite://" if fixture is None else request.getfixturevalue(fixture)
    made: list[BidLockManager] = []

    def make(ttl: float = 300, **settings: object) -> BidLockManager:
        made.append(BidLockManager(ttl, url, **settings))  # type: ignore[arg-type]
        return made[-1]

    if fixture is None:
        await make().cleanup_all()  # the process has but one such database
    yield make
    for manager in made:
        await manager.aclose()


@pytest.fixture
def manager(make_manager: MakeManager) -> BidLockManager:
    """One manager on a database of every kind."""
    return make_manager()
