"""Ways to hold a lock in a block: a lease as a context manager, a decorator, a thread's block."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import re
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockLostError, LockTimeoutError
from arbitrageai_native.locks.leases import Lease
from tests.conftest import MakeManager

KEY = "bid:lock:m:p"


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# --- a lease ---


async def test_a_lease_is_released_at_the_end_of_its_block(manager: BidLockManager) -> None:
    async with await manager.acquire_lease("m", "p") as lease:
        assert lease.is_held
        assert await manager.try_lock("m", "p") is None
    assert not lease.is_held
    assert lease.loss is None
    if lease := await manager.try_lock("m", "p"):
        with pytest.raises(KeyError):
            async with lease:
                raise KeyError
        assert not lease.is_held
    one, two = await manager.lock_many([("m", "p"), ("m", "q")])
    async with one, two:
        assert one.is_held
        assert two.is_held
    assert (await manager.locks()).held == []


async def test_a_lease_that_is_not_held_begins_no_block(manager: BidLockManager) -> None:
    lease = await manager.acquire_lease("m", "p")
    async with lease:
        with pytest.raises(RuntimeError, match="block"):
            await lease.__aenter__()
        assert lease.is_held
    with pytest.raises(LockLostError, match="released"):
        async with lease:
            pytest.fail("the body ran without the lock")


@pytest.mark.parametrize("on_lost", ["raise", "cancel"])
async def test_the_block_of_a_lease_reports_its_loss(on_lost: str, make_manager: MakeManager) -> None:
    manager = make_manager(ttl=1, on_lost=on_lost)
    with pytest.raises(LockLostError):
        async with await manager.acquire_lease("m", "p") as lease:
            await manager.break_lock(KEY)
            if on_lost == "cancel":
                await asyncio.sleep(60)
    assert lease.loss is not None


async def test_the_block_of_a_lease_calls_back(make_manager: MakeManager) -> None:
    called: list[Lease] = []
    manager = make_manager(ttl=1, on_lost=called.append)
    async with await manager.acquire_lease("m", "p") as lease:
        await manager.break_lock(KEY)
        await until(lambda: called)
    assert called == [lease]


# --- a decorator ---


async def test_a_coroutine_function_holds_the_lock_during_each_call(manager: BidLockManager) -> None:
    @manager.with_lock("m", "p", timeout=20)
    async def place(posting: str, *, price: int = 1) -> str:
        """Place a bid."""
        assert await manager.try_lock("m", "p") is None
        await asyncio.sleep(0)
        return f"{posting} {price}"

    assert inspect.iscoroutinefunction(place)
    assert (place.__name__, place.__doc__) == ("place", "Place a bid.")
    assert await place("a", price=2) == "a 2"
    assert await asyncio.gather(*(place(name) for name in "bcd")) == ["b 1", "c 1", "d 1"]
    assert (await manager.locks()).held == []


async def test_a_function_holds_the_lock_during_each_call(manager: BidLockManager) -> None:
    @manager.with_lock_sync("m", "p", timeout=20)
    def place(posting: str) -> list[str]:
        return [posting, *(held.key for held in asyncio.run(manager.locks()).held)]

    for name in "ab":
        held = await asyncio.to_thread(place, name)
        assert held[0] == name
        assert len(held) == 2
    assert (await manager.locks()).held == []


def test_functions_of_the_wrong_kind_are_not_decorated() -> None:
    manager = BidLockManager(60, "sqlite://")

    def plain() -> None: ...

    async def asynchronous() -> None: ...

    with pytest.raises(TypeError, match="with_lock_sync"):
        manager.with_lock("m", "p")(plain)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="see with_lock"):
        manager.with_lock_sync("m", "p")(asynchronous)


# --- who holds a lock that was not acquired in time ---


async def with_lock(manager: BidLockManager, **times: Any) -> object:
    async with manager.with_lock("m", "p", **times):
        pass


async def with_lock_sync(manager: BidLockManager, **times: Any) -> object:
    def block() -> None:
        with manager.with_lock_sync("m", "p", **times):
            pass

    return await asyncio.to_thread(block)


WAYS: dict[str, Callable[..., Awaitable[object]]] = {
    "acquire_lock": lambda manager, **times: manager.acquire_lock("m", "p", raise_on_error=True, **times),
    "acquire_lease": lambda manager, **times: manager.acquire_lease("m", "p", **times),
    "lock_many": lambda manager, **times: manager.lock_many([("m", "o"), ("m", "p")], **times),
    "with_lock": with_lock,
    "with_lock_sync": with_lock_sync,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("timeout", [0, 0.3])
async def test_a_timeout_names_the_holder_and_since_when(
    way: str, timeout: float, make_manager: MakeManager
) -> None:
    holding, waiting = make_manager(), make_manager()
    lease = await holding.acquire_lease("m", "p", holder_id="scanner 7\n")
    with pytest.raises(LockTimeoutError) as raised:
        await WAYS[way](waiting, timeout=timeout)
    error = raised.value
    assert error.holder_id == "scanner 7\n"
    assert error.held_since == pytest.approx(lease.acquired_at, abs=0.1)
    since = time.strftime("%Y-%m-%d %H:%M", time.gmtime(error.held_since))
    assert re.fullmatch(
        rf"Failed to acquire lock for m:p within {timeout}(\.0)?s: it is held by 'scanner 7\\n' "
        rf"since {since}:\d\d UTC",
        str(error),
    )
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.holder_id, copy.held_since) == (str(error), error.holder_id, error.held_since)
    await lease.release()


def test_a_timeout_without_a_holder_is_made_as_before() -> None:
    error = LockTimeoutError("late")
    assert (str(error), error.holder_id, error.held_since) == ("late", None, None)


# --- losses in a thread ---


async def test_a_callable_is_called_in_a_threads_block_as_soon_as_the_loss_is_detected(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(ttl=1)
    called: list[tuple[Lease, threading.Thread]] = []
    told = threading.Event()

    def on_lost(lease: Lease) -> None:
        called.append((lease, threading.current_thread()))
        told.set()

    def block() -> threading.Thread:
        with manager.with_lock_sync("m", "p", on_lost=on_lost) as lease:
            asyncio.run(manager.break_lock(KEY))
            assert told.wait(20), "nobody was told before the end of the block"
            assert not lease.is_held
        assert [lost for lost, _ in called] == [lease]
        return threading.current_thread()

    in_block = await asyncio.to_thread(block)
    assert called[0][1] is not in_block
    assert (await manager.get_metrics_async())["lock_losses"] == 1


async def test_a_callable_of_a_threads_block_is_called_once_and_has_run_before_the_block_ends(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(ttl=1)
    finished: list[Lease] = []
    begun = threading.Event()

    def on_lost(lease: Lease) -> None:
        begun.set()
        time.sleep(0.2)  # longer than the release takes
        finished.append(lease)

    def block(take_away: bool) -> None:
        with manager.with_lock_sync("m", "p", on_lost=on_lost):
            if take_away:
                asyncio.run(manager.break_lock(KEY))
                assert begun.wait(20)
        assert len(finished) == take_away

    await asyncio.to_thread(block, False)
    await asyncio.to_thread(block, True)
    assert len(finished) == 1
