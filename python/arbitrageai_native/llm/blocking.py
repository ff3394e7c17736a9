"""What a blocking method does where an event loop runs: it suspends the caller's task, or blocks and logs it.

Suspending is an option: `unblock.install()` puts its way of doing it into `suspender`. All else here serves
every program, and knows nothing of greenlets.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from arbitrageai_native import _native

Await = Callable[[Awaitable[Any]], Any]
"""Awaits in a plain function: the task of the caller is suspended meanwhile."""


if TYPE_CHECKING:

    class Suspender(Protocol):
        """How the task of a caller is suspended."""

        def in_task(self) -> Await | str:
            """Return how to await here, or why that is impossible."""

        def in_other_library(self) -> str | None:
            """Return why the caller's loop, which is not asyncio's, can't go on; None: there is none."""


suspender: Suspender | None = None

_PACKAGE = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120, importing pathlib takes long
_MOST_LINES = 1000
_logger = logging.getLogger("arbitrageai_native.llm")
_logged: set[tuple[str, int]] = set()
_sleep = time.sleep


def blocks_a_loop() -> bool:
    """Whether a loop runs in this thread, and has to wait for every blocking method."""
    return suspender is None and _in_event_loop()


def awaiter(method: str, metrics: _native.CallMetrics | None = None, stealth: bool = False) -> Await | None:
    """Return how a method awaits its asynchronous twin; None: it waits in this thread.

    Where a loop has to wait with it, that is counted, and logged once for each calling line.
    """
    if not _in_event_loop():
        reason = suspender.in_other_library() if suspender is not None else None
        if reason is not None:
            _log(method, reason)
        return None
    found: Await | str = suspender.in_task() if suspender is not None else ""
    if not isinstance(found, str):
        return found
    if metrics is not None:
        metrics.blocked_a_loop()
    _log(method, found)
    if stealth:
        warnings.warn(
            "complete(stealth_mode=True) stops the event loop: await complete_async() instead",
            RuntimeWarning,
            stacklevel=3,
        )
    return None


def _in_event_loop() -> bool:
    return asyncio._get_running_loop() is not None


def sleep(method: str, given: Callable[[float], object], seconds: float) -> None:
    """Wait by `given`, the caller's `time.sleep`; by suspending the task, unless that name was patched."""
    found = awaiter(method) if given is _sleep else None
    if found is None:
        given(seconds)
    else:
        found(_native.sleep(seconds))


def _log(method: str, reason: str) -> None:
    line = calling_line()
    if line in _logged or len(_logged) >= _MOST_LINES:
        return
    _logged.add(line)
    where, twin = f"{line[0]}:{line[1]}", "AsyncOpenAI" if method == "create" else f"await {method}_async()"
    if reason:
        _logger.warning("%s: %s() blocks the event loop, in spite of unblock: %s", where, method, reason)
    else:
        _logger.warning(
            "%s: %s() blocks the event loop while it waits; either use %s there, or let the loop go on "
            "without a change of the code: drop_in.install(unblock=True), run --unblock",
            *(where, method, twin),
        )


def calling_line() -> tuple[str, int]:
    """Return the file and line outside of this package that called it."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno
