"""What a thread did with its time: it ran, it waited for a processor, or it slept, and for what."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

_NANOSECONDS = 1e-9


class Moment(NamedTuple):
    """What the calling thread has used so far; the times are in seconds."""

    time: float
    ran: float
    queued: float
    """It could have run, and had no processor."""
    switches: int
    """How often it began to sleep."""
    reads: int
    """Page faults and reads that had to wait for the disk."""
    writes: int


class Meter:
    """Measures one thread, of which all methods are called."""

    def __init__(self) -> None:
        self._file = os.open("/proc/thread-self/schedstat", os.O_RDONLY)

    def now(self) -> Moment:
        """What the thread has used until now."""
        used = resource.getrusage(resource.RUSAGE_THREAD)
        queued = int(os.pread(self._file, 64, 0).split()[1]) * _NANOSECONDS
        reads = used.ru_majflt + used.ru_inblock
        return Moment(time.monotonic(), time.thread_time(), queued, used.ru_nvcsw, reads, used.ru_oublock)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class PythonThreads:
    """The threads of this process that may hold the interpreter's lock, without the given ones."""

    def __init__(self, without: Iterable[int]) -> None:
        self._without = set(without)
        self._files: dict[int, int] = {}

    def busy(self) -> dict[int, float]:
        """For how many seconds each, by its id, has run or waited for a processor since its start."""
        found = {}
        for thread in threading.enumerate():
            number = thread.native_id
            if number is None or number in self._without:
                continue
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if number not in self._files:
                    self._files[number] = os.open(f"/proc/self/task/{number}/schedstat", os.O_RDONLY)
                ran, queued, _ = os.pread(self._files[number], 64, 0).split()
                found[number] = (int(ran) + int(queued)) * _NANOSECONDS
        return found

    def busy_since(self, before: dict[int, float]) -> float:
        """For how many seconds all together have done so since they were `before`."""
        return sum(now - before.get(thread, 0.0) for thread, now in self.busy().items())

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)
