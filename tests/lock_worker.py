"""A process that takes locks: `python -m tests.lock_worker KIND URL FOLDER ROUNDS TTL`.

It increments an unprotected counter under the lock: reads it, waits a little, writes it. The file gets a line
for each entry and each exit, so that two holders at one time would show.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path
from typing import Any


def make_manager(kind: str, url: str, ttl: float) -> Any:
    """One of this package's managers, or of the original's kind."""
    if kind == "polling":
        from tests.reference.polling_lock import PollingLockManager

        return PollingLockManager(url, ttl)
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

    return BidLockManager(ttl, url)


async def work(kind: str, url: str, folder: Path, rounds: int, ttl: float) -> None:
    """Increment the counter `rounds` times."""
    manager = make_manager(kind, url, ttl)
    counter = folder / "counter"
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    me = f"{kind}-{os.getpid()}"
    for _ in range(rounds):
        async with manager.with_lock("m", "counter", timeout=60, holder_id=me):
            os.write(log, f"enter {me}\n".encode())
            value = int(counter.read_text())
            await asyncio.sleep(random.random() * 0.003)
            counter.write_text(str(value + 1))
            os.write(log, f"leave {me}\n".encode())


if __name__ == "__main__":
    _kind, _url, _folder, _rounds, _ttl = sys.argv[1:]
    asyncio.run(work(_kind, _url, Path(_folder), int(_rounds), float(_ttl)))
