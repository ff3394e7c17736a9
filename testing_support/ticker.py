"""A ticker: it measures how long an event loop keeps its callbacks waiting beyond what they asked for.

A loop that is held up makes no ticks, so that a long wait would count as one among thousands of short ones:
`high` puts in the ticks that were due meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

PAUSE = 0.002

# When it ended (the monotonic clock is the machine's, alike in all processes), and how long it was too long.
Wait = tuple[float, float]
_RECORD = struct.Struct("dd")


def high(waits: Iterable[float]) -> float:
    """The 99.9th percentile: of less than a thousand waits the longest."""
    due: list[float] = []
    for wait in waits:
        due.append(wait)
        while (wait := wait - PAUSE) > 0:
            due.append(wait)
    due.sort()
    return due[int(len(due) * 0.999)] if due else 0.0


async def waits_until(end: float) -> list[float]:
    """The excess of each wait, in seconds, until the monotonic clock shows `end`."""
    waits = []
    while time.monotonic() < end:
        start = time.monotonic()
        await asyncio.sleep(PAUSE)
        waits.append(time.monotonic() - start - PAUSE)
    return waits


class Control:
    """A ticker in a process that does nothing else, from its making to its `close()`."""

    def __init__(self) -> None:
        # A file, not a pipe: nothing of what this process does, or fails to do, holds the other up.
        self._file = tempfile.NamedTemporaryFile(prefix="ticker-")  # noqa: SIM115
        self._process = subprocess.Popen([sys.executable, "-m", "testing_support.ticker", self._file.name])
        self._read = 0
        self._waits: list[Wait] = []

    def waits_between(self, start: float, end: float) -> list[float]:
        """Its waits of that time; what is older is forgotten."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2 * PAUSE)  # the last tick of that time may be still to come
        self._file.seek(self._read)
        recorded = self._file.read()
        recorded = recorded[: len(recorded) - len(recorded) % _RECORD.size]
        self._read += len(recorded)
        self._waits.extend(_RECORD.iter_unpack(recorded))
        self._waits = [wait for wait in self._waits if wait[0] >= start]
        return [wait for at, wait in self._waits if at <= end]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()


@contextlib.contextmanager
def control() -> Iterator[Control]:
    """A `Control` that ticks when the block begins, and is closed after it."""
    made = Control()
    try:
        while not made.waits_between(0, time.monotonic()):
            time.sleep(0.01)
        yield made
    finally:
        made.close()


async def _record(path: Path, parent: int) -> None:
    with path.open("ab", buffering=0) as file:
        while os.getppid() == parent:
            start = time.monotonic()
            await asyncio.sleep(PAUSE)
            end = time.monotonic()
            file.write(_RECORD.pack(end, end - start - PAUSE))


if __name__ == "__main__":
    asyncio.run(_record(Path(sys.argv[1]), os.getppid()))
