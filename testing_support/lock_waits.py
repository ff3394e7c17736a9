"""What waiting for locks costs, and how soon it ends: for the tests and for the benchmark `waiting`.

The locks that are waited for are held by the original's algorithm, which notifies nobody: as another
machine's are after a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

from . import ticker
from .reference.polling_lock import PollingLockManager, old_manager
from .waiting import until_waiting


@contextlib.asynccontextmanager
async def held_by_another(url: str, postings: list[str], ttl: float) -> AsyncIterator[None]:
    """Locks on these postings that nobody here has."""
    other = old_manager(url, ttl)
    for posting in postings:
        assert await other.acquire_lock("m", posting, timeout=0)
    yield
    if isinstance(other, PollingLockManager):
        other.engine.dispose()
    else:
        await other.close()


async def takeover(url: str) -> float:
    """Seconds from another's lock's expiry until a waiter has it."""
    async with BidLockManager(300, url) as manager, held_by_another(url, ["expiring"], 0.5):
        (held,) = (await manager.locks()).held
        async with manager.with_lock("m", "expiring", timeout=30):
            return time.time() - held.expires_at


@dataclass
class Queue:
    """How long it took to serve everyone who waited for one lock."""

    seconds: float
    alone: float
    """How long the holds take one after another, without a lock."""

    @property
    def ratio(self) -> float:
        """1 if the lock costs nothing."""
        return self.seconds / self.alone


async def queue(url: str, waiters: int, hold: float) -> Queue:
    """So many waiters on one lock, each of which holds it for so many seconds."""
    started = time.monotonic()
    for _ in range(waiters):
        await asyncio.sleep(hold)
    alone = time.monotonic() - started
    async with BidLockManager(300, url) as manager:

        async def wait() -> None:
            async with manager.with_lock("m", "queue", timeout=60):
                await asyncio.sleep(hold)

        first = await manager.acquire_lease("m", "queue")
        tasks = [asyncio.create_task(wait()) for _ in range(waiters)]
        await until_waiting(manager, waiters)
        await first.release()
        started = time.monotonic()
        await asyncio.gather(*tasks)
        return Queue(time.monotonic() - started, alone)


@dataclass
class Crowd:
    """What became of many waiters for one lock."""

    served: int
    timed_out: int
    latest: float
    """By how many seconds the slowest timeout came too late."""


async def crowd(url: str, waiters: int, timeout: float, hold: float) -> Crowd:
    """Many waiters for one lock over five connections, more than can be served in time."""
    async with BidLockManager(300, url, max_connections=5) as manager:
        lateness: list[float] = []

        async def wait() -> bool:
            started = time.monotonic()
            if not await manager.acquire_lock("m", "crowd", timeout=timeout):
                lateness.append(time.monotonic() - started - timeout)
                return False
            await asyncio.sleep(hold)
            return await manager.release_lock("m", "crowd")

        served = sum(await asyncio.gather(*(wait() for _ in range(waiters))))
        assert min(lateness, default=0.0) >= 0
        return Crowd(served, len(lateness), max(lateness, default=0.0))


@dataclass
class IdleCost:
    """What waiters cost while nothing happens."""

    cpu: float
    """Of this process: the share of one core."""
    statements: float
    """A second, of all; 0 where nobody counts."""


async def idle_cost(
    url: str,
    waiters: int,
    seconds: float,
    count: Callable[[], int] = lambda: 0,
    settled: float = 3,
    others_url: str | None = None,
) -> IdleCost:
    """Waiters for a lock each that another has, some seconds after they began to wait.

    `count` tells how many statements the server has seen. Of PostgreSQL's statistics: a connection that has
    become idle tells the last ones 10 s later.
    """
    postings = [f"idle-{number}" for number in range(waiters)]
    async with BidLockManager(300, url) as manager, held_by_another(others_url or url, postings, 300):
        tasks = [asyncio.create_task(manager.acquire_lock("m", name, timeout=200)) for name in postings]
        await asyncio.sleep(settled)
        assert len((await manager.locks()).waiting) == waiters
        statements, started, cpu = count(), time.monotonic(), time.process_time()
        await asyncio.sleep(seconds)
        cpu, elapsed = time.process_time() - cpu, time.monotonic() - started
        statements = count() - statements
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return IdleCost(cpu / elapsed, statements / elapsed)


async def lock_all_the_time(url: str, seconds: float) -> None:
    """A hundred tasks that lock, of which some meet."""
    end = time.monotonic() + seconds
    async with BidLockManager(300, url) as manager:

        async def work(number: int) -> None:
            while time.monotonic() < end:
                async with manager.with_lock("m", str(number % 80), timeout=60):
                    await asyncio.sleep(0.001)

        await asyncio.gather(*(work(number) for number in range(100)))


async def loop_excess(url: str, seconds: float) -> float:
    """The p99.9 of a ticker's waits while a hundred tasks lock, above that of a ticker in an idle process."""
    with ticker.control() as control:
        start = time.monotonic()
        async with ticker.ticker() as waits:
            await lock_all_the_time(url, seconds)
        return ticker.high(waits.late) - ticker.high(control.waits_between(start, time.monotonic()))
