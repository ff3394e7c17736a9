"""Watches every event loop that an LLM test runs: nothing may hold it up.

A ticker of callbacks, no task, is put into each loop. A tick that comes too late is judged by its cause: what
the machine has caused is subtracted, and so is the garbage collector's work on this process's whole heap.
The machine has caused

- the time for which the loop's thread could have run and did not (its wait in the run queue), and up to a
  quarter of that again: what came due meanwhile is done in one go;
- while the loop's thread slept, the same time of this process's other threads, one of which may have had the
  interpreter's lock, and what an idle process saw at that moment: a virtual machine's processor may have
  stood still.

What remains, the loop's thread has spent in a callback, running or asleep.

During the test only numbers are noted; they are judged after it. A test that holds its loop up itself is
marked: `@pytest.mark.holds_the_loop("why")`. The blocking methods that a test calls from a loop need no mark:
they are meant to.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from arbitrageai_native import llm_service
from testing_support import ticker

# In seconds.
PAUSE = 0.002
MOST = 0.02


class LoopHeldUpError(AssertionError):
    """An event loop was kept waiting."""


@dataclass(frozen=True)
class LateTick:
    """A tick that came more than `MOST` too late. All is in seconds, since the tick before."""

    start: float
    end: float
    late: float
    collecting: float
    """The garbage collector's time."""
    ran: float
    """The processor's time of the loop's thread."""
    queued: float
    """The time for which the loop's thread could have run and did not."""
    others_queued: float
    """The same of all other threads."""

    def caused_here(self, idle: float) -> float:
        """Return what neither the machine nor the collector has caused.

        An idle process came too late by `idle` at that moment.
        """
        asleep = max(0.0, self.end - self.start - self.ran - self.queued)
        machine = self.queued + min(self.ran, self.queued / 4) + min(asleep, self.others_queued + idle)
        return self.late - self.collecting - machine


class Watch:
    """The late ticks of every loop since it began."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.late: list[LateTick] = []
        self.pardoned = False
        self._collecting = 0.0
        self._collection_start = 0.0

    def judge(self, control: ticker.Control) -> None:
        """Raise `LoopHeldUpError` if a loop was held up."""
        for tick in self.late:
            idle = max(control.waits_between(tick.start, tick.end), default=0.0)
            here = tick.caused_here(idle)
            if here > MOST:
                raise LoopHeldUpError(f"a loop was kept waiting for {here * 1000:.0f} ms: {tick}, {idle=}")

    def tick_in(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Start ticking; what is returned ends it."""
        handle: asyncio.TimerHandle
        queues = _RunQueues()

        def expect() -> None:
            nonlocal handle
            handle = loop.call_later(
                PAUSE, tick, loop.time(), self._collecting, time.thread_time(), queues.seconds()
            )

        def tick(start: float, collecting: float, ran: float, queued: dict[int, float]) -> None:
            end = loop.time()
            late = end - start - PAUSE
            if late > MOST and not self.pardoned:
                own, others = queues.since(queued)
                ran = time.thread_time() - ran
                collecting = self._collecting - collecting
                self.late.append(LateTick(start, end, late, collecting, ran, own, others))
            self.pardoned = False
            expect()

        def stop() -> None:
            handle.cancel()
            queues.close()

        expect()
        return stop

    def note_collection(self, phase: str, _information: object) -> None:
        """Sum up the garbage collector's time: for `gc.callbacks`."""
        if phase == "start":
            self._collection_start = time.monotonic()
        else:
            self._collecting += time.monotonic() - self._collection_start


class _RunQueues:
    """For how long each thread of this process could have run and did not."""

    def __init__(self) -> None:
        self._own = threading.get_native_id()
        self._files: dict[int, int] = {}

    def seconds(self) -> dict[int, float]:
        """Return the time since each thread's start, by its id."""
        found = {}
        for thread in map(int, os.listdir("/proc/self/task")):  # noqa: PTH208 - a path takes longer
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if thread not in self._files:
                    self._files[thread] = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)
                found[thread] = int(os.pread(self._files[thread], 64, 0).split()[1]) / 1e9
        return found

    def since(self, before: dict[int, float]) -> tuple[float, float]:
        """Return how much longer this thread has waited by now, and all others together."""
        waited = {thread: now - before.get(thread, 0.0) for thread, now in self.seconds().items()}
        own = waited.pop(self._own)
        return own, sum(waited.values())

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)


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

    gc.callbacks.append(watch.note_collection)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio.BaseEventLoop, "run_forever", run_watched)
            patch.setattr(llm_service, "_in_event_loop", in_event_loop_on_purpose)
            yield watch
    finally:
        gc.callbacks.remove(watch.note_collection)
