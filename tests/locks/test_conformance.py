"""What locks do, on every kind of database."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockLostError, LockTimeoutError
from arbitrageai_native.locks.leases import Lease
from testing_support.lock_cancellation import cancel_at_random
from testing_support.machine import Stopwatch
from testing_support.waiting import until_waiting
from tests.conftest import MakeManager


async def held_keys(manager: BidLockManager) -> list[str]:
    """The keys in the table."""
    return [lock.key for lock in (await manager.locks()).held]


async def until_empty(manager: BidLockManager) -> None:
    """Waits until what runs in the background has released everything."""
    deadline = time.monotonic() + 20
    while await held_keys(manager):
        assert time.monotonic() < deadline


async def test_a_lock_excludes_until_released(manager: BidLockManager) -> None:
    assert await manager.acquire_lock("m", "p", holder_id="one")
    started = time.monotonic()
    assert not await manager.acquire_lock("m", "p", timeout=0.2, holder_id="two")
    assert time.monotonic() - started >= 0.2
    assert await manager.acquire_lock("m", "other", timeout=0)
    assert await manager.release_lock("m", "p", holder_id="one")
    assert await manager.acquire_lock("m", "p", timeout=0, holder_id="two")


async def test_a_lock_is_not_reentrant(manager: BidLockManager) -> None:
    assert await manager.acquire_lock("m", "p")
    assert not await manager.acquire_lock("m", "p", timeout=0.05)


async def test_only_its_holder_releases(manager: BidLockManager, caplog: pytest.LogCaptureFixture) -> None:
    assert await manager.acquire_lock("m", "p", holder_id="one")
    with caplog.at_level(logging.WARNING):
        assert not await manager.release_lock("m", "p", holder_id="two")
        assert not await manager.release_lock("m", "missing", holder_id="two")
    assert len(caplog.records) == 2
    assert await manager.release_lock("m", "p", holder_id="one")
    assert not await manager.release_lock("m", "p", holder_id="one")


async def test_an_expired_lock_is_taken_over_at_once(make_manager: MakeManager) -> None:
    manager = make_manager(ttl=0.4)
    assert await manager.acquire_lock("m", "p")
    watch = Stopwatch()
    assert await manager.acquire_lock("m", "p", timeout=10)
    assert 0.35 <= watch.seconds < 5 + watch.held_up


async def test_ttl_may_be_assigned(make_manager: MakeManager) -> None:
    manager = make_manager(ttl=300)
    manager.ttl = 0.2
    assert await manager.acquire_lock("m", "p")
    assert await manager.acquire_lock("m", "p", timeout=5)


async def test_the_block_holds_and_releases(manager: BidLockManager) -> None:
    class BodyError(Exception):
        pass

    with pytest.raises(BodyError):
        async with manager.with_lock("m", "p") as lease:
            assert lease.key == BidLockManager._make_lock_key("m", "p") == "bid:lock:m:p"
            assert lease.is_held
            assert 299 < lease.remaining <= 300
            # The time of acquisition is that of the answer, which is a moment later than the row's.
            assert lease.expires_at - lease.acquired_at == pytest.approx(300, abs=0.1)
            held = "^Failed to acquire lock for m:p within 0.1s: it is held by 'default' since [-:0-9 ]+ UTC$"
            with pytest.raises(TimeoutError, match=held):
                async with manager.with_lock("m", "p", timeout=0.1):
                    pass
            raise BodyError
    assert not lease.is_held
    assert await held_keys(manager) == []


async def test_a_block_keeps_its_lock_beyond_the_ttl(make_manager: MakeManager) -> None:
    manager = make_manager(ttl=1.5)  # a busy machine may hold a renewal up for a second
    async with manager.with_lock("m", "p") as lease:
        assert not await manager.acquire_lock("m", "p", timeout=2.5)
        assert lease.is_held
    assert (await manager.get_metrics_async())["lock_renewals"] >= 2


async def test_without_renewal_a_block_loses_its_lock(make_manager: MakeManager) -> None:
    manager = make_manager(ttl=0.3, on_lost="raise")
    with pytest.raises(LockLostError):
        async with manager.with_lock("m", "p", auto_renew=False) as lease:
            assert await manager.acquire_lock("m", "p", timeout=5, holder_id="other")
            assert not lease.is_held
    assert len(await held_keys(manager)) == 1


async def test_max_hold_ends_renewal(make_manager: MakeManager) -> None:
    manager = make_manager(ttl=1.5, max_hold=1.7)
    lease = await manager.acquire_lease("m", "p")
    reason = await asyncio.wait_for(lease.lost(), 10)
    assert reason is not None
    assert "max_hold" in reason
    assert await manager.acquire_lock("m", "p", timeout=5)


async def test_a_loss_cancels_the_body_when_asked_to(make_manager: MakeManager) -> None:
    manager = make_manager(ttl=0.3, on_lost="cancel")
    with pytest.raises(LockLostError):
        async with manager.with_lock("m", "p"):
            await manager.cleanup_all()
            await asyncio.sleep(30)
    await asyncio.sleep(0)  # the task goes on: no cancellation is left over


async def test_a_loss_calls_back(make_manager: MakeManager) -> None:
    lost: list[str] = []
    manager = make_manager(ttl=0.3, on_lost=lambda lease: lost.append(lease.key))
    async with manager.with_lock("m", "p") as lease:
        await manager.cleanup_all()
        await asyncio.wait_for(lease.lost(), 10)
        await asyncio.sleep(0.01)
    assert lost == ["bid:lock:m:p"]


async def test_renewal_never_revives(make_manager: MakeManager) -> None:
    manager = make_manager(auto_renew=False)
    lease = await manager.acquire_lease("m", "p")
    await manager.cleanup_all()
    assert await manager.acquire_lock("m", "p", holder_id="successor")
    with pytest.raises(LockLostError):
        await lease.renew()
    assert not await lease.release()
    assert [lock.holder_id for lock in (await manager.locks()).held] == ["successor"]


async def test_renewal_moves_the_expiry(make_manager: MakeManager) -> None:
    manager = make_manager(ttl=5, auto_renew=False)
    lease = await manager.acquire_lease("m", "p")
    assert await lease.renew(100) == lease.expires_at
    assert lease.remaining > 90
    await lease.renew(1)
    assert lease.remaining <= 1
    assert await lease.release()


async def test_tokens_grow_over_holders_and_clean_ups(make_manager: MakeManager) -> None:
    tokens = []
    for turn in range(20):
        manager = make_manager(ttl=0.05 if turn % 5 == 0 else 300)
        lease = await manager.acquire_lease("m", "p", auto_renew=False)
        tokens.append(lease.fencing_token)
        if turn % 3 == 0:
            await manager.cleanup_all()
        elif turn % 5 != 0:
            await lease.release()
    assert tokens == sorted(set(tokens))


async def test_a_dropped_lease_releases(manager: BidLockManager) -> None:
    lease = await manager.acquire_lease("m", "p")
    with pytest.warns(ResourceWarning):
        del lease
    assert await manager.acquire_lock("m", "p", timeout=5)


async def test_try_lock(manager: BidLockManager) -> None:
    lease = await manager.try_lock("m", "p")
    assert lease is not None
    assert await manager.try_lock("m", "p") is None
    assert await lease.release()


async def test_many_locks_all_or_none(manager: BidLockManager) -> None:
    names = [("m", "b"), ("m", "a"), ("m", "c")]
    leases = await manager.lock_many(names)
    assert [lease.key for lease in leases] == ["bid:lock:m:b", "bid:lock:m:a", "bid:lock:m:c"]
    await leases[0].release()
    with pytest.raises(LockTimeoutError):
        await manager.lock_many(names, timeout=0.1)
    assert await manager.acquire_lock("m", "b", timeout=5)
    with pytest.raises(ValueError, match="twice"):
        await manager.lock_many([("m", "a"), ("m", "a")])
    for lease in leases[1:]:
        assert await lease.release()


async def test_opposite_orders_do_not_deadlock(manager: BidLockManager) -> None:
    names = [("m", str(number)) for number in range(5)]

    async def work(order: list[tuple[str, str]]) -> None:
        for _ in range(10):
            for lease in await manager.lock_many(order, timeout=30):
                await lease.release()

    await asyncio.gather(work(names), work(names[::-1]), work(names[2:] + names[:2]))


async def test_threads_hold_locks_too(manager: BidLockManager) -> None:
    def in_a_thread() -> bool:
        with manager.with_lock_sync("m", "p", timeout=5) as lease:
            lease.renew_sync()
            with pytest.raises(TimeoutError), manager.with_lock_sync("m", "p", timeout=0):
                pass
            return lease.is_held

    assert await asyncio.to_thread(in_a_thread)
    assert await held_keys(manager) == []


async def test_waiters_are_served_in_order(manager: BidLockManager) -> None:
    order: list[int] = []

    async def wait(turn: int) -> None:
        async with manager.with_lock("m", "p", timeout=60):
            order.append(turn)
            await asyncio.sleep(0.005)

    async with manager.with_lock("m", "p"):
        waiters = []
        for turn in range(20):
            waiters.append(asyncio.create_task(wait(turn)))
            await asyncio.sleep(0)
        await until_waiting(manager, 20)
    await asyncio.gather(*waiters)
    assert order == list(range(20))


async def test_the_counters_are_the_originals(make_manager: MakeManager) -> None:
    manager = make_manager()
    assert await manager.acquire_lock("m", "p")
    assert not await manager.acquire_lock("m", "p", timeout=0.4)
    assert not await manager.acquire_lock("m", "p", timeout=0)
    expected = {
        "lock_attempts": 3,
        "lock_successes": 1,
        "lock_conflicts": 2,
        "lock_timeouts": 2,
        "active_locks": 1,
    }
    assert manager.get_metrics() == expected
    assert expected.items() <= (await manager.get_metrics_async()).items()
    assert manager._lock_attempts == 3
    assert (manager._lock_successes, manager._lock_conflicts, manager._lock_timeouts) == (1, 2, 2)


async def test_who_holds_what(make_manager: MakeManager) -> None:
    manager = make_manager(ttl=60)
    await manager.acquire_lock("m", "p", holder_id="one")
    (lock,) = (await manager.locks()).held
    assert (lock.key, lock.holder_id, lock.is_expired) == ("bid:lock:m:p", "one", False)
    assert lock.expires_at - lock.acquired_at == pytest.approx(60)
    assert 55 < lock.remaining <= 60
    assert await manager.break_lock("bid:lock:m:p")
    assert not await manager.break_lock("bid:lock:m:p")


async def test_closing_releases_what_is_held(make_manager: MakeManager) -> None:
    manager, other = make_manager(), make_manager()
    await manager.acquire_lock("m", "p")
    await other.acquire_lock("m", "q")
    await manager.aclose()
    assert await held_keys(other) == ["bid:lock:m:q"]
    assert await manager.acquire_lock("m", "p")  # a closed manager opens again


@pytest.mark.parametrize("identifier", ["ü" * 1000, "quote ' and \" and \\", "percent %s %(x)s", "a:b"])
async def test_any_text_is_an_identifier(manager: BidLockManager, identifier: str) -> None:
    posting = identifier[:300]  # an index holds 2,692 bytes
    async with manager.with_lock(identifier, posting, holder_id=identifier):
        (lock,) = (await manager.locks()).held
        assert (lock.key, lock.holder_id) == (f"bid:lock:{identifier}:{posting}", identifier)


async def test_cancelled_acquisitions_leave_nothing(manager: BidLockManager) -> None:
    await cancel_at_random(manager, 300)
    await until_empty(manager)
    assert (await manager.locks()).waiting == []


def delivered(task: asyncio.Task[object]) -> bool:
    """Whether what the task waits for has come, and the task has not run since."""
    waiter = task._fut_waiter  # type: ignore[attr-defined]
    return waiter is not None and waiter.done()


async def cancel_when_delivered(
    task: asyncio.Task[object], too_late: Callable[[], bool] = lambda: False
) -> bool:
    """Cancels a task between its result's arrival and its next step. False if it did not wait."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def look() -> None:
        if task.done() or too_late():
            done.set_result(False)
        elif delivered(task):
            task.cancel()
            done.set_result(True)
        else:
            loop.call_soon(look)

    look()
    if not await done:
        await task
        return False
    with pytest.raises(asyncio.CancelledError):
        await task
    return True


