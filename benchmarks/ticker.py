"""How long a loop keeps its callbacks waiting: a ticker on it, and a control in an idle process beside it.

A machine that is shared stalls everybody now and then. The control's figures say how much of a measured wait
is the machine's and not the package's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

INTERVAL = 0.001


@dataclass
class Waits:
    """By how many seconds each tick came late."""

    late: list[float] = field(default_factory=list)

    @property
    def worst(self) -> float:
        return max(self.late, default=0.0)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.late)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


async def tick(waits: Waits) -> None:
    """Wake up every millisecond, and note how late it was."""
    while True:
        due = time.perf_counter() + INTERVAL
        await asyncio.sleep(INTERVAL)
        waits.late.append(time.perf_counter() - due)


@contextlib.asynccontextmanager
async def ticker() -> AsyncIterator[Waits]:
    """A ticker on the running loop while the body runs."""
    waits = Waits()
    task = asyncio.ensure_future(tick(waits))
    try:
        yield waits
    finally:
        task.cancel()


@contextlib.asynccontextmanager
async def control() -> AsyncIterator[Waits]:
    """A ticker in a process of its own that does nothing else; its waits are there after the body."""
    waits = Waits()
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield waits
    finally:
        output, _ = await process.communicate(b"")  # without an input, its end is not told on Python 3.11
        waits.late.extend(json.loads(output))


async def _control_process() -> None:
    loop = asyncio.get_running_loop()
    print(flush=True)
    async with ticker() as waits:
        await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps(waits.late))


if __name__ == "__main__":
    asyncio.run(_control_process())
