"""What a lock costs when there are many: locks held, leases renewed, tasks waiting. The curve must be flat.

    python benchmarks/lock_sizes.py [--largest 100000] [--store sqlite,postgresql]

For each store and size: the median time and the CPU time (this process, all threads) of one pair, an
acquisition and a release of a key that nobody else wants, while so many others are held, leased or
waited for; and what serving the waiters took for each of them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.servers.postgres import PostgresServer

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

SIZES = (1, 10, 100, 1_000, 10_000, 100_000)
MOST_WAITERS = 10_000
AT_ONCE = 1_000
PAIRS = 300
TTL = 3_600


async def each(count: int, call: Callable[[int], Awaitable[object]]) -> None:
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        await asyncio.gather(*(call(number) for number in numbers))


async def pair_cost(manager: BidLockManager) -> tuple[str, str]:
    """Median microseconds of a pair, and its CPU microseconds."""
    times = []
    cpu = time.process_time()
    for number in range(PAIRS):
        start = time.perf_counter()
        assert await manager.acquire_lock("pair", str(number % 10), timeout=60)
        assert await manager.release_lock("pair", str(number % 10))
        times.append(time.perf_counter() - start)
    cpu = time.process_time() - cpu
    return f"{statistics.median(times) * 1e6:,.0f}", f"{cpu / PAIRS * 1e6:,.0f}"


async def locks_held(manager: BidLockManager, count: int) -> tuple[str, ...]:
    async def hold(number: int) -> None:
        assert await manager.acquire_lock("held", str(number), timeout=60)

    await each(count, hold)
    cost = await pair_cost(manager)
    await manager.cleanup_all()
    return (*cost, "")


async def leases_held(manager: BidLockManager, count: int) -> tuple[str, ...]:
    leases = []

    async def hold(number: int) -> None:
        leases.append(await manager.acquire_lease("leased", str(number), timeout=60))

    await each(count, hold)
    cost = await pair_cost(manager)
    await each(count, lambda number: leases[number].release())
    return (*cost, "")


async def waiters(manager: BidLockManager, count: int) -> tuple[str, ...]:
    lease = await manager.acquire_lease("wanted", "one")

    async def wait() -> None:
        async with manager.with_lock("wanted", "one", timeout=600):
            pass

    tasks = [asyncio.create_task(wait()) for _ in range(count)]
    await asyncio.sleep(0.5 + count / 10_000)
    cost = await pair_cost(manager)
    start = time.perf_counter()
    await lease.release()
    await asyncio.gather(*tasks)
    return (*cost, f"{(time.perf_counter() - start) / count * 1e6:,.0f}")


AXES: dict[str, Callable[[BidLockManager, int], Awaitable[tuple[str, ...]]]] = {
    "locks held": locks_held,
    "leases held": leases_held,
    "waiters for one lock": waiters,
}


async def measure(table: Table, store: str, url: str, sizes: Iterable[int]) -> None:
    manager = BidLockManager(TTL, url)
    for name, axis in AXES.items():
        for size in sizes:
            if axis is not waiters or size <= MOST_WAITERS:
                table.add_row(store, name, f"{size:,}", *await axis(manager, size))
    await manager.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="number of locks (100000)")
    parser.add_argument("--store", default="sqlite,postgresql", help="separated by commas")
    arguments = parser.parse_args()
    table = Table(title="The cost of a lock against the number of others")
    for heading in ["store", "others", "number", "µs a pair", "CPU µs a pair", "µs for each waiter served"]:
        table.add_column(heading, justify="left" if heading in ("store", "others") else "right")
    sizes = [size for size in SIZES if size <= arguments.largest]
    for store in arguments.store.split(","):
        if store == "sqlite":
            with tempfile.TemporaryDirectory() as folder:
                asyncio.run(measure(table, store, f"sqlite:///{folder}/locks.db", sizes))
        else:
            server = PostgresServer()
            try:
                asyncio.run(measure(table, store, server.create_database("sizes"), sizes))
            finally:
                server.stop()
    Console().print(table)


if __name__ == "__main__":
    main()
