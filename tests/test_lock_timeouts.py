"""A waiter waits for the whole of its `timeout`, and no longer, on every kind of database."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockTimeoutError

from .lock_fixtures import MakeManager

Take = Callable[[BidLockManager, float], Awaitable[bool]]


async def by_acquire_lock(manager: BidLockManager, timeout: float) -> bool:
    """Return True if the manager acquired the lock."""
    return await manager.acquire_lock("m", "p", timeout=timeout)


async def by_with_lock(manager: BidLockManager, timeout: float) -> bool:
    """Return True if the manager acquired the lock."""
    async with manager.with_lock("m", "p", timeout=timeout):
        return True


async def by_acquire_lease(manager: BidLockManager, timeout: float) -> bool:
    """Return True if the manager acquired the lock."""
    return await (await manager.acquire_lease("m", "p", timeout=timeout)).release()


async def by_lock_many(manager: BidLockManager, timeout: float) -> bool:
    """Return True if the manager acquired the lock."""
    for lease in await manager.lock_many([("m", "p")], timeout=timeout):
        await lease.release()
    return True


async def by_with_lock_sync(manager: BidLockManager, timeout: float) -> bool:
    """Acquire in a thread; return whether the manager acquired the lock."""

    def take() -> bool:
        with manager.with_lock_sync("m", "p", timeout=timeout):
            return True

    return await asyncio.to_thread(take)


WAYS_IN: list[Take] = [by_acquire_lock, by_with_lock, by_acquire_lease, by_lock_many, by_with_lock_sync]


async def waited(take: Take, manager: BidLockManager, timeout: float) -> float:
    """Return the number of seconds until the acquisition gave up."""
    started = time.monotonic()
    with contextlib.suppress(LockTimeoutError):
        assert not await take(manager, timeout)
    return time.monotonic() - started


def assert_waited_in_full(waits: list[float], timeout: float) -> None:
    """Assert that every wait ended within one second after its timeout, plus the delay of a busy machine."""
    assert min(waits) >= timeout, waits
    assert max(waits) < timeout + 3, waits


def start_all(timeout: float, *managers: BidLockManager) -> list[asyncio.Task[float]]:
    """Start one waiter for each acquiring method and each manager."""
    return [asyncio.create_task(waited(take, manager, timeout)) for manager in managers for take in WAYS_IN]


async def test_nobody_gives_up_while_a_lock_is_kept_beyond_its_first_end(make_manager: MakeManager) -> None:
    holder, other = make_manager(ttl=0.5), make_manager(ttl=0.5)
    async with holder.with_lock("m", "p") as lease:
        waiting = start_all(0.8, holder, other)
        await asyncio.sleep(0.65)
        assert len((await holder.locks()).waiting) == len(waiting)
        assert_waited_in_full(await asyncio.gather(*waiting), 0.8)
        assert lease.is_held


async def test_who_waits_second_waits_on_when_the_first_gets_a_lock_that_was_never_released(
    make_manager: MakeManager,
) -> None:
    holder, other = make_manager(ttl=0.4), make_manager(ttl=300)
    assert await holder.acquire_lock("m", "p", holder_id="forgot it")
    first = asyncio.create_task(other.acquire_lock("m", "p", timeout=30, holder_id="first"))
    await asyncio.sleep(0)
    rest = start_all(0.7, holder, other)
    assert await first
    assert_waited_in_full(await asyncio.gather(*rest), 0.7)


async def test_all_who_wait_for_locks_that_are_never_released_get_them_in_turn(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(ttl=0.2)
    assert await manager.acquire_lock("m", "p", holder_id="forgot it")
    started = time.monotonic()
    waiting = [
        asyncio.create_task(manager.acquire_lock("m", "p", timeout=30, holder_id=f"w{number}"))
        for number in range(3)
    ]
    assert all(await asyncio.gather(*waiting))
    assert time.monotonic() - started >= 0.55  # each holder keeps the lock for its `ttl`
