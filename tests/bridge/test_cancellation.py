"""Cancelling an awaitable at any moment drops the Rust work, or its result, and leaves nothing behind.

`Probe.guarded(seconds)` holds a guard while it runs, then gives it away as its result; `live_guards()`
counts them.
"""

import asyncio
import gc
import random
from typing import Any

import pytest

from arbitrageai_native._native import Probe
from testing_support.bridge import live_calls, live_guards, nothing_left, receive, run, wait_until
from testing_support.loops import LoopFactory


def drain() -> None:
    """Delivers what has ended, as the loop does when it is woken."""
    asyncio.get_running_loop()._arbitrageai_native_inbox.drain()


def test_cancelling_a_call_in_flight_drops_its_future(new_loop: LoopFactory) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(Probe.guarded(60))
        await asyncio.sleep(0)
        assert wait_until(lambda: live_guards() == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert nothing_left()

    run(new_loop, main())


def test_a_task_cancelled_before_its_first_step_starts_nothing(new_loop: LoopFactory) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(Probe.guarded(60))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert live_calls() == 0

    run(new_loop, main())


def test_an_awaitable_never_awaited_starts_nothing() -> None:
    awaitable = Probe.guarded(60)
    assert live_calls() == 0
    del awaitable
    assert live_guards() == 0


def test_a_result_that_ended_but_was_not_delivered_is_dropped(new_loop: LoopFactory) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(Probe.guarded(0))
        await asyncio.sleep(0)
        assert wait_until(lambda: live_calls() == 0), "the call ends while the loop is held up"
        assert live_guards() == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert live_guards() == 0

    run(new_loop, main())


def test_a_result_delivered_but_not_received_is_dropped(new_loop: LoopFactory) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(Probe.guarded(0))
        await asyncio.sleep(0)
        assert wait_until(lambda: live_calls() == 0)
        drain()  # the waiter is done, and the task about to resume
        assert not task.done()
        task.cancel()  # too late to cancel the waiter: the task is told at its next step
        with pytest.raises(asyncio.CancelledError):
            await task
        assert live_guards() == 0

    run(new_loop, main())


def test_a_result_of_a_finished_inner_task_is_dropped_with_the_task(new_loop: LoopFactory) -> None:
    async def main() -> None:
        inner = asyncio.ensure_future(Probe.guarded(0))
        await inner
        assert live_guards() == 1, "the inner task keeps what nobody has taken from it"
        del inner
        await asyncio.sleep(0)  # until then the callback that resumed this task holds it
        assert live_guards() == 0

    run(new_loop, main())


def test_closing_the_coroutine_around_an_await_drops_the_future(new_loop: LoopFactory) -> None:
    async def main() -> None:
        call = Probe.guarded(
            60
        )  # a reference: the future is dropped at once, not when the awaitable is freed
        coroutine = receive(call)
        coroutine.send(None)
        assert wait_until(lambda: live_guards() == 1)
        coroutine.close()
        assert nothing_left()
        del call

    run(new_loop, main())


@pytest.mark.filterwarnings("ignore:the .* signature of throw:DeprecationWarning")
@pytest.mark.parametrize(
    "thrown", [(ValueError("an instance"),), (ValueError,), (ValueError, "a type and a value")]
)
def test_any_exception_thrown_into_an_await_drops_the_future(
    new_loop: LoopFactory, thrown: tuple[Any, ...]
) -> None:
    async def main() -> None:
        call = Probe.guarded(60)
        coroutine = receive(call)
        coroutine.send(None)
        with pytest.raises(ValueError):
            coroutine.throw(*thrown)
        assert nothing_left()
        del call

    run(new_loop, main())


def test_a_timeout_around_an_await_drops_the_future(new_loop: LoopFactory) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(receive(Probe.guarded(60)), 0.05)
        assert nothing_left()

    run(new_loop, main())


def test_one_failing_call_of_a_group_cancels_the_others(new_loop: LoopFactory) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.02)
        raise LookupError

    async def main() -> None:
        calls = [asyncio.ensure_future(Probe.guarded(60)) for _ in range(10)]
        with pytest.raises(LookupError):
            await asyncio.gather(fail(), *calls)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert nothing_left()

    run(new_loop, main())


def test_ten_thousand_calls_half_of_them_cancelled_leave_nothing(new_loop: LoopFactory) -> None:
    chance = random.Random(20261123)

    async def main() -> None:
        tasks = [asyncio.ensure_future(Probe.guarded(chance.uniform(0, 0.3))) for _ in range(10_000)]
        loop = asyncio.get_running_loop()
        for task in chance.sample(tasks, 5_000):
            loop.call_later(chance.uniform(0, 0.3), task.cancel)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        received = [result for result in results if not isinstance(result, BaseException)]
        assert len(received) >= 5_000
        assert wait_until(lambda: live_calls() == 0)
        assert live_guards() == len(received), "a guard exists exactly where somebody received it"

    run(new_loop, main())
    gc.collect()
    assert nothing_left()
