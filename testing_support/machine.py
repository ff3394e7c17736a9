"""What a busy machine adds to the times that a test measures."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


def queued() -> float:
    """Return the seconds that this process's threads were ready to run while others had the processors.

    Of all threads that live now, together: a thread that has ended takes its share along.
    """
    nanoseconds = 0
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended just now
            nanoseconds += int((thread / "schedstat").read_text().split()[1])
    return nanoseconds / 1e9


class Stopwatch:
    """Measures from its making on."""

    def __init__(self) -> None:
        self._queued = queued()
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self._started

    @property
    def held_up(self) -> float:
        """By how many of these seconds, at most, the machine has held this process up."""
        return max(0.0, queued() - self._queued)
