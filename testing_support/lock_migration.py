"""Locks while a migration locks their table: `LOCK TABLE … IN ACCESS EXCLUSIVE MODE`, on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import psycopg2

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.locks.leases import Lease

_ASKING = 8
"""So many tasks of each manager want locks meanwhile."""


@dataclass
class Migration:
    """What was seen of one."""

    most_backends: int = 0
    """Processes of the server that served one manager, at the same time."""
    losses: list[float] = field(default_factory=list)
    """For each short lease, how many seconds after its expiry its holder heard of the loss."""
    lost_long: int = 0
    """Leases whose time to live is longer than the migration, and that were lost."""
    resumed: float = 0.0
    """Seconds from the end of the migration until every manager had acquired a lock."""


async def migrate(
    url: str, seconds: float, *, managers: int, max_connections: int, long_ttl: float, short_ttl: float
) -> Migration:
    """Lock the table for so long, while managers hold leases and want more locks.

    Every manager has connections of its own, as if it were in another process.
    """
    found = Migration()
    mark = "&" if "?" in url else "?"
    urls = [f"{url}{mark}application_name=migrated-{number}" for number in range(managers)]
    async with contextlib.AsyncExitStack() as stack:

        async def of_each(ttl: float) -> list[BidLockManager]:
            made = (BidLockManager(ttl, url, max_connections=max_connections) for url in urls)
            return [await stack.enter_async_context(manager) for manager in made]

        long, short = await of_each(long_ttl), await of_each(short_ttl)
        kept = [await manager.acquire_lease("m", f"long-{number}") for number, manager in enumerate(long)]
        ending = [await manager.acquire_lease("m", f"short-{number}") for number, manager in enumerate(short)]
        async with _locked_table(url) as migration:
            stop = asyncio.Event()
            losses = asyncio.gather(*(_lateness(lease) for lease in ending))
            asking = [
                asyncio.create_task(_go_on_asking(manager, f"{number}-{task}", stop))
                for number, manager in enumerate(long)
                for task in range(_ASKING)
            ]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                found.most_backends = max(found.most_backends, await asyncio.to_thread(_most_backends, url))
                await asyncio.sleep(0.2)
            stop.set()
            await asyncio.gather(*asking)
            found.losses = await losses
            await asyncio.to_thread(migration.rollback)
            unlocked = time.monotonic()
            resumed = await asyncio.gather(
                *(manager.acquire_lease("m", f"new-{number}", 30) for number, manager in enumerate(long))
            )
            found.resumed = time.monotonic() - unlocked
        found.lost_long = sum(not lease.is_held for lease in kept)
        await asyncio.gather(*(lease.release() for lease in kept + resumed))
    return found


@contextlib.asynccontextmanager
async def _locked_table(url: str) -> AsyncIterator[psycopg2.extensions.connection]:
    migration = await asyncio.to_thread(psycopg2.connect, url)
    try:
        await asyncio.to_thread(
            migration.cursor().execute, "LOCK TABLE distributed_locks IN ACCESS EXCLUSIVE MODE"
        )
        yield migration
    finally:
        migration.close()


async def _lateness(lease: Lease) -> float:
    """How many seconds after the expiry its loss is heard of."""
    assert await lease.lost()
    return time.time() - lease.expires_at


async def _go_on_asking(manager: BidLockManager, posting: str, stop: asyncio.Event) -> None:
    while not stop.is_set():
        if await manager.acquire_lock("m", posting, timeout=0.5):
            await manager.release_lock("m", posting)


def _most_backends(url: str) -> int:
    """How many processes of the server serve the manager that has the most."""
    connection = psycopg2.connect(url)
    try:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'migrated-%' "
            "GROUP BY application_name ORDER BY 1 DESC LIMIT 1"
        )
        row = cursor.fetchone()
        return int(row[0]) if row else 0
    finally:
        connection.close()