@pytest.mark.parametrize("method", ["acquire_lock", "acquire_lease", "try_lock"])
async def test_a_result_that_is_never_received_is_released(manager: BidLockManager, method: str) -> None:
    cancelled = 0
    while cancelled < 20:
        acquiring = asyncio.create_task(getattr(manager, method)("m", "p"))
        if await cancel_when_delivered(acquiring):
            cancelled += 1
        else:
            await manager.cleanup_all()
            if isinstance(received := acquiring.result(), Lease):
                await received.release()
    await until_empty(manager)


async def test_cancelled_between_entry_and_body(manager: BidLockManager) -> None:
    entered = cancelled = 0

    async def work() -> None:
        nonlocal entered
        async with manager.with_lock("m", "p"):
            entered += 1

    while cancelled < 20:
        before = entered
        if await cancel_when_delivered(asyncio.create_task(work()), lambda: entered > before):  # noqa: B023
            assert entered == before
            cancelled += 1
    await until_empty(manager)


async def test_a_cancelled_release_still_releases(manager: BidLockManager) -> None:
    for moment in range(3):
        assert await manager.acquire_lock("m", "p", timeout=10)
        task = asyncio.create_task(manager.release_lock("m", "p"))
        for _ in range(moment + 1):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await until_empty(manager)


