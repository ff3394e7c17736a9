"""Who wants a lock is cancelled, at any moment; `benchmarks/lock_cancellation.py` is the long form."""

from __future__ import annotations

import asyncio
import random

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

_TOGETHER = 40
_KEYS = 5


async def _hold_a_block(manager: BidLockManager, posting: str) -> None:
    async with manager.with_lock("m", posting, timeout=30):
        await asyncio.sleep(0)


async def _hold_a_lease(manager: BidLockManager, posting: str) -> None:
    lease = await manager.acquire_lease("m", posting, timeout=30)
    await lease.release()


async def _hold_plainly(manager: BidLockManager, posting: str) -> None:
    holder = f"holder {random.random()}"
    if await manager.acquire_lock("m", posting, timeout=30, holder_id=holder):
        # Not to be interrupted between the two: whoever has a plain lock releases it by name.
        await asyncio.shield(manager.release_lock("m", posting, holder_id=holder))


_WAYS = (_hold_a_block, _hold_a_lease, _hold_plainly)


async def cancel_at_random(manager: BidLockManager, times: int) -> None:
    """Cancel so many who want one of a few locks, have one, or are about to give it back."""
    tasks: list[asyncio.Task[None]] = []
    cancelled = 0
    while cancelled < times:
        while len(tasks) < _TOGETHER:
            tasks.append(asyncio.create_task(random.choice(_WAYS)(manager, str(random.randrange(_KEYS)))))
        await asyncio.sleep(random.random() * 0.001)
        cancelled += random.choice(tasks).cancel()
        _raise_failures(tasks)
        tasks = [task for task in tasks if not task.done()]
    await asyncio.wait(tasks)
    _raise_failures(tasks)


def _raise_failures(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()
