"""Who is compared when it comes to locks: on which store, and what it needs.

Each is given the URL of an empty database. Those that know no waiting are asked again every 0.1 s, as
the original asks. Every package is imported only by who uses it, in a process of its own.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.installed import OURS

if TYPE_CHECKING:
    from benchmarks.axes.axis import Settings

LEASES = "arbitrageai-native-leases"
ORIGINAL = "original"
PGBENCH = "pgbench"
PGBENCH_OURS = "pgbench-ours"
PROGRAMS = (PGBENCH, PGBENCH_OURS)

# In seconds, but for the keys that each caller uses in turn.
TTL = 300.0
PATIENCE = 60.0
POLL = 0.1
KEYS = 50

# Locks as rows in the plainest way: one statement to take a lock, and one to give it back.
TABLE = (
    "CREATE TABLE IF NOT EXISTS plain_locks ("
    "id TEXT PRIMARY KEY, lock_key TEXT NOT NULL UNIQUE, holder_id TEXT NOT NULL, "
    "acquired_at DOUBLE PRECISION NOT NULL, expires_at DOUBLE PRECISION NOT NULL)"
)
TAKE = (
    "INSERT INTO plain_locks VALUES ({0}, {1}, {2}, {3}, {4}) "
    "ON CONFLICT (lock_key) DO UPDATE SET id = excluded.id, holder_id = excluded.holder_id, "
    "acquired_at = excluded.acquired_at, expires_at = excluded.expires_at "
    "WHERE plain_locks.expires_at < excluded.acquired_at RETURNING id"
)
GIVE = "DELETE FROM plain_locks WHERE lock_key = {0} AND id = {1}"


class Locker(Protocol):
    """One peer, ready to lock in one database."""

    async def open(self) -> None:
        """Connect."""

    async def acquire(self, key: str) -> Any:
        """Wait for the lock; what is returned gives it back."""

    async def release(self, held: Any) -> None:
        """Give a lock back."""

    async def close(self) -> None:
        """Give the connections back."""


class Ours:
    """The package itself, with nothing changed from its defaults."""

    def __init__(self, url: str) -> None:
        from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

        self._manager = BidLockManager(TTL, url)

    async def open(self) -> None:
        pass

    async def acquire(self, key: str) -> Any:
        assert await self._manager.acquire_lock("m", key, timeout=PATIENCE)
        return key

    async def release(self, held: Any) -> None:
        assert await self._manager.release_lock("m", held)

    async def close(self) -> None:
        await self._manager.aclose()


class Leases(Ours):
    """The package's leases, which are renewed: what `async with` takes."""

    async def acquire(self, key: str) -> Any:
        return await self._manager.acquire_lease("m", key, timeout=PATIENCE)

    async def release(self, held: Any) -> None:
        await held.release()


class Original:
    """The original's algorithm, on SQLAlchemy or on redis-py."""

    def __init__(self, url: str) -> None:
        from testing_support.reference.polling_lock import old_manager

        self._manager = old_manager(url, TTL)

    async def open(self) -> None:
        pass

    async def acquire(self, key: str) -> Any:
        holder = str(uuid.uuid4())
        assert await self._manager.acquire_lock("m", key, PATIENCE, holder)
        return key, holder

    async def release(self, held: Any) -> None:
        key, holder = held
        assert await self._manager.release_lock("m", key, holder)

    async def close(self) -> None:
        await self._manager.close()


class _Rows(ABC):
    """Bare rows: what an application would write by itself."""

    async def acquire(self, key: str) -> Any:
        row = str(uuid.uuid4())
        now = time.time()
        while not await self._take(row, key, "x", now, now + TTL):
            await asyncio.sleep(POLL)
            now = time.time()
        return key, row

    @abstractmethod
    async def _take(self, *row: object) -> bool: ...


class Aiosqlite(_Rows):
    """Through one connection of aiosqlite."""

    def __init__(self, url: str) -> None:
        self._path = url.removeprefix("sqlite:///")

    async def open(self) -> None:
        import aiosqlite

        self._connection = await aiosqlite.connect(self._path, isolation_level=None)
        await self._connection.execute("PRAGMA journal_mode=WAL")
        await self._connection.execute("PRAGMA synchronous=NORMAL")
        await self._connection.execute(TABLE)

    async def _take(self, *row: object) -> bool:
        async with self._connection.execute(TAKE.format(*"?????"), row) as taken:
            return await taken.fetchone() is not None

    async def release(self, held: Any) -> None:
        await self._connection.execute(GIVE.format(*"??"), held)

    async def close(self) -> None:
        await self._connection.close()


