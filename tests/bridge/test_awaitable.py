"""The awaitable is one class, whoever does the work behind it: a worker, the loop's own thread, or nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from arbitrageai_native._native import Awaitable, LockManager, Probe, turn
from testing_support.bridge import receive, run
from tests.conftest import LoopFactory


def release() -> Awaitable[bool]:
    return LockManager.private_memory(903).release("m", "nobody has it", "h")


MAKERS = [Probe.noop, release, turn]
Maker = Callable[[], Any]


@pytest.mark.parametrize("make", MAKERS)
def test_it_can_be_awaited_once(new_loop: LoopFactory, make: Maker) -> None:
    async def main() -> None:
        call = make()
        assert type(call) is Awaitable, "one class, whatever is behind it"
        await call
        with pytest.raises(RuntimeError, match="awaited already"):
            await call

    run(new_loop, main())


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("started", [False, True], ids=["not started", "started"])
def test_closed_it_cannot_be_awaited(new_loop: LoopFactory, make: Maker, started: bool) -> None:
    async def main() -> None:
        call = make()
        if started:
            receive_it = receive(call)
            try:
                receive_it.send(None)
            except StopIteration:  # a turn, or a release that was known to have nothing to do
                return
            receive_it.close()
        else:
            call.close()
        with pytest.raises(RuntimeError, match="awaited already"):
            await call

    run(new_loop, main())


@pytest.mark.parametrize("make", MAKERS)
def test_an_exception_that_is_thrown_into_it_ends_it(new_loop: LoopFactory, make: Maker) -> None:
    async def main() -> None:
        call = make()
        with pytest.raises(LookupError, match="thrown"):
            call.throw(LookupError("thrown"))
        with pytest.raises(RuntimeError, match="awaited already"):
            await call

    run(new_loop, main())


@pytest.mark.parametrize("make", [Probe.noop, turn])  # a message may have come already: that needs no loop
def test_without_an_asyncio_loop_it_says_so(make: Maker) -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        receive(make()).send(None)


def test_resumed_without_its_result_it_says_so_and_can_go_on(new_loop: LoopFactory) -> None:
    async def main() -> None:
        call = Probe.guarded(0.05)
        waiter = next(call)
        with pytest.raises(RuntimeError, match="asyncio task"):
            next(call)
        waiter._asyncio_future_blocking = False  # type: ignore[attr-defined]
        await waiter
        with pytest.raises(StopIteration):
            next(call)

    run(new_loop, main())


def test_a_message_that_comes_later_resumes_whoever_waits() -> None:
    async def main() -> None:
        manager = LockManager.private_memory(904)
        grant = await manager.acquire("m", "p", holder_id="one", ttl=30.0, timeout=1.0)
        waiting = asyncio.ensure_future(manager.acquire("m", "p", holder_id="two", ttl=30.0, timeout=5.0))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        del grant  # not kept: released
        (await waiting).keep()
        assert await manager.clear() == 1

    asyncio.run(main())
