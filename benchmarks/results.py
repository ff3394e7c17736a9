"""Figures of a run: kept, summed up, written and read."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.axes.axis import Axis, Column, Figures, Settings, Subject


@dataclass
class Series:
    """Every round of one subject. A round in which it failed is None."""

    subject: Subject
    rounds: list[Figures | None] = field(default_factory=list)
    fault: str = ""
    """The last reason for a failed round."""

    def values(self, key: str) -> list[float]:
        return [figures[key] for figures in self.rounds if figures is not None and key in figures]

    def median(self, key: str) -> float | None:
        values = self.values(key)
        return statistics.median(values) if values else None

    def ratios(self, other: Series, key: str) -> list[float]:
        """Round by round, this subject's figure over the other's."""
        return [
            mine[key] / theirs[key]
            for mine, theirs in zip(self.rounds, other.rounds, strict=False)
            if mine and theirs and mine.get(key) is not None and theirs.get(key)
        ]


@dataclass
class Measured:
    """One axis with its figures."""

    name: str
    title: str
    columns: list[Column]
    headline: str
    reference: str
    series: list[Series]

    @classmethod
    def begin(cls, axis: Axis, settings: Settings) -> Measured:
        series = [Series(subject) for subject in axis.subjects(settings)]
        return cls(axis.name, axis.title, list(axis.columns), axis.headline, axis.reference, series)

    def of(self, name: str, loop: str = "", size: int = 0) -> Series | None:
        """The series of one subject."""
        wanted = Subject(name, loop, size)
        return next((series for series in self.series if series.subject == wanted), None)

    def reference_for(self, subject: Subject) -> Series | None:
        return self.of(self.reference, subject.loop, subject.size)


@dataclass
class Results:
    """One run."""

    about: dict[str, Any]
    axes: list[Measured] = field(default_factory=list)

    def axis(self, name: str) -> Measured | None:
        return next((axis for axis in self.axes if axis.name == name), None)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        data = json.loads(path.read_text())
        axes = [
            Measured(
                **{
                    **axis,
                    "columns": [Column(**column) for column in axis["columns"]],
                    "series": [
                        Series(Subject(**one["subject"]), one["rounds"], one["fault"])
                        for one in axis["series"]
                    ],
                }
            )
            for axis in data["axes"]
        ]
        return cls(data["about"], axes)

    def merge(self, other: Results) -> None:
        """Take over the axes of another run, in place of those of the same name."""
        names = {axis.name for axis in other.axes}
        self.axes = [axis for axis in self.axes if axis.name not in names] + other.axes
        self.about = other.about


def about(settings: Settings) -> dict[str, Any]:
    """What a reader needs to judge the figures, or to repeat them."""
    return {
        "machine": f"{os.cpu_count()} cores {platform.machine().replace('_', '-')}, {platform.system()}",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": peers.versions(),
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
