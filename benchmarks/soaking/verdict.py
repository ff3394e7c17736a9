"""Whether a soak was passed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.soaking.samples import Sample, columns

JUDGED_FROM_MINUTES: Final = 30.0
"""In a shorter run the allocators still warm up, and the slope says nothing."""
_STEEPEST_MB_PER_HOUR: Final = 1.0
_BLOCKS: Final = 30
_DESCRIPTORS_THAT_COME_AND_GO: Final = 0.1

_HAS_TO_HAPPEN: Final = (
    ("call", "answered"),
    ("call", "cancelled"),
    ("call in haste", "timed out"),
    ("call through a breaker", "answered"),
    ("call through a breaker", "CircuitBreakerError"),
    ("stream, read whole", "read"),
    ("stream, read whole", "APIConnectionError"),
    ("stream, left early", "left"),
    ("lock, plain", "held"),
    ("lock, plain", "cancelled"),
    ("lock, block", "held"),
    ("lock, block", "cancelled"),
    ("lock, in haste", "LockTimeoutError"),
    ("lock, held long", "held"),
)


@dataclass(frozen=True)
class Line:
    """A straight line through points, and the standard error of its slope."""

    slope: float
    intercept: float
    slope_error: float

    @classmethod
    def through(cls, xs: Sequence[float], ys: Sequence[float]) -> Line:
        """The line of least squares.

        Samples a second apart are not independent of each other, so that the standard error of a line through
        them would be too small. So the line goes through the means of blocks of neighbours.
        """
        size = max(len(xs) // _BLOCKS, 1)
        starts = range(0, len(xs), size)
        xs = [statistics.fmean(xs[start : start + size]) for start in starts]
        ys = [statistics.fmean(ys[start : start + size]) for start in starts]
        slope, intercept = statistics.linear_regression(xs, ys)
        squares = sum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
        centre = statistics.fmean(xs)
        spread = sum((x - centre) ** 2 for x in xs)
        return cls(slope, intercept, math.sqrt(squares / max(len(xs) - 2, 1) / spread))


@dataclass(frozen=True)
class Ending:
    """What was left when all was over: requests and native calls under way, and rows by kind of database."""

    requests: int
    native_calls: int
    rows: Mapping[str, int]


@dataclass(frozen=True)
class Check:
    """One figure against its bound. `met` is None if it was not judged."""

    what: str
    measured: str
    bound: str
    met: bool | None


def warm(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples after the first sixth of the time."""
    end = samples[-1].seconds
    return [sample for sample in samples if sample.seconds >= end / 6]


def memory_line(samples: Sequence[Sample], column: str = "resident_kb") -> Line:
    """Megabytes against hours."""
    values = columns(samples)
    return Line.through(
        [seconds / 3600 for seconds in values["seconds"]], [kilobytes / 1024 for kilobytes in values[column]]
    )


def judge(
    samples: Sequence[Sample],
    ending: Ending,
    outcomes: Mapping[tuple[str, str], int],
    faults: Mapping[str, int],
) -> list[Check]:
    """Every check."""
    long_enough = samples[-1].seconds >= JUDGED_FROM_MINUTES * 60 - 5
    samples = warm(samples)
    line, anonymous = memory_line(samples), memory_line(samples, "anonymous_kb")
    missing = [": ".join(pair) for pair in _HAS_TO_HAPPEN if not outcomes.get(pair)]
    opened = any(sample.circuit_open for sample in samples)
    closed = any(not sample.circuit_open for sample in samples)
    return [
        Check(
            "slope of resident memory",
            f"{line.slope:+.2f} ± {line.slope_error:.2f} MB/h",
            f"< {_STEEPEST_MB_PER_HOUR:.0f} MB/h from {JUDGED_FROM_MINUTES:.0f} minutes on",
            line.slope < _STEEPEST_MB_PER_HOUR if long_enough else None,
        ),
        Check(
            "  the same without files' pages",
            f"{anonymous.slope:+.2f} ± {anonymous.slope_error:.2f} MB/h",
            "",
            None,
        ),
        _no_growth("descriptors", samples, _DESCRIPTORS_THAT_COME_AND_GO),
        _no_growth("threads", samples, 0.0),
        _none_left("requests under way at the end", ending.requests),
        _none_left("native calls under way at the end", ending.native_calls),
        *(_none_left(f"rows left in {database}", count) for database, count in ending.rows.items()),
        Check("what should not happen", _listed(faults), "nothing", not faults),
        Check("what has to happen and did not", ", ".join(missing) or "nothing", "nothing", not missing),
        Check(
            "the breaker was seen open, and closed", f"{opened}, {closed}", "True, True", opened and closed
        ),
    ]


def _no_growth(column: str, samples: Sequence[Sample], tolerance: float) -> Check:
    values = columns(samples)[column]
    quarter = max(len(values) // 4, 1)
    before, after = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
    return Check(
        f"{column}, median of the first and the last quarter",
        f"{before:.0f}, {after:.0f}",
        f"+ {tolerance:.0%}" if tolerance else "no more",
        after <= before * (1 + tolerance),
    )


def _none_left(what: str, count: int) -> Check:
    return Check(what, str(count), "0", count == 0)


def _listed(faults: Mapping[str, int]) -> str:
    return "; ".join(f"{count} x {fault}" for fault, count in faults.items()) or "nothing"
