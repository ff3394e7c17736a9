"""Databases for the tests of locks."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

from .servers.postgres import PostgresServer

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


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file of its own."""
    return f"sqlite:///{tmp_path / 'locks.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_url(request: pytest.FixtureRequest) -> str:
    """Every kind of database that several processes can share."""
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    url: str = request.getfixturevalue(fixture)
    return url


@pytest.fixture(params=["sqlite", "memory", "postgresql"])
async def make_manager(request: pytest.FixtureRequest) -> AsyncIterator[MakeManager]:
    """Makes managers of one database, of every kind; closes them in the end."""
    fixture = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}.get(request.param)
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
