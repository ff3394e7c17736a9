"""Watches every event loop that an LLM test runs: nothing may hold it up.

Two things are measured. After the test they are judged by what the loop's thread did, not by the clock on
the wall:

- Every callback: for how long it ran, and for how long it slept. A callback has no excuse for either, however
  busy the machine is.
- A ticker of callbacks, no task, in each loop. A tick that comes too late shows many callbacks in one go. On
  a busy machine there are more of them, since more comes due while the thread has no processor: a quarter of
  that time is subtracted.

Whether a thread sleeps is seen: a process beside this one, the control, looks at it every millisecond. A
thread that neither ran nor slept had no processor, or one that stood still. The garbage collector's work on
this process's whole heap does not count. Nor does

- a wait for a lock, while another thread of this process had no processor; and while another ran, if it was
  the interpreter's lock. Whoever waits for that wakes up every few milliseconds to ask for it: one long sleep
  is no such wait;
- a wait for the disk, to read a page or a module. What a callback writes itself is its own.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

import pytest

from arbitrageai_native.llm import blocking
from testing_support import ticker
from testing_support.threads import Meter, Moment, OtherThreads

# In seconds.
PAUSE = 0.002
MOST = 0.02
# A callback that takes less is not looked at; and how old the figures before it may be.
_SHORT = 0.0005
# How old the figures of other threads before it may be.
_OLD = 0.01
# How often it is looked where a loop is. That takes the interpreter's lock, for which the loop waits then.
_LOOK_EVERY = MOST
# How long a callback has taken when this is noted.
_OVERDUE = 0.005
# How long a thread sleeps at most until it asks for the interpreter's lock again.
_ASKS_AGAIN = sys.getswitchinterval() + 0.0005
# Of so few looks at the thread's state nothing follows.
_FEW_STATES = 3


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
    others_ran: float
    """For how long other threads ran."""
    others_queued: float
    """For how long another thread could have run, and had no processor: the one that had none longest."""
    is_main_thread: bool = True

    def asleep_by_itself(self, control: Sequence[ticker.Wait]) -> float:
        """Return for how long it slept for no cause that is known.

        `control` are the waits of an idle process at that time.
        """
        states = [wait.state for wait in control if self.start <= wait.end <= self.end]
        if not self.is_main_thread or len(states) < _FEW_STATES:
            return 0.0 if self.reads else self._without_lock_of_another(self.slept)
        # How long it slept is known; what for, by what was seen, or that it never did. What is written in a
        # callback is the callback's; other waits for the disk are not.
        seen = [state for state in states if state in "SLD"]
        if not seen:
            return 0.0
        asleep = self.slept * sum(state in ("SD" if self.writes else "S") for state in seen) / len(seen)
        on_locks = self.slept * seen.count("L") / len(seen)
        return asleep + self._without_lock_of_another(on_locks)

    def _without_lock_of_another(self, slept: float) -> float:
        asked = self.switches * _ASKS_AGAIN
        if slept > asked:  # one sleep at least was another one
            asked = max(0.0, asked - _ASKS_AGAIN)
        return max(0.0, slept - self.others_queued - min(self.others_ran, asked))


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
                states = "".join(wait.state for wait in waits)
                raise LoopHeldUpError(
                    f"a loop was kept waiting for {here * 1000:.0f} ms by {late.what}\n"
                    f"It was at {' and then at '.join(places) or 'a place that nobody saw'}\n"
                    f"{late.span}, states {states}"
                )

    def tick_in(self, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        """Watch a loop from its own thread; what is returned ends it."""
        if self._sampler is None:
            self._sampler = _Sampler(self)
        watched = self.loops[loop] = _Loop(self, loop)

        def stop() -> None:
            del self.loops[loop]
            watched.close()

        return stop

    def run_callback(self, handle: asyncio.Handle, run: Callable[[asyncio.Handle], None]) -> None:
        """Run a callback, of any loop."""
        watched = self.loops.get(handle._loop)  # type: ignore[attr-defined]
        if watched is None or getattr(handle._callback, "__self__", None) is watched:  # type: ignore[attr-defined]
            run(handle)  # a tick is this watch's own
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

    def __init__(self, watch: Watch, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = threading.get_ident()
        self.callback_since = 0.0
        self._callback_is_pardoned = self._tick_is_pardoned = False
        self._watch = watch
        self._loop = loop
        self._meter = Meter()
        self._others = OtherThreads()
        self._is_main_thread = threading.current_thread() is threading.main_thread()
        self._collecting = self._collection_start = 0.0
        self._before = self._meter.now(), self._collecting
        self._slept = 0.0
        self._note_others()
        self._expect_tick()

    def close(self) -> None:
        self._handle.cancel()
        self._meter.close()
        self._others.close()

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
            if time.monotonic() - start > _SHORT and self._loop in self._watch.loops:
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
        is_long = now.time - before.time > MOST
        others_ran, others_queued = self._others_before
        return Span(
            start=before.time,
            end=now.time,
            ran=ran - (self._collecting - collected),
            queued=queued,
            slept=slept if switches and slept > 0 else 0.0,
            switches=switches,
            reads=now.reads - before.reads,
            writes=now.writes - before.writes,
            others_ran=self._others.ran() - others_ran,
            others_queued=self._others_queued(others_queued) if is_long else 0.0,
            is_main_thread=self._is_main_thread,
        )

    def _others_queued(self, before: dict[int, int]) -> float:
        # Where several threads have loops, they wait for each other in turn; only the first one is looked at.
        return self._others.queued_since(before, together=not self._is_main_thread)

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
        if time.monotonic() - self._others_at > _OLD:
            self._note_others()
        self._expect_tick()

    def _note_others(self) -> None:
        self._others_at = time.monotonic()
        self._others_before = self._others.ran(), self._others.queued()

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

    def _look(self) -> None:
        while not self._ended.wait(_LOOK_EVERY):
            now = time.monotonic()
            for watched in list(self._watch.loops.values()):
                if watched.callback_since and now - watched.callback_since > _OVERDUE:
                    self._watch.seen.append((now, _place(sys._current_frames().get(watched.thread))))

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


def _place(frame: FrameType | None) -> str:
    # Not by `traceback`, which reads the files: this holds the interpreter's lock.
    places = []
    while frame is not None and len(places) < 3:
        code = frame.f_code
        places.append(f"{code.co_filename}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return " < ".join(places)


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watches each of asyncio's loops that begins to run during the block."""
    watch = Watch()
    run_forever = asyncio.BaseEventLoop.run_forever
    run_callback = asyncio.Handle._run  # type: ignore[attr-defined]
    in_event_loop = blocking._in_event_loop

    def run_watched(self: asyncio.BaseEventLoop) -> None:
        stop = watch.tick_in(self)
        try:
            run_forever(self)
        finally:
            stop()

    def in_event_loop_on_purpose() -> bool:
        # Called by a blocking method, which a test has called; if the package itself has, that is no excuse.
        caller = inspect.currentframe()
        for _ in range(3):  # itself, the look whether it blocks, the method
            caller = caller and caller.f_back
        found = in_event_loop()
        if found and caller is not None and "arbitrageai_native" not in str(caller.f_globals.get("__name__")):
            watch.pardon()
        return found

    gc.callbacks.append(watch.note_collection)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio.BaseEventLoop, "run_forever", run_watched)
            patch.setattr(asyncio.Handle, "_run", lambda handle: watch.run_callback(handle, run_callback))
            patch.setattr(blocking, "_in_event_loop", in_event_loop_on_purpose)
            yield watch
    finally:
        gc.callbacks.remove(watch.note_collection)
        watch.close()