async def test_a_cancelled_body_releases(manager: BidLockManager) -> None:
    async def work() -> None:
        async with manager.with_lock("m", "p"):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    while not await held_keys(manager):
        assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_empty(manager)


def test_the_methods_are_coroutine_functions() -> None:
    for name in ["acquire_lock", "release_lock", "cleanup_all", "try_lock", "acquire_lease", "lock_many"]:
        assert inspect.iscoroutinefunction(getattr(BidLockManager, name))


def test_a_manager_outlives_its_loop(make_manager: MakeManager) -> None:
    manager = make_manager()
    assert asyncio.run(manager.acquire_lock("m", "p"))
    assert asyncio.run(manager.release_lock("m", "p"))


async def test_many_waiters_all_are_served_or_time_out_on_time(make_manager: MakeManager) -> None:
    manager = make_manager(max_connections=5)
    watch = Stopwatch()
    late: list[float] = []

    async def wait() -> bool:
        got = await manager.acquire_lock("m", "p", timeout=3, holder_id="waiter")
        if got:
            await manager.release_lock("m", "p", holder_id="waiter")
        else:
            late.append(watch.seconds)
        return got

    assert await manager.acquire_lock("m", "p")
    waiters = asyncio.gather(*(wait() for _ in range(500)))
    await asyncio.sleep(0.3)
    await manager.release_lock("m", "p")
    results = await waiters
    # 100 and more in the 2.7 seconds of a machine that does nothing else, even in a debug build.
    assert sum(results) > (100 if watch.held_up < 0.5 else 10)
    assert all(3 <= moment < 5 + watch.held_up for moment in late)
