"""Watches every event loop that an LLM test runs: nothing may hold it up.

Two things are measured, and judged after the test by what the loop's thread did, not by the clock on the wall:

- Every callback: for how long it ran, and for how long it slept. A callback has no excuse for either, however
  busy the machine is.
- A ticker of callbacks, no task, in each loop. A tick that comes too late shows many callbacks in one go. On
  a busy machine there are more of them, since more comes due while the thread has no processor: a quarter of
  that time is subtracted.

The garbage collector's work on this process's whole heap does not count, and a thread may sleep for causes
that are not its callback's:

- It waited for the interpreter's lock while other Python threads ran, or waited for a processor. A thread that
  waits for the lock wakes up every few milliseconds to ask for it, so one long sleep is no such wait.
- It waited for the disk, to read a page or a module: the system counts such waits, and a process beside this
  one, the control, looks at the thread's state every millisecond.
- The virtual machine's processor stood still: the control's ticks are late, too.

A thread of this process looks where a loop is that does not come back, for the message.

A test that holds its loop up itself is marked: `@pytest.mark.holds_the_loop("why")`. The blocking methods
that a test calls from a loop need no mark: they are meant to.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from arbitrageai_native import llm_service
from testing_support import ticker
from testing_support.threads import Meter, Moment, PythonThreads

# In seconds.
PAUSE = 0.002
MOST = 0.02
# A callback that takes less is not looked at; and how old the figures before it may be.
_SHORT = 0.0005
# How long a callback has taken when it is looked at where it is.
_OVERDUE = 0.008
# How long a thread sleeps at most until it asks for the interpreter's lock again.
_ASKS_AGAIN = sys.getswitchinterval() + 0.0005


class LoopHeldUpError(AssertionError):
    """An event loop was kept waiting."""


@dataclass(frozen=True)
class Span:
    """What the loop's thread did from one moment to another. All times are in seconds."""

    start: float
    end: float
    ran: float
    """Without the garbage collector's time."""
    queued: float
    """It could have run, and had no processor."""
    slept: float
    switches: int
    """How often it began to sleep."""
    reads: int
    """How often it had to wait for the disk."""
    writes: int
    others: float
    """For how long other Python threads ran, or could have run."""
    is_main_thread: bool = True

    def asleep_by_itself(self, control: Sequence[ticker.Wait]) -> float:
        """Return for how long it slept for no cause that is known.

        `control` are the waits of an idle process at that time.
        """
        stood_still = max((wait.late - wait.queued for wait in control), default=0.0)
        slept = self.slept - self._waited_for_disk(control)
        return max(0.0, slept - self._waited_for_python(slept) - max(0.0, stood_still))

    def _waited_for_disk(self, control: Sequence[ticker.Wait]) -> float:
        if self.writes:  # what is written in a callback is the callback's
            return 0.0
        states = [wait.state for wait in control if self.start <= wait.end <= self.end and wait.state in "SD"]
        if states and self.is_main_thread:
            return self.slept * states.count("D") / len(states)
        return self.slept if self.reads else 0.0

    def _waited_for_python(self, slept: float) -> float:
        sleeps = self.switches
        if slept > sleeps * _ASKS_AGAIN:  # one at least was another sleep
            sleeps -= 1
        return min(self.others, max(0, sleeps) * _ASKS_AGAIN)


@dataclass(frozen=True)
class LateCallback:
    """A callback that took longer than `MOST`."""

    what: str
    span: Span

    def caused_here(self, control: Sequence[ticker.Wait]) -> float:
        """Return for how long it ran, and slept for no cause that is known."""
        return self.span.ran + self.span.asleep_by_itself(control)


@dataclass(frozen=True)
class LateTick:
    """A tick that came more than `MOST` too late, and what the callbacks since the tick before did."""

    late: float
    span: Span

    @property
    def what(self) -> str:
        """As of a callback."""
        return "many callbacks in one go"

    def caused_here(self, control: Sequence[ticker.Wait]) -> float:
        """Return for how long they ran, without what came due meanwhile, and slept for no known cause."""
        ran = self.span.ran - min(self.span.ran, self.span.queued / 4)
        return min(self.late, ran + self.span.asleep_by_itself(control))


