"""What the process looks like, second by second, in a file: kept in memory it would itself be growth."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import TextIO

from arbitrageai_native._native import Probe, requests_under_way


@dataclass(frozen=True)
class Sample:
    """The process at one moment.

    `anonymous_kb` is `resident_kb` without the pages of files: the part that a leak grows. `requests` and
    `native_calls` are those under way; `sqlite_rows` and `postgresql_rows` the locks in each table.
    """

    seconds: float
    resident_kb: int
    anonymous_kb: int
    descriptors: int
    threads: int
    requests: int
    native_calls: int
    sqlite_rows: int
    postgresql_rows: int
    activities: int
    circuit_open: int

    @classmethod
    def take(
        cls, seconds: float, *, sqlite_rows: int, postgresql_rows: int, activities: int, circuit_open: bool
    ) -> Sample:
        """Look now."""
        status = Path("/proc/self/status").read_text()
        return cls(
            seconds=round(seconds, 2),
            resident_kb=_figure(status, "VmRSS"),
            anonymous_kb=_figure(status, "RssAnon"),
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1,  # the listing's own
            threads=_figure(status, "Threads"),
            requests=requests_under_way(),
            native_calls=Probe.live_calls(),
            sqlite_rows=sqlite_rows,
            postgresql_rows=postgresql_rows,
            activities=activities,
            circuit_open=int(circuit_open),
        )


def _figure(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.M)
    assert found is not None
    return int(found[1])


class Record:
    """A file of samples, written line by line."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines = csv.writer(file)
        self._lines.writerow(field.name for field in fields(Sample))

    def add(self, sample: Sample) -> None:
        """Write one."""
        self._lines.writerow(astuple(sample))
        self._file.flush()


def read(path: Path) -> list[Sample]:
    """The samples of a file."""
    with path.open(newline="") as file:
        return [
            Sample(**{name: float(text) if name == "seconds" else int(text) for name, text in line.items()})
            for line in csv.DictReader(file)
        ]


def columns(samples: Iterable[Sample]) -> dict[str, list[float]]:
    """The samples, column by column."""
    rows = [asdict(sample) for sample in samples]
    return {field.name: [row[field.name] for row in rows] for field in fields(Sample)}
