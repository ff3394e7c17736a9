"""Watches every event loop that an LLM test runs: nothing may hold it up.

A ticker of callbacks, no task, is put into each loop. Its waits are judged against those of a control
ticker, in an idle process, at the same time: what a busy machine does to the one it does to the other. That
is judged test by test, since among the waits of a whole module one that is held up for a quarter of a second
is lost; so most tests have less than a thousand waits, and their longest counts. What the machine does to
this process alone remains; but what blocks does so every time, so a test has failed only if it has so in
each of several runs.

A test that holds its loop up itself says so: `@pytest.mark.holds_the_loop("why")`. The blocking methods that
a test calls from a loop need no such word: they are meant to.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Iterator

import pytest

from arbitrageai_native import llm_service
from testing_support import ticker

# Beyond the control's, in seconds.
MOST = 0.02
RUNS = 4

_CONTROL = pytest.StashKey[ticker.Control]()


class LoopHeldUpError(AssertionError):
    """An event loop was kept waiting."""


def is_watched(item: pytest.Item) -> bool:
    """Whether this is a test of the client that may run a loop."""
    return item.path.parent.name == "llm" and item.get_closest_marker("holds_the_loop") is None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "holds_the_loop(why): the test itself keeps its event loop waiting")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_watched(item):
            item.add_marker(pytest.mark.flaky(reruns=RUNS - 1, only_rerun=["LoopHeldUpError"]))


def pytest_unconfigure(config: pytest.Config) -> None:
    if _CONTROL in config.stash:
        config.stash[_CONTROL].close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    if not is_watched(item):
        return (yield)
    stash = item.config.stash
    if _CONTROL not in stash:
        stash[_CONTROL] = ticker.Control()
        time.sleep(0.2)  # until it ticks
    with watched() as watch:
        result = yield
    watch.judge(stash[_CONTROL])
    return result


class Watch:
    """The waits of every loop since it began."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self.waits: list[float] = []
        self.pardoned = False

    def judge(self, control: ticker.Control) -> None:
        """Raise `LoopHeldUpError` if a loop was kept waiting longer than the control's."""
        if not self.waits:
            return
        usual = ticker.high(control.waits_between(self._start, time.monotonic()))
        found = ticker.high(self.waits)
        if found - usual > MOST:
            raise LoopHeldUpError(
                f"a loop was kept waiting for {found * 1000:.0f} ms, an idle one for {usual * 1000:.0f} ms"
            )

    def tick_in(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Start ticking; what is returned ends it."""
        handle: asyncio.TimerHandle

        def expect() -> None:
            nonlocal handle
            due = loop.time() + ticker.PAUSE
            handle = loop.call_later(ticker.PAUSE, tick, due)

        def tick(due: float) -> None:
            if not self.pardoned:
                self.waits.append(max(0.0, loop.time() - due))
            self.pardoned = False
            expect()

        expect()
        return lambda: handle.cancel()


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Puts a ticker into each of asyncio's loops that runs during the block."""
    watch = Watch()
    run_forever = asyncio.BaseEventLoop.run_forever
    in_event_loop = llm_service._in_event_loop

    def run_watched(self: asyncio.BaseEventLoop) -> None:
        stop = watch.tick_in(self)
        try:
            run_forever(self)
        finally:
            stop()

    def in_event_loop_on_purpose() -> bool:
        # Called by a blocking method, which a test has called; if the package itself has, that is no excuse.
        caller = inspect.currentframe()
        caller = caller and caller.f_back and caller.f_back.f_back
        found = in_event_loop()
        if found and caller is not None and "arbitrageai_native" not in str(caller.f_globals.get("__name__")):
            watch.pardoned = True
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.BaseEventLoop, "run_forever", run_watched)
        patch.setattr(llm_service, "_in_event_loop", in_event_loop_on_purpose)
        yield watch
