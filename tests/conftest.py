"""What tests in several folders use."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from testing_support.loops import LoopFactory, LoopWithoutReaders
from testing_support.servers.faulty_http import Action, FaultyServer
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer

pytest_plugins = ["tests.run"]

MakeManager = Callable[..., BidLockManager]

_numbers = itertools.count()


@pytest.fixture(
    params=[asyncio.SelectorEventLoop, uvloop.new_event_loop, LoopWithoutReaders],
    ids=["asyncio", "uvloop", "portable"],
)
def new_loop(request: pytest.FixtureRequest) -> LoopFactory:
    """Every kind of event loop that the bridge serves."""
    return request.param


@pytest.fixture
def serve() -> Iterator[Callable[..., FaultyServer]]:
    """Starts servers under the test's control, and stops them after it."""
    servers: list[FaultyServer] = []

    def start(*script: Action) -> FaultyServer:
        servers.append(FaultyServer(*script))
        return servers[-1]

    yield start
    for started in servers:
        started.close()


# Databases


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL server for this process's tests."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """That server without tables; the name in the URL gives the test connections of its own, too."""
    tables = ("distributed_locks", "arbitrageai_lock_fences", "arbitrageai_lock_waiters")
    postgres_server.run(f"DROP TABLE IF EXISTS {', '.join(tables)}")
    return f"{postgres_server.url()}?application_name=test-{next(_numbers)}"


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis server for this process's tests."""
    server = RedisServer()
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


URLS = {"sqlite": "sqlite_url", "postgresql": "postgres_url", "redis": "redis_url"}


@pytest.fixture(params=["sqlite", "postgresql"])
def table_url(request: pytest.FixtureRequest) -> str:
    """Every kind of database that keeps a row after it has expired."""
    url: str = request.getfixturevalue(URLS[request.param])
    return url


@pytest.fixture(params=["sqlite", "memory", "postgresql", "redis"])
async def make_manager(request: pytest.FixtureRequest) -> AsyncIterator[MakeManager]:
    """Makes managers of one database, of every kind; closes them in the end."""
    fixture = URLS.get(request.param)
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
