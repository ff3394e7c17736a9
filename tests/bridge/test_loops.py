"""Event loops come and go; the runtime and what it holds belong to none of them."""

import asyncio
import contextvars
import gc
import logging
import sys
import threading
import time
import weakref

import pytest

from arbitrageai_native._native import Probe
from testing_support.bridge import live_calls, nothing_left, open_descriptors, receive, run, wait_until
from testing_support.loops import LoopFactory, LoopWithoutReaders


def test_loops_one_after_another(new_loop: LoopFactory) -> None:
    for _ in range(3):
        assert run(new_loop, receive(Probe.noop())) is None


def test_loops_in_several_threads_at_once(new_loop: LoopFactory) -> None:
    results: list[object] = []

    async def many() -> None:
        results.extend(await asyncio.gather(*(Probe.noop() for _ in range(500))))

    threads = [threading.Thread(target=run, args=(new_loop, many())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [None] * 2_000


def test_a_closed_loop_and_its_descriptors_are_freed(new_loop: LoopFactory) -> None:
    run(new_loop, receive(Probe.noop()))
    gc.collect()
    before = open_descriptors()
    loops = []
    for _ in range(50):
        loop = new_loop()
        loop.run_until_complete(receive(Probe.noop()))
        loop.close()
        loops.append(weakref.ref(loop))
        del loop

    def all_are_freed() -> bool:
        # The runtime's threads may keep a loop for a moment longer, and a loop is part of a reference cycle.
        gc.collect()
        return all(reference() is None for reference in loops)

    assert wait_until(all_are_freed)
    assert wait_until(lambda: open_descriptors() <= before)


def test_a_late_result_for_a_closed_loop_is_dropped_in_silence(
    new_loop: LoopFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    loop = new_loop()
    coroutine = receive(Probe.guarded(0.1))
    task = loop.create_task(coroutine)
    task._log_destroy_pending = False  # this warning would be asyncio's own
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert wait_until(lambda: live_calls() == 0)
    time.sleep(0.1)  # time for a report on stderr, were there one
    del task, coroutine, loop
    gc.collect()
    assert nothing_left()
    assert capfd.readouterr() == ("", "")


def test_a_call_prepared_without_a_loop_runs_on_the_loop_that_awaits_it(new_loop: LoopFactory) -> None:
    call = Probe.noop()
    assert run(new_loop, receive(call)) is None


def test_contextvars_of_the_caller_are_seen_after_the_await(new_loop: LoopFactory) -> None:
    bid: contextvars.ContextVar[int] = contextvars.ContextVar("bid")

    async def caller(number: int) -> None:
        bid.set(number)
        await Probe.guarded(0.01)
        assert bid.get() == number

    async def main() -> None:
        await asyncio.gather(*(caller(number) for number in range(100)))
        seen: list[int] = []
        bid.set(7)
        task = asyncio.ensure_future(Probe.guarded(0.01))
        task.add_done_callback(lambda _: seen.append(bid.get()))
        bid.set(8)
        await task
        await asyncio.sleep(0)
        assert seen == [7], "a callback sees the context in which it was added"

    run(new_loop, main())


def test_debug_mode_of_asyncio_has_no_complaint(
    new_loop: LoopFactory, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_debug(True)
        await asyncio.gather(*(Probe.noop() for _ in range(100)))

    run(new_loop, main())
    complaints = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [complaint for complaint in complaints if "took" not in complaint] == []


def test_a_burst_of_completions_is_delivered_in_bounded_batches(new_loop: LoopFactory) -> None:
    """Other callbacks of the loop get their turn while a thousand results are delivered."""
    resumed_in_this_iteration = 0
    most_in_one_iteration = 0

    async def call() -> None:
        nonlocal resumed_in_this_iteration
        await Probe.noop()
        resumed_in_this_iteration += 1

    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls = asyncio.gather(*(call() for _ in range(1_000)))

        def tick() -> None:
            nonlocal resumed_in_this_iteration, most_in_one_iteration
            most_in_one_iteration = max(most_in_one_iteration, resumed_in_this_iteration)
            resumed_in_this_iteration = 0
            if not calls.done():
                loop.call_soon(tick)

        await asyncio.sleep(0)
        assert wait_until(lambda: live_calls() == 0), "all of them end while the loop is held up"
        loop.call_soon(tick)
        await calls

    run(new_loop, main())
    assert 1 <= most_in_one_iteration <= 100


def test_workers_finish_their_calls_without_the_gil(new_loop: LoopFactory) -> None:
    """A thread that keeps the GIL does not hold up the runtime: no completion waits for it."""

    async def main() -> None:
        await Probe.noop()
        switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(60)  # from here on this thread keeps the GIL unless it gives it away
        try:
            calls = asyncio.gather(*(Probe.noop() for _ in range(200)))
            await asyncio.sleep(0)
            deadline = time.monotonic() + 10
            while live_calls() > 0 and time.monotonic() < deadline:
                pass
            assert live_calls() == 0
        finally:
            sys.setswitchinterval(switch_interval)
        await calls

    run(new_loop, main())


def test_an_awaitable_can_be_awaited_once(new_loop: LoopFactory) -> None:
    async def main() -> None:
        call = Probe.noop()
        await call
        with pytest.raises(RuntimeError, match="awaited already"):
            await call

    run(new_loop, main())


def test_awaiting_without_an_asyncio_loop_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        receive(Probe.noop()).send(None)


def test_a_panic_is_a_runtime_error_and_the_runtime_goes_on(
    new_loop: LoopFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="report this as a bug"):
            await Probe.panicking()
        assert await Probe.noop() is None

    run(new_loop, main())
    assert "asked for by a test" in capfd.readouterr().err


def test_a_loop_that_polls_nothing_takes_one_wakeup_for_many_completions() -> None:
    wakeups = 0

    class CountingLoop(LoopWithoutReaders):
        def call_soon_threadsafe(self, *args: object, **keywords: object) -> asyncio.Handle:
            nonlocal wakeups
            wakeups += 1
            return super().call_soon_threadsafe(*args, **keywords)  # type: ignore[arg-type]

    async def main() -> None:
        calls = asyncio.gather(*(Probe.noop() for _ in range(1_000)))
        await asyncio.sleep(0)
        assert wait_until(lambda: live_calls() == 0)
        await calls

    run(CountingLoop, main())
    assert 1 <= wakeups <= 100
