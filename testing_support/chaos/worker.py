"""A process that takes the lock until it is killed: `python -m testing_support.chaos.worker URL FOLDER TTL`.

Some in it want the lock at a time, so that it goes from hand to hand in the process, and between processes.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sys
import time
from pathlib import Path

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockError
from arbitrageai_native.locks.leases import Lease

from .history import Notes
from .register import Register

LONGEST_HOLD = 0.03
"""Seconds."""
TOGETHER = 3
"""So many in a process want the lock."""
RENEWED = 0.01
"""The share of holds that last longer than the time to live, and are renewed meanwhile."""


def look(notes: Notes, hold: str, lease: Lease) -> bool:
    """Whether the lease says that it is held; noted with a time before the question."""
    now, expires_at = time.time(), lease.expires_at
    held = lease.is_held
    if held:
        notes.note(hold, believed=now, expires_at=expires_at)
    return held


async def visit(notes: Notes, register: Register, hold: str, lease: Lease, ttl: float) -> None:
    """Increment the number behind the fence, without haste."""
    value = register.enter(lease.fencing_token)
    end = time.monotonic() + random.random() * LONGEST_HOLD
    if random.random() < RENEWED:
        end += 1.2 * ttl
    while (left := end - time.monotonic()) > 0:
        if not look(notes, hold, lease):
            break
        await asyncio.sleep(min(0.1, left))
    # Whatever the lease says now: a holder may be stopped after its last look as well.
    if value is not None:
        register.write(lease.fencing_token, value + 1)


async def work(url: str, folder: Path, ttl: float) -> None:
    """Want the lock, together; for ever."""
    manager = BidLockManager(ttl, url)
    notes, register = Notes(folder, str(os.getpid())), Register(folder, os.getpid())
    await asyncio.gather(
        *(take(manager, notes, register, f"{os.getpid()}-{n}", ttl) for n in range(TOGETHER))
    )


async def take(manager: BidLockManager, notes: Notes, register: Register, worker: str, ttl: float) -> None:
    """Take the lock, visit, release; for ever."""
    for number in itertools.count():
        hold = f"{worker}-{number}"
        notes.moment(hold, "asked")
        try:
            lease = await manager.acquire_lease("m", "chaos", timeout=30, holder_id=worker)
        except LockError:
            continue
        facts = {
            "token": lease.fencing_token,
            "acquired_at": lease.acquired_at,
            "expires_at": lease.expires_at,
        }
        notes.moment(hold, "answered", **facts)
        await visit(notes, register, hold, lease, ttl)
        if lease.loss is not None:
            notes.note(hold, loss=lease.loss)
        notes.moment(hold, "releasing")
        try:
            was_ours = await lease.release()
        except LockError:
            continue
        notes.moment(hold, "released", was_ours=was_ours)


if __name__ == "__main__":
    _url, _folder, _ttl = sys.argv[1:]
    asyncio.run(work(_url, Path(_folder), float(_ttl)))
