"""What a thread did with its time: it ran, it waited for a processor, or it slept, and for what."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
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


class OtherThreads:
    """For how long threads of this process, but not the calling one, waited for a processor, and ran."""

    def __init__(self) -> None:
        self._own = threading.get_native_id()
        self._files: dict[int, int] = {}

    def queued(self) -> dict[int, int]:
        """The nanoseconds for which each, by its id, waited for a processor since its start."""
        found = {}
        for thread in map(int, os.listdir("/proc/self/task")):  # noqa: PTH208 - a path takes longer
            if thread == self._own:
                continue
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if thread not in self._files:
                    self._files[thread] = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)
                found[thread] = int(os.pread(self._files[thread], 64, 0).split()[1])
        return found

    def queued_since(self, before: dict[int, int], *, together: bool) -> float:
        """For how many seconds they waited since `before`: together, or the one that did longest."""
        waited = [now - before.get(thread, 0) for thread, now in self.queued().items()]
        return (sum(waited) if together else max(waited, default=0)) * _NANOSECONDS

    @staticmethod
    def ran() -> float:
        """For how many seconds all together have run, those that have ended included."""
        return time.process_time() - time.thread_time()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)