class Sqlite3(_Rows):
    """The floor: Python's own module, which blocks the loop."""

    def __init__(self, url: str) -> None:
        self._path = url.removeprefix("sqlite:///")

    async def open(self) -> None:
        import sqlite3

        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(TABLE)

    async def _take(self, *row: object) -> bool:
        return self._connection.execute(TAKE.format(*"?????"), row).fetchone() is not None

    async def release(self, held: Any) -> None:
        self._connection.execute(GIVE.format(*"??"), held)

    async def close(self) -> None:
        self._connection.close()


class Asyncpg(_Rows):
    """Through a pool of asyncpg."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        import asyncpg

        self._pool = await asyncpg.create_pool(self._url, min_size=1, max_size=10)
        await self._pool.execute(TABLE)

    async def _take(self, *row: object) -> bool:
        taken = await self._pool.fetchval(TAKE.format("$1", "$2", "$3", "$4", "$5"), *row)
        return taken is not None

    async def release(self, held: Any) -> None:
        await self._pool.execute(GIVE.format("$1", "$2"), *held)

    async def close(self) -> None:
        await self._pool.close()


class Advisory:
    """`pg_advisory_lock` through a pool of asyncpg: a connection for each holder and each waiter."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        import asyncpg

        self._pool = await asyncpg.create_pool(self._url, min_size=1, max_size=50)

    async def acquire(self, key: str) -> Any:
        connection = await self._pool.acquire()
        await connection.execute("SELECT pg_advisory_lock(hashtext($1))", key)
        return key, connection

    async def release(self, held: Any) -> None:
        key, connection = held
        await connection.execute("SELECT pg_advisory_unlock(hashtext($1))", key)
        await self._pool.release(connection)

    async def close(self) -> None:
        await self._pool.close()


class RedisPy:
    """The `Lock` of redis-py, which asks every 0.1 s."""

    def __init__(self, url: str) -> None:
        import redis.asyncio

        self._client = redis.asyncio.from_url(url, max_connections=200)

    async def open(self) -> None:
        pass

    async def acquire(self, key: str) -> Any:
        lock = self._client.lock(key, timeout=TTL, blocking_timeout=PATIENCE)
        assert await lock.acquire()
        return lock

    async def release(self, held: Any) -> None:
        await held.release()

    async def close(self) -> None:
        await self._client.aclose()


@dataclass(frozen=True)
class LockPeer:
    """One line of a comparison on one store."""

    store: str
    name: str
    make: Callable[[str], Locker] | None
    """From a database's URL; None: a program of its own."""

    needs: tuple[str, ...] = ()
    """What `pip` installs."""

    waits: bool = True
    """Whether it can wait for a lock at all, as an application would let it."""

    crowds: bool = True
    """Whether twenty may wait at once: for a sixteenth, SQLAlchemy's pool stops the loop."""


_SQLALCHEMY = ("sqlalchemy",)

LOCK_PEERS = (
    LockPeer("sqlite", OURS, Ours, (OURS,)),
    LockPeer("sqlite", LEASES, Leases, (OURS,)),
    LockPeer("sqlite", ORIGINAL, Original, _SQLALCHEMY, crowds=False),
    LockPeer("sqlite", "aiosqlite", Aiosqlite, ("aiosqlite",)),
    LockPeer("sqlite", "sqlite3", Sqlite3, waits=False),
    LockPeer("postgresql", OURS, Ours, (OURS,)),
    LockPeer("postgresql", LEASES, Leases, (OURS,)),
    LockPeer("postgresql", ORIGINAL, Original, (*_SQLALCHEMY, "psycopg2-binary"), crowds=False),
    LockPeer("postgresql", "asyncpg", Asyncpg, ("asyncpg",)),
    LockPeer("postgresql", "pg_advisory_lock", Advisory, ("asyncpg",)),
    LockPeer("postgresql", PGBENCH, None, waits=False),
    LockPeer("postgresql", PGBENCH_OURS, None, (OURS,), waits=False),
    LockPeer("redis", OURS, Ours, (OURS,)),
    LockPeer("redis", LEASES, Leases, (OURS,)),
    LockPeer("redis", ORIGINAL, Original, ("redis",)),
    LockPeer("redis", "redis-py", RedisPy, ("redis",)),
)
NAMES = tuple(dict.fromkeys(peer.name for peer in LOCK_PEERS))


def find(name: str, store: str) -> LockPeer:
    return next(peer for peer in LOCK_PEERS if (peer.name, peer.store) == (name, store))


def chosen(settings: Settings) -> Iterator[LockPeer]:
    """Those that the user wants, on the stores that the user wants."""
    for peer in LOCK_PEERS:
        if peer.store in settings.stores and settings.chosen((peer.name,)):
            yield peer


def distributions(peers: Iterable[LockPeer]) -> set[str]:
    """What has to be installed for these."""
    return {distribution for peer in peers for distribution in peer.needs}
