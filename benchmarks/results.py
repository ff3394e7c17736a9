"""Figures of a run: kept, summed up, written and read."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import installed, lock_peers, peers, stores
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
    size: str = "in flight"
    """What a subject's size counts."""
    note: str = ""
    about: dict[str, Any] | None = None
    """The run that measured it, if that is not the run of the others."""

    @classmethod
    def begin(cls, axis: Axis, settings: Settings) -> Measured:
        series = [Series(subject) for subject in axis.subjects(settings)]
        return cls(
            axis.name,
            axis.title,
            list(axis.columns),
            axis.headline,
            axis.reference,
            series,
            axis.size,
            axis.note,
        )

    @property
    def headline_heading(self) -> str:
        return next(column.heading for column in self.columns if column.key == self.headline)

    def of(self, subject: Subject) -> Series | None:
        """The series of one subject."""
        return next((series for series in self.series if series.subject == subject), None)

    def reference_for(self, subject: Subject) -> Series | None:
        return self.of(replace(subject, name=self.reference))


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

    def merge(self, other: Results, order: Iterable[str]) -> None:
        """Take over the axes of another run, in place of those of the same name."""
        for axis in self.axes:
            axis.about = axis.about or self.about
        axes = {axis.name: axis for axis in (*self.axes, *other.axes)}
        self.axes = [axes[name] for name in order if name in axes]
        self.about = other.about


def about(settings: Settings) -> dict[str, Any]:
    """What a reader needs to judge the figures, or to repeat them."""
    return {
        "machine": f"{os.cpu_count()} cores {platform.machine().replace('_', '-')}, {platform.system()}",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": installed.versions(_distributions()),
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _distributions() -> set[str]:
    return {
        *peers.distributions(peers.PEERS),
        *lock_peers.distributions(lock_peers.LOCK_PEERS),
        *stores.DISTRIBUTIONS,
        "uvloop",
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
