"""A ticker: it measures how long an event loop keeps a task waiting beyond what it asked for."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator

_PAUSE = 0.002


async def waits_until(end: float) -> list[float]:
    """The excess of each wait, in seconds, until the monotonic clock shows `end`."""
    waits = []
    while time.monotonic() < end:
        start = time.perf_counter()
        await asyncio.sleep(_PAUSE)
        waits.append(time.perf_counter() - start - _PAUSE)
    return waits


def high(waits: list[float]) -> float:
    """The 99.9th percentile."""
    return sorted(waits)[int(len(waits) * 0.999)]


@contextlib.contextmanager
def control(seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A ticker in a process that does nothing else; it prints its percentile after so many seconds."""
    command = [sys.executable, "-m", "tests.ticker", str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process


if __name__ == "__main__":
    print(high(asyncio.run(waits_until(time.monotonic() + float(sys.argv[1])))))
