"""A waiter waits for the whole of its `timeout`, and no longer, on every kind of database."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockTimeoutError
from arbitrageai_native.locks.leases import Lease
from testing_support.machine import Stopwatch
from tests.conftest import MakeManager

Take = Callable[..., Awaitable[bool]]


async def by_acquire_lock(manager: BidLockManager, timeout: float, posting: str = "p") -> bool:
    """Return True if the manager acquired the lock."""
    return await manager.acquire_lock("m", posting, timeout=timeout)


async def by_with_lock(manager: BidLockManager, timeout: float, posting: str = "p") -> bool:
    """Return True if the manager acquired the lock."""
    async with manager.with_lock("m", posting, timeout=timeout):
        return True


async def by_acquire_lease(manager: BidLockManager, timeout: float, posting: str = "p") -> bool:
    """Return True if the manager acquired the lock."""
    return await (await manager.acquire_lease("m", posting, timeout=timeout)).release()


async def by_lock_many(manager: BidLockManager, timeout: float, posting: str = "p") -> bool:
    """Return True if the manager acquired the lock."""
    for lease in await manager.lock_many([("m", posting)], timeout=timeout):
        await lease.release()
    return True


async def by_with_lock_sync(manager: BidLockManager, timeout: float, posting: str = "p") -> bool:
    """Acquire in a thread; return whether the manager acquired the lock."""

    def take() -> bool:
        with manager.with_lock_sync("m", posting, timeout=timeout):
            return True

    return await asyncio.to_thread(take)


WAYS_IN: list[Take] = [by_acquire_lock, by_with_lock, by_acquire_lease, by_lock_many, by_with_lock_sync]


async def waited(take: Take, manager: BidLockManager, timeout: float) -> float:
    """Return the number of seconds until the acquisition gave up."""
    started = time.monotonic()
    with contextlib.suppress(LockTimeoutError):
        assert not await take(manager, timeout)
    return time.monotonic() - started


def assert_waited_in_full(waits: list[float], timeout: float, watch: Stopwatch) -> None:
    """Assert that every wait ended within one second after its timeout, plus the delay of a busy machine."""
    assert min(waits) >= timeout, waits
    assert max(waits) < timeout + 3 + watch.held_up, waits


def start_all(timeout: float, *managers: BidLockManager) -> list[asyncio.Task[float]]:
    """Start one waiter for each acquiring method and each manager."""
    return [asyncio.create_task(waited(take, manager, timeout)) for manager in managers for take in WAYS_IN]


async def test_nobody_gives_up_while_a_lock_is_kept_beyond_its_first_end(make_manager: MakeManager) -> None:
    holder, other = make_manager(ttl=1.5), make_manager(ttl=1.5)  # a busy machine may hold a renewal up
    watch = Stopwatch()
    async with holder.with_lock("m", "p") as lease:
        assert_waited_in_full(await asyncio.gather(*start_all(2, holder, other)), 2, watch)
        assert lease.is_held


async def test_who_waits_second_waits_on_when_the_first_gets_a_lock_that_was_never_released(
    make_manager: MakeManager,
) -> None:
    holder, other = make_manager(ttl=0.4), make_manager(ttl=300)
    assert await holder.acquire_lock("m", "p", holder_id="forgot it")
    first = asyncio.create_task(other.acquire_lock("m", "p", timeout=30, holder_id="first"))
    await asyncio.sleep(0)
    watch = Stopwatch()
    rest = start_all(0.7, holder, other)
    assert await first
    assert_waited_in_full(await asyncio.gather(*rest), 0.7, watch)


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


class StuckLoop:
    """A loop in a thread of its own, where one waits by each way in, and which is then held up or closed.

    The postings are called after what becomes of the lock, and numbered.
    """

    LIMIT = 0.5

    def __init__(self, manager: BidLockManager, *fates: str) -> None:
        self._manager = manager
        self._loop = asyncio.new_event_loop()
        self._tasks: list[asyncio.Task[bool]] = []
        self._stuck, self._goes_on = threading.Event(), threading.Event()
        self.postings = [f"{fate} {number}" for fate in fates for number in range(4)]

    async def _takes(self, posting: str) -> bool:
        take = WAYS_IN[int(posting[-1])]
        with contextlib.suppress(LockTimeoutError):
            return await take(self._manager, self.LIMIT, posting)
        return False

    async def _begin(self) -> None:
        for posting in self.postings:
            self._tasks.append(self._loop.create_task(self._takes(posting)))
            await asyncio.sleep(0.02)

    async def _outcomes(self) -> list[bool]:
        await self._begin()
        self._stuck.set()
        self._goes_on.wait(60)
        return await asyncio.gather(*self._tasks)

    async def held_up(self) -> asyncio.Task[list[bool]]:
        """Begin, and hold the loop up; the outcomes, after `go_on`."""
        outcomes = asyncio.to_thread(self._loop.run_until_complete, self._outcomes())
        running = asyncio.create_task(outcomes)
        await asyncio.to_thread(self._stuck.wait, 60)
        return running

    def go_on(self) -> None:
        """Let the loop run again."""
        self._goes_on.set()

    async def closed(self) -> None:
        """Begin, and close the loop, while this keeps the tasks."""
        await asyncio.to_thread(self._loop.run_until_complete, self._begin())
        self.close()

    def close(self) -> None:
        """Say nothing of tasks that are pending."""
        self._loop.set_exception_handler(lambda *_: None)
        self._loop.close()


async def assert_next_are_served(
    manager: BidLockManager, stuck: StuckLoop, soon: list[Lease], late: list[Lease]
) -> None:
    """Release locks while the others' time runs, and when it is over."""
    served = [
        asyncio.create_task(manager.acquire_lock("m", posting, timeout=12, holder_id="next"))
        for posting in stuck.postings
    ]
    for lease in soon:
        assert await lease.release()
    await asyncio.sleep(stuck.LIMIT + 0.2)
    for lease in late:
        assert await lease.release()
    assert all(await asyncio.gather(*served))


async def assert_only_the_next_hold(manager: BidLockManager, stuck: StuckLoop) -> None:
    """In the table, too."""
    overview = await manager.locks()
    assert not overview.waiting
    assert {lock.holder_id for lock in overview.held} == {"next"}
    assert len(overview.held) == len(stuck.postings)


async def test_who_waits_on_a_loop_that_is_held_up_is_in_nobodys_way_after_its_time(
    make_manager: MakeManager,
) -> None:
    manager = make_manager()
    stuck = StuckLoop(manager, "soon", "late")
    soon = await manager.lock_many([("m", posting) for posting in stuck.postings[:4]])
    late = await manager.lock_many([("m", posting) for posting in stuck.postings[4:]])
    outcomes = await stuck.held_up()
    try:
        await assert_next_are_served(manager, stuck, soon, late)
        await assert_only_the_next_hold(manager, stuck)
    finally:
        stuck.go_on()
    assert await outcomes == [False] * 8
    await assert_only_the_next_hold(manager, stuck)
    stuck.close()


async def test_who_waited_on_a_loop_that_is_closed_is_in_nobodys_way_after_its_time(
    make_manager: MakeManager,
) -> None:
    manager = make_manager()
    stuck = StuckLoop(manager, "soon", "late")
    soon = await manager.lock_many([("m", posting) for posting in stuck.postings[:4]])
    late = await manager.lock_many([("m", posting) for posting in stuck.postings[4:]])
    await stuck.closed()
    await assert_next_are_served(manager, stuck, soon, late)
    await assert_only_the_next_hold(manager, stuck)
