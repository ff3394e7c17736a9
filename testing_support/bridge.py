"""What the tests of the bridge share."""

import asyncio
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


def nothing_left() -> bool:
    """Whether no call is under way any more and no guard is held, by a future or as an undelivered result."""
    return wait_until(lambda: Probe.live_calls() == 0 and Probe.live_guards() == 0)


def open_descriptors() -> int:
    """How many file descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
