"""What the tests of the bridge share."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from arbitrageai_native._native import Probe

Result = TypeVar("Result")


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], coroutine: Coroutine[Any, Any, Result]) -> Result:
    """As `asyncio.run`, on a loop of the given kind (`asyncio.Runner` is newer than Python 3.10)."""
    loop = new_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


async def receive(awaitable: Awaitable[Result]) -> Result:
    """A coroutine around one await, for what takes only coroutines."""
    return await awaitable


def wait_until(condition: Callable[[], bool], within: float = 5.0) -> bool:
    """Holds up this thread, and its loop, until `condition` is true."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


class Counted:
    """How many calls and guards the process had, which are none of a test's, when the test began."""

    calls = 0
    guards = 0


def count_from_here() -> None:
    """Begin with a test: what other modules have left, a watch of an open manager for one, does not count."""
    gc.collect()
    if (live_calls(), live_guards()) == (0, 0):
        return
    Counted.calls = Counted.guards = 0
    nothing_left(within=0.5)  # what is about to end has ended
    Counted.calls, Counted.guards = Probe.live_calls(), Probe.live_guards()


def live_calls() -> int:
    """How many calls are under way since `count_from_here`."""
    return Probe.live_calls() - Counted.calls


def live_guards() -> int:
    """How many guards have come since then, and are held by a future or as an undelivered result."""
    return Probe.live_guards() - Counted.guards


def nothing_left(within: float = 5.0) -> bool:
    """Whether no call is under way any more, and no guard is held."""
    return wait_until(lambda: live_calls() == 0 and live_guards() == 0, within)


def open_descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
