"""Looks, from a thread of its own, for a loop that waits for a lock while calls are suspended in it.

A suspended task that holds a lock can't let go of it while the loop's thread waits for that very lock. Most
such locks are found before, and the call blocks (`obstacles`). This finds the others, at their second look
at the thread, and logs who waits and where the suspended calls are.
"""

from __future__ import annotations

import ast
import linecache
import logging
import os
import sys
import threading
import time
from types import FrameType

from arbitrageai_native.llm.unblock import obstacles
from arbitrageai_native.llm.unblock.portal import suspended

INTERVAL = 1.0
_LOOKS_WITHOUT_CALLS = 5
_MOST_NAMED = 5
_WAITING_MODULES = ("threading.py", "queue.py")

_logger = logging.getLogger("arbitrageai_native.llm")
_starting = threading.Lock()
_runs = False


def start() -> None:
    """Watch, unless it does so already, for as long as there are suspended calls."""
    global _runs
    if _runs:
        return
    with _starting:
        if not _runs:
            _runs = True
            threading.Thread(target=_watch, name="arbitrageai-unblock-watch", daemon=True).start()


def _forget() -> None:
    """A forked child has no such thread, and none of the calls."""
    global _runs, _starting
    _runs, _starting = False, threading.Lock()
    suspended.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _watch() -> None:
    global _runs
    seen: dict[int, tuple[int, int]] = {}
    reported: set[tuple[int, int]] = set()
    looks_left = _LOOKS_WITHOUT_CALLS
    while looks_left:
        time.sleep(INTERVAL)
        looks_left = _LOOKS_WITHOUT_CALLS if suspended else looks_left - 1
        tops = sys._current_frames()
        for thread in {thread for thread, _ in list(suspended.values())} & tops.keys():
            top = tops[thread]
            here = id(top), top.f_lasti
            if seen.get(thread) == here and here not in reported and (lock := _waits_for(top)):
                reported.add(here)
                _report(thread, top, lock)
            seen[thread] = here
        tops.clear()
    _runs = False


def _waits_for(frame: FrameType) -> str | None:
    """Return what a thread waits for, if its innermost frame is at a lock."""
    file, line = frame.f_code.co_filename, linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    if file.endswith(_WAITING_MODULES):
        return "what " + _outside_of(frame, file)
    for region in obstacles.regions(frame.f_code):
        if region.line == frame.f_lineno and obstacles.is_lock(region.held, frame):
            return ast.unparse(region.held)
    return line.strip() if ".acquire(" in line else None


def _outside_of(frame: FrameType, file: str) -> str:
    caller: FrameType | None = frame
    while caller is not None and caller.f_code.co_filename == file:
        caller = caller.f_back
    found = caller or frame
    return f"{found.f_code.co_filename}:{found.f_lineno} in {found.f_code.co_name} waits for"


def _report(thread: int, top: FrameType, lock: str) -> None:
    # The loop stands still: the suspended frames do not change meanwhile.
    places = [_application(frame) for other, frame in list(suspended.values()) if other == thread]
    named = ", ".join(dict.fromkeys(places[:_MOST_NAMED]))
    _logger.error(
        "the event loop's thread waits for a lock at %s:%d in %s (%s), while %d calls of the service are "
        "suspended in it; if one of their tasks holds it, the loop never goes on: %s",
        *(top.f_code.co_filename, top.f_lineno, top.f_code.co_name, lock, len(places), named),
    )


def _application(frame: FrameType) -> str:
    """Return the calls that led to a suspended one, from its own line outwards, as far as they are plain."""
    found: list[str] = []
    current: FrameType | None = frame
    while current is not None and len(found) < _MOST_NAMED:
        if not obstacles.is_ours(current):
            found.append(f"{current.f_code.co_filename}:{current.f_lineno} in {current.f_code.co_name}")
        current = current.f_back
    return " < ".join(found)
