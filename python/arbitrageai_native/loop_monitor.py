"""Which line blocks the event loop: `LoopMonitor` measures a loop's lag and logs the stack that stalls it.

    async with LoopMonitor() as monitor:
        await serve()
    print(monitor.worst, monitor.stalls)

Whenever the loop goes to sleep or wakes up, it says so to a native thread, which notices when it runs for too
long without, takes the Python stack of the loop's thread while it blocks, and logs it: none of that on the
loop's own thread. Nothing is woken for it. Loops that sleep out of Python's sight (uvloop, Windows' proactor)
beat by a timer instead.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from traceback import FrameSummary, StackSummary, walk_stack
from typing import Any, Final

from arbitrageai_native import defaults
from arbitrageai_native._native import LoopWatch
from arbitrageai_native._safe_text import printable
from arbitrageai_native._typing import Self

__all__ = ["LOGGER_NAME", "LoopMonitor", "Stall"]

LOGGER_NAME: Final = "arbitrageai_native.loop_monitor"
"""The logger that stalls are told to."""

_SECONDS_TO_END_AT_EXIT: Final = 1.0
_ATTRIBUTE: Final = "_arbitrageai_native_monitor"

_watches: weakref.WeakSet[LoopMonitor] = weakref.WeakSet()


@dataclass(frozen=True)
class Stall:
    """A stall of the loop, as it was found.

    Attributes:
        seconds: How long the loop had been blocked when the stack was taken, the least that is certain.
        stack: The stack of the loop's thread, innermost call last, as a traceback prints it.
        location: The innermost call: `file:line in function`.
        taken_while_blocked: False if C code kept the interpreter to itself: the stack is of what ran right
            after.
    """

    seconds: float
    stack: str
    location: str
    taken_while_blocked: bool


class LoopMonitor:
    """Measures the running event loop's lag, and logs what blocks it.

    `async with LoopMonitor() as monitor` watches for the length of a block, `LoopMonitor().install()` until
    `uninstall()` or the end of the loop. A stall is logged as a WARNING of the logger
    `arbitrageai_native.loop_monitor`, with the stack, while it lasts; its whole length as INFO after it.

    Args:
        threshold: Seconds from which a lag is a stall.
        interval: Only for loops that sleep out of Python's sight: seconds between two heartbeats, by default
            the threshold. There a stall longer than threshold and interval together is always seen, a shorter
            one if a beat is due early in it.
        on_stall: Called with each `Stall`, in the monitor's thread, after it was logged.

    Raises:
        ValueError: `threshold` or `interval` is not a positive, finite number of seconds, or `interval`
            exceeds `threshold`.
    """

    def __init__(
        self,
        threshold: float = defaults.STALL_THRESHOLD,
        *,
        interval: float | None = None,
        on_stall: Callable[[Stall], object] | None = None,
    ) -> None:
        self.threshold: Final = _seconds("threshold", threshold)
        self.interval: Final = self.threshold if interval is None else _seconds("interval", interval)
        if self.interval > self.threshold:
            raise ValueError(f"interval={interval} must not exceed threshold={threshold}")
        self._on_stall = on_stall
        self._watch: LoopWatch | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._last_stall: Stall | None = None
        self._last_reading: dict[str, Any] = {}

    @staticmethod
    def of_running_loop() -> LoopMonitor | None:
        """The monitor that is installed on the running loop.

        Raises:
            RuntimeError: no loop is running in this thread.
        """
        monitor = getattr(asyncio.get_running_loop(), _ATTRIBUTE, None)
        # None: a forked child inherited the loop.
        return monitor if isinstance(monitor, LoopMonitor) and monitor._reading() is not None else None

    def install(self) -> Self:
        """Begin to watch the running loop. To be called in its thread: from a coroutine or a callback.

        Raises:
            RuntimeError: no loop is running in this thread; the loop has a monitor already; this monitor
                watches a loop already.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "a LoopMonitor is installed in a running event loop's thread: from a coroutine or a callback"
            ) from None
        if self._watch is not None:
            where = "this" if loop is self._loop else "another"
            raise RuntimeError(f"this LoopMonitor is installed already, on {where} event loop")
        if self.of_running_loop() is not None:
            raise RuntimeError("this event loop has a LoopMonitor already")
        reference: weakref.ref[LoopMonitor] = weakref.ref(self)
        self._thread = threading.get_ident()
        # Private, and the same in every Python since 3.4; a loop that has none beats by a timer.
        selector: Any = getattr(loop, "_selector", None)
        select = getattr(selector, "select", None) if hasattr(selector, "__dict__") else None
        self._watch = LoopWatch(
            select,
            self.interval,
            self.threshold,
            lambda seconds, lasts: _stalled(reference, seconds, lasts),
            _ended,
        )
        if select is not None:
            selector.select = self._watch.select
        self._loop = loop
        setattr(loop, _ATTRIBUTE, self)
        _watches.add(self)
        return self

    def uninstall(self) -> None:
        """End watching. What was measured remains readable. Nothing happens if it is not installed.

        Raises:
            RuntimeError: called beside the loop's thread while the loop runs, or in another loop.
        """
        watch, loop = self._watch, self._loop
        if watch is None or loop is None:
            return
        if loop.is_running() and threading.get_ident() != self._thread:
            raise RuntimeError("a LoopMonitor is uninstalled in the thread of the loop that it watches")
        watch.stop()
        self._last_reading = watch.reading() or self._last_reading
        self._watch = self._loop = None
        selector: Any = getattr(loop, "_selector", None)
        if getattr(selector, "__dict__", {}).get("select") == watch.select:
            del selector.select
        if getattr(loop, _ATTRIBUTE, None) is self:
            delattr(loop, _ATTRIBUTE)

    async def __aenter__(self) -> Self:
        """Install it on the running loop."""
        return self.install()

    async def __aexit__(self, *_: object) -> None:
        """Uninstall it, and wait until a stall that was noticed has been logged."""
        watch = self._watch
        self.uninstall()
        if watch is not None and not watch.end(0):
            await asyncio.to_thread(watch.end, _SECONDS_TO_END_AT_EXIT)

    @property
    def is_installed(self) -> bool:
        """Whether a loop is being watched."""
        return self._watch is not None

    @property
    def current(self) -> float:
        """The loop's lag now, in seconds: how long it has been running without a pause, or did so last."""
        return float(self.snapshot()["current"])

    @property
    def worst(self) -> float:
        """The longest lag so far, in seconds; that of a stall under way counts."""
        return float(self.snapshot()["worst"])

    @property
    def stalls(self) -> int:
        """How many lags reached the threshold."""
        return int(self.snapshot()["stalls"])

    @property
    def histogram(self) -> dict[float, int]:
        """Upper bound in seconds -> how many lags were that long at most and longer than the bound before."""
        return dict(self.snapshot()["histogram"])

    @property
    def recent(self) -> list[float]:
        """The longest lag in each second since the start, or in each of the last 120, in seconds.

        That of the second under way comes last. Empty when it is not installed.
        """
        return [] if self._watch is None else self._watch.recent()

    @property
    def last_stall(self) -> Stall | None:
        """The latest stall whose stack was taken."""
        return self._last_stall

    def snapshot(self) -> dict[str, Any]:
        """What was measured up to this moment; from any thread.

        `current`, `worst` and `sum` in seconds, `stalls`, `count` (of lags) and `histogram`.
        """
        found = self._reading() or self._last_reading
        return found or {"current": 0.0, "worst": 0.0, "sum": 0.0, "stalls": 0, "count": 0, "histogram": {}}

    def _reading(self) -> dict[str, Any] | None:
        return None if self._watch is None else self._watch.reading()

    def __repr__(self) -> str:
        """The limits and the counts."""
        return f"<LoopMonitor threshold={self.threshold} stalls={self.stalls} worst={self.worst:.3f}>"


def _seconds(name: str, value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value <= 86_400:
        raise ValueError(f"{name}={value!r} must be a positive number of seconds, a day at most")
    return float(value)


def _stalled(reference: weakref.ref[LoopMonitor], seconds: float, lasts: bool) -> bool | None:
    """Report a stall, in the monitor's thread. True: it is one; False: the loop rests; None: it has gone."""
    monitor = reference()
    loop = None if monitor is None else monitor._loop
    if monitor is None or loop is None or loop.is_closed():
        return None
    if not loop.is_running():
        return False
    frame = sys._current_frames().get(monitor._thread)
    if frame is None:
        return False
    # The lines are read after the frames were walked: that may take time, in which the stack changes.
    frames = StackSummary.extract(walk_stack(frame), lookup_lines=False)
    del frame
    frames.reverse()
    of_a_task = _below_the_loop(frames)
    frames = of_a_task or frames
    innermost = frames[-1]
    location = f"{innermost.filename}:{innermost.lineno} in {innermost.name}"
    stall = Stall(seconds, "".join(frames.format()), location, lasts)
    monitor._last_stall = stall
    if not of_a_task:
        by = "while no Python code of a task was running (C code, or an overloaded machine); the loop was in"
    elif lasts:
        by = "by"
    else:
        by = "by C code that kept the interpreter to itself, shortly before"
    logging.getLogger(LOGGER_NAME).warning(
        "the event loop %s %.3f s %s %s\n%s",
        "has been blocked for" if lasts else "was blocked for",
        seconds,
        by,
        printable(location),
        "".join(_printable(frames).format()).rstrip(),
    )
    if monitor._on_stall is not None:
        monitor._on_stall(stall)
    return True


def _ended(seconds: float) -> None:
    logging.getLogger(LOGGER_NAME).info("the event loop goes on after %.3f s", seconds)


def _below_the_loop(frames: StackSummary) -> StackSummary:
    """Return the frames that the event loop called. The frames that started it are the same in every stack.

    Returns no frames if the loop itself was running, or called C code directly.
    """
    last = -1
    for index, frame in enumerate(frames):
        path = frame.filename.replace("\\", "/")
        if path.endswith(("asyncio/events.py", "asyncio/base_events.py", "asyncio/runners.py")):
            last = index
        elif last >= 0:
            break
    return StackSummary.from_list(list(frames)[last + 1 :])


def _printable(frames: StackSummary) -> StackSummary:
    """Return the frames for a log, with the control characters of file names and source lines escaped."""
    shown = (
        FrameSummary(printable(one.filename), one.lineno, printable(one.name), line=printable(one.line or ""))
        for one in frames
    )
    return StackSummary.from_list(list(shown))


@atexit.register
def _end_all() -> None:
    """The threads must not meet an interpreter that is being taken down."""
    for monitor in list(_watches):
        if monitor._watch is not None:
            monitor._watch.end(_SECONDS_TO_END_AT_EXIT)
