"""A process that takes locks: `python -m testing_support.lock_worker KIND URL FOLDER ROUNDS SECONDS TTL`.

It ends after so many rounds, or after so many seconds, whichever comes first. It increments an unprotected
counter under the lock: reads it, waits a little, writes it. The file `log` gets a line for each entry and
each exit, so that two holders at one time would show.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from pathlib import Path
from typing import Any


def make_manager(kind: str, url: str, ttl: float) -> Any:
    """Ours ("native"; "pooled": behind PgBouncer), or the original's ("polling")."""
    if kind == "polling":
        from testing_support.reference.polling_lock import old_manager

        return old_manager(url, ttl)
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

    return BidLockManager(ttl, url, statement_cache=kind != "pooled")


async def work(kind: str, url: str, folder: Path, rounds: int, seconds: float, ttl: float) -> None:
    """Increment the counter again and again."""
    manager = make_manager(kind, url, ttl)
    counter = folder / "counter"
    log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    me = f"{kind}-{os.getpid()}"
    end = time.monotonic() + seconds
    for _ in range(rounds):
        if time.monotonic() > end:
            break
        try:
            async with manager.with_lock("m", "counter", timeout=30, holder_id=me):
                os.write(log, f"enter {me}\n".encode())
                value = int(counter.read_text())
                await asyncio.sleep(random.random() * 0.003)
                counter.write_text(str(value + 1))
                os.write(log, f"leave {me}\n".encode())
        except TimeoutError:
            # Who asks only every 0.1 s may find it held each time, beside others who come at once.
            if kind != "polling":
                raise


if __name__ == "__main__":
    _kind, _url, _folder, _rounds, _seconds, _ttl = sys.argv[1:]
    asyncio.run(work(_kind, _url, Path(_folder), int(_rounds), float(_seconds), float(_ttl)))
