"""A process that does what its standard input says: `python -m testing_support.clock_worker URL`."""

from __future__ import annotations

import asyncio
import sys
import time

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.locks.leases import Lease


async def obey(url: str) -> None:
    """Carry out each line, and answer it with a line."""
    lease: Lease | None = None
    async with BidLockManager(300, url) as manager:
        while line := await asyncio.to_thread(sys.stdin.readline):
            match line.split():
                case ["hold", ttl]:
                    manager.ttl = float(ttl)
                    lease = await manager.acquire_lease("m", "p", timeout=30)
                    print("held", flush=True)
                case ["wait", timeout]:
                    started = time.monotonic()
                    acquired = await manager.acquire_lock("m", "p", timeout=float(timeout))
                    print(time.monotonic() - started if not acquired else "acquired", flush=True)
                case ["look"]:
                    print("held" if lease is not None and lease.is_held else "not held", flush=True)
                case ["time"]:
                    print(time.time(), flush=True)


if __name__ == "__main__":
    asyncio.run(obey(sys.argv[1]))