class Watch:
    """What was late in every loop since it began."""

    def __init__(self) -> None:
        self.late: list[LateCallback | LateTick] = []
        self.loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        self.seen: list[tuple[float, str]] = []
        self._sampler: _Sampler | None = None

    def judge(self, control: ticker.Control) -> None:
        """Raise `LoopHeldUpError` if a loop was held up."""
        for late in self.late:
            waits = control.between(late.span.start, late.span.end)
            here = late.caused_here(waits)
            if here > MOST:
                places = [where for at, where in self.seen if late.span.start <= at <= late.span.end]
                raise LoopHeldUpError(
                    f"a loop was kept waiting for {here * 1000:.0f} ms by {late.what}\n"
                    f"It was at {' and then at '.join(places) or 'a place that nobody saw'}\n{late}\n{waits}"
                )

    def tick_in(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Watch a loop from its own thread; what is returned ends it."""
        if self._sampler is None:
            self._sampler = _Sampler(self)
        watched = self.loops[loop] = _Loop(self, loop, self._sampler.native_id)

        def stop() -> None:
            del self.loops[loop]
            watched.close()

        return stop

    def run_callback(self, handle: asyncio.Handle, run: Callable[[asyncio.Handle], None]) -> None:
        """Run a callback, of any loop."""
        watched = self.loops.get(handle._loop)  # type: ignore[attr-defined]
        if watched is None:
            run(handle)
        else:
            watched.run_callback(handle, run)

    def pardon(self) -> None:
        """Let the callback that runs now take its time."""
        self.loops[asyncio.get_running_loop()].pardon()

    def note_collection(self, phase: str, _information: object) -> None:
        """Sum up the garbage collector's time: for `gc.callbacks`."""
        here = threading.get_ident()
        for watched in list(self.loops.values()):
            if watched.thread == here:
                watched.note_collection(phase)

    def close(self) -> None:
        """End what looks at the loops."""
        if self._sampler is not None:
            self._sampler.close()


class _Loop:
    """Measures one loop, in its own thread."""

    def __init__(self, watch: Watch, loop: asyncio.AbstractEventLoop, sampler: int) -> None:
        self.thread = threading.get_ident()
        self.callback_since = 0.0
        self._callback_is_pardoned = self._tick_is_pardoned = False
        self._watch = watch
        self._loop = loop
        self._meter = Meter()
        self._threads = PythonThreads({threading.get_native_id(), sampler})
        self._is_main_thread = threading.current_thread() is threading.main_thread()
        self._collecting = self._collection_start = 0.0
        self._before = self._meter.now(), self._collecting
        self._slept = 0.0
        self._others = self._threads.busy()
        self._expect_tick()

    def close(self) -> None:
        self._handle.cancel()
        self._meter.close()
        self._threads.close()

    def pardon(self) -> None:
        self._callback_is_pardoned = self._tick_is_pardoned = True

    # A callback

    def run_callback(self, handle: asyncio.Handle, run: Callable[[asyncio.Handle], None]) -> None:
        start = time.monotonic()
        if start - self._before[0].time > _SHORT:
            self._before = self._meter.now(), self._collecting
        self.callback_since = start
        self._callback_is_pardoned = False
        try:
            run(handle)
        finally:
            self.callback_since = 0.0
            if time.monotonic() - start > _SHORT:
                self._note_callback(handle, start)

    def _note_callback(self, handle: asyncio.Handle, start: float) -> None:
        moment, collected = self._before
        span = self._span(moment._replace(time=start), collected)
        self._before = self._meter.now(), self._collecting
        self._slept += span.slept
        if span.end - start > MOST and not self._callback_is_pardoned:
            what = getattr(handle._callback, "__self__", handle)  # type: ignore[attr-defined]
            self._watch.late.append(LateCallback(repr(what), span))

    def _span(self, before: Moment, collected: float) -> Span:
        now = self._meter.now()
        ran, queued = now.ran - before.ran, now.queued - before.queued
        switches = now.switches - before.switches
        slept = now.time - before.time - ran - queued
        return Span(
            start=before.time,
            end=now.time,
            ran=ran - (self._collecting - collected),
            queued=queued,
            slept=slept if switches and slept > 0 else 0.0,
            switches=switches,
            reads=now.reads - before.reads,
            writes=now.writes - before.writes,
            others=self._threads.busy_since(self._others) if now.time - before.time > MOST else 0.0,
            is_main_thread=self._is_main_thread,
        )

    # A tick

    def _expect_tick(self) -> None:
        self._slept = 0.0
        before = self._meter.now(), self._collecting
        self._handle = self._loop.call_later(PAUSE, self._tick, *before)

    def _tick(self, before: Moment, collected: float) -> None:
        late = time.monotonic() - before.time - PAUSE
        if late > MOST and not self._tick_is_pardoned:
            span = self._span(before, collected)
            slept = {**vars(span), "slept": self._slept}  # not the loop itself, which sleeps when it may
            self._watch.late.append(LateTick(late, Span(**slept)))
        self._tick_is_pardoned = False
        self._others = self._threads.busy()
        self._expect_tick()

    def note_collection(self, phase: str) -> None:
        if phase == "start":
            self._collection_start = time.thread_time()
        else:
            self._collecting += time.thread_time() - self._collection_start


class _Sampler:
    """A thread that looks where loops are that do not come back from a callback."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        assert self._thread.native_id is not None
        self.native_id = self._thread.native_id

    def _look(self) -> None:
        while not self._ended.wait(_OVERDUE):
            now = time.monotonic()
            for watched in list(self._watch.loops.values()):
                if watched.callback_since and now - watched.callback_since > _OVERDUE:
                    frame = sys._current_frames().get(watched.thread)
                    places = traceback.extract_stack(frame, limit=3) if frame is not None else []
                    where = " < ".join(f"{at.filename}:{at.lineno} {at.name}" for at in reversed(places))
                    self._watch.seen.append((now, where))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watches each of asyncio's loops that begins to run during the block."""
    watch = Watch()
    run_forever = asyncio.BaseEventLoop.run_forever
    run_callback = asyncio.Handle._run  # type: ignore[attr-defined]
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
            watch.pardon()
        return found

    gc.callbacks.append(watch.note_collection)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio.BaseEventLoop, "run_forever", run_watched)
            patch.setattr(asyncio.Handle, "_run", lambda handle: watch.run_callback(handle, run_callback))
            patch.setattr(llm_service, "_in_event_loop", in_event_loop_on_purpose)
            yield watch
    finally:
        gc.callbacks.remove(watch.note_collection)
        watch.close()
