"""Stealth mode: a random wait before the request, so that bids do not come at a machine's pace.

The range is checked where a service is made, the seconds are drawn at each call, and the wait counts against
the call's deadline. A native client waits in native code (`delay` of `ChatClient.complete_async`). The other
two waits are here. `sleep` comes from the caller, since code may patch it in `llm_service`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from arbitrageai_native import _native
from arbitrageai_native.exceptions import InvalidArgumentError
from arbitrageai_native.llm.checks import checked_seconds
from arbitrageai_native.llm.request import Request


def checked_range(given: Any) -> tuple[float, float]:
    """Return the least and the longest wait; raises as `checked_seconds`, and where they do not grow."""
    least, longest = checked_seconds("stealth_range", given, 2)
    if least > longest:
        raise InvalidArgumentError(f"stealth_range has to be two growing numbers of seconds, not {given!r}")
    return least, longest


def wait(request: Request, seconds: float, sleep: Callable[[float], object]) -> None:
    """Wait in this thread, by exactly one `sleep`."""
    deadline = request.options.deadline
    seconds = seconds if deadline is None else min(seconds, deadline)
    sleep(seconds)
    request.waited(seconds)


async def wait_async(request: Request, seconds: float) -> None:
    """Wait on the event loop, before the call of an injected client."""
    await request.within_deadline(_native.sleep(seconds))
    request.waited(seconds)
