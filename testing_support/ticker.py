"""Tickers: they measure by how much the callbacks of an event loop, or an idle process, come too late.

A machine that is shared stalls everybody now and then. The ticker in an idle process, the control, shows how
much of a measured wait the machine has caused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PAUSE = 0.001


class Wait(NamedTuple):
    """One tick of the control. The monotonic clock is the machine's, alike in all processes."""

    processor: int
    end: float
    late: float
    state: str
    """What the first thread of whoever has the control did when the tick ended: see `_Looker`."""


_RECORD = struct.Struct("qddc")


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


@contextlib.asynccontextmanager
async def ticker() -> AsyncIterator[Waits]:
    """Tick on the running loop during the block."""
    waits = Waits()
    task = asyncio.ensure_future(_tick(waits))
    try:
        yield waits
    finally:
        task.cancel()


async def _tick(waits: Waits) -> None:
    while True:
        due = time.perf_counter() + PAUSE
        await asyncio.sleep(PAUSE)
        waits.late.append(time.perf_counter() - due)


def high(waits: Iterable[float]) -> float:
    """Return the 99.9th percentile: of less than a thousand waits the longest.

    A loop that is held up makes no ticks, so that a long wait would count as one among thousands of short
    ones: the ticks that were due meanwhile are put in.
    """
    due: list[float] = []
    for wait in waits:
        due.append(wait)
        while (wait := wait - PAUSE) > 0:
            due.append(wait)
    due.sort()
    return due[int(len(due) * 0.999)] if due else 0.0


class Control:
    """Tickers, one for each processor, in a process that does nothing else, until `close()`."""

    def __init__(self) -> None:
        # A file, not a pipe: nothing of what this process does, or fails to do, holds the other up.
        self._file = tempfile.NamedTemporaryFile(prefix="ticker-")  # noqa: SIM115
        self._process = subprocess.Popen([sys.executable, "-m", "testing_support.ticker", self._file.name])
        self._read = 0
        self._waits: list[Wait] = []
        try:
            self.waits_between(0.0, 0.0)
        except BaseException:
            self.close()
            raise

    def waits_between(self, start: float, end: float) -> list[float]:
        """By how much its ticks of that time came late; what is older is forgotten."""
        return [wait.late for wait in self.between(start, end)]

    def between(self, start: float, end: float) -> list[Wait]:
        """Return its waits of that time; what is older is forgotten."""
        processors = os.sched_getaffinity(0)
        # A tick that the machine holds up is noted only after it.
        while not processors <= {wait.processor for wait in self._waits if wait.end >= end}:
            if self._process.poll() is not None:
                raise RuntimeError("the control ticker has ended")
            self._file.seek(self._read)
            recorded = self._file.read()
            recorded = recorded[: len(recorded) - len(recorded) % _RECORD.size]
            self._read += len(recorded)
            self._waits.extend(_wait(*fields) for fields in _RECORD.iter_unpack(recorded))
            time.sleep(PAUSE)
        self._waits = [wait for wait in self._waits if wait.end >= start]
        return [wait for wait in self._waits if wait.end - wait.late - PAUSE <= end]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._file.close()


@contextlib.contextmanager
def control() -> Iterator[Control]:
    """A `Control` that ticks when the block begins, and is closed after it."""
    with contextlib.closing(Control()) as made:
        yield made


def _wait(processor: int, end: float, late: float, state: bytes) -> Wait:
    return Wait(processor, end, late, state.decode())


class _Looker:
    """Looks at what the first thread of a process does.

    It runs, or could run ("R"); it sleeps on a lock ("L", also if the system does not tell) or for something
    else ("S"); it waits for the disk, or for something else that cannot be interrupted ("D").
    """

    def __init__(self, process: int) -> None:
        folder = f"/proc/{process}/task/{process}"
        self._state, self._sleeps_in = (
            os.open(f"{folder}/{name}", os.O_RDONLY) for name in ("stat", "wchan")
        )

    def look(self) -> bytes:
        """Return the letter.

        Raises:
            ProcessLookupError: the process has ended.
        """
        sleeps_in = os.pread(self._sleeps_in, 64, 0)
        if b"epoll" in sleeps_in:  # nearly always, so the second look is saved
            return b"S"
        state = os.pread(self._state, 512, 0).rpartition(b") ")[2][:1]
        if state == b"S" and (b"futex" in sleeps_in or sleeps_in in (b"", b"0")):
            return b"L"
        return state


def _record(path: Path, parent: int, processor: int) -> None:
    os.sched_setaffinity(0, {processor})
    looker = _Looker(parent)
    with path.open("ab", buffering=0) as file, contextlib.suppress(ProcessLookupError):
        while os.getppid() == parent:
            start = time.monotonic()
            time.sleep(PAUSE)
            end = time.monotonic()
            file.write(_RECORD.pack(processor, end, end - start - PAUSE, looker.look()))


if __name__ == "__main__":
    for processor in os.sched_getaffinity(0):
        arguments = (Path(sys.argv[1]), os.getppid(), processor)
        threading.Thread(target=_record, args=arguments).start()
