"""Two scanners want to bid on one posting; the lock lets one do it at a time, and the second finds it done.

Run it as it is: the database is a temporary SQLite file.
"""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from arbitrageai_native import BidLockManager

bids: list[str] = []


async def scan(locks: BidLockManager, scanner: str) -> None:
    async with locks.with_lock("upwork", "~01b7c2e9", timeout=5, holder_id=scanner) as lease:
        if bids:
            print(f"{scanner}: {bids[0]} has bid already")
            return
        await asyncio.sleep(0.2)  # here a model is asked for a proposal
        bids.append(scanner)
        print(
            f"{scanner}: bid placed; the lock is held: {lease.is_held}, fencing token {lease.fencing_token}"
        )


async def main() -> None:
    with TemporaryDirectory() as folder:
        async with BidLockManager(ttl=30, database_url=f"sqlite:///{Path(folder) / 'locks.db'}") as locks:
            await asyncio.gather(scan(locks, "scanner-1"), scan(locks, "scanner-2"))
            metrics = locks.get_metrics()
            print(f"{metrics['lock_successes']} locks taken, {metrics['lock_conflicts']} found held")


if __name__ == "__main__":
    asyncio.run(main())
