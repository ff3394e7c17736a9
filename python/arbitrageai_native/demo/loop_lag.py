"""How late an event loop is: what a ticker task on it sees.

A tick is due every few milliseconds. How much later than due it comes is how long the loop could not do what
it should have done: the stall that every other task saw too.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

SECONDS_BETWEEN_TICKS: Final = 0.005


class LoopLag:
    """Measures the lag of the loop it is started in, from `start` to `stop`."""

    def __init__(self) -> None:
        self._worst = 0.0
        self._worst_since_asked = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def worst_ms(self) -> float:
        """The worst lag since the start, in milliseconds."""
        return self._worst * 1000

    def take_recent_ms(self) -> float:
        """Return the worst lag since this was last asked, in milliseconds."""
        recent, self._worst_since_asked = self._worst_since_asked, 0.0
        return recent * 1000

    def start(self) -> None:
        """Begin to tick in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._tick())

    def stop(self) -> None:
        """Tick no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _tick(self) -> None:
        while True:
            due = time.perf_counter() + SECONDS_BETWEEN_TICKS
            await asyncio.sleep(SECONDS_BETWEEN_TICKS)
            lag = time.perf_counter() - due
            self._worst = max(self._worst, lag)
            self._worst_since_asked = max(self._worst_since_asked, lag)
