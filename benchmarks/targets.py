"""What the figures are held against."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import peers
from benchmarks.results import Results, Series

_BARE = "bare-reqwest"


@dataclass(frozen=True)
class Target:
    """A bound on our figure, or on its ratio to a peer's in the same run."""

    axis: str
    key: str
    text: str
    bound: float
    against: str = ""
    at_least: bool = False
    loops: tuple[str, ...] = ("asyncio", "uvloop")
    unit: str = ""
    us: str = peers.OURS


TARGETS = (
    Target("load-100", "cpu_us", "CPU per call / openai", 1 / 30, "openai"),
    Target("load-100", "cpu_us", "CPU per call / openai on aiohttp", 1 / 15, "openai-aiohttp"),
    Target("load-100", "cpu_us", "CPU per call / aiohttp", 1 / 2, "aiohttp", loops=("asyncio",)),
    Target("load-100", "cpu_us", "CPU per call / pyreqwest", 1 / 2, "pyreqwest", loops=("asyncio",)),
    Target("load-100", "cpu_us", "CPU per call / pyreqwest", 0.8, "pyreqwest", loops=("uvloop",)),
    Target("load-100", "cpu_us", "CPU per call / bare reqwest", 2.2, _BARE),
    Target("load-100", "calls_per_s", "calls/s / pyreqwest", 1.7, "pyreqwest", True, ("asyncio",)),
    Target("load-100", "calls_per_s", "calls/s / pyreqwest", 1.2, "pyreqwest", True, ("uvloop",)),
    Target("load-100", "calls_per_s", "calls/s / bare reqwest", 0.5, _BARE, True),
    Target("load-1000", "worst_stall_ms", "worst stall, 1,000 in flight / pyreqwest", 0.5, "pyreqwest"),
    Target("load-1000", "worst_stall_ms", "worst stall, 1,000 in flight", 15, unit=" ms"),
    Target("burst", "seconds", "10,000 calls of 2 s all done", 2.8, unit=" s"),
    Target("burst", "failures", "of them failed", 0),
    Target("burst", "worst_stall_ms", "worst stall meanwhile", 60, unit=" ms"),
    Target("burst", "rss_growth_kb_per_call", "peak RSS growth per call", 30, unit=" KB"),
    Target("streaming", "cpu_us_per_chunk", "CPU per chunk / openai", 1 / 20, "openai"),
    Target("streaming", "cpu_us_per_chunk", "CPU per chunk / aiohttp", 1, "aiohttp"),
    Target("import", "wall_ms", "import above bare Python", 15, loops=("",), unit=" ms"),
    Target("bridge", "cpu_us", "CPU per await / stock bridge", 1 / 6, "stock bridge", us="this bridge"),
)


@dataclass(frozen=True)
class Verdict:
    """A target, and what was measured."""

    loop: str
    text: str
    measured: str
    bound: str
    met: bool


def judge(results: Results) -> Iterator[Verdict]:
    """Every target for which the run has figures, in the order of `TARGETS`."""
    for target in TARGETS:
        measured = results.axis(target.axis)
        for loop in target.loops:
            ours = measured.of(target.us, loop) if measured else None
            if measured is None or ours is None:
                continue
            value = _value(
                target, ours, next((s for s in measured.series if _stands_for(s, target, loop)), None)
            )
            if value is None:
                continue
            sign, met = ("≥", value >= target.bound) if target.at_least else ("≤", value <= target.bound)
            show = _ratio if target.against else lambda number, unit=target.unit: f"{number:.3g}{unit}"
            yield Verdict(loop, target.text, show(value), f"{sign} {show(target.bound)}", met)


def _stands_for(series: Series, target: Target, loop: str) -> bool:
    """A program of its own has no event loop: it runs once, and stands for both."""
    return series.subject.name == target.against and (series.subject.loop == loop or target.against == _BARE)


def _value(target: Target, ours: Series, theirs: Series | None) -> float | None:
    if not target.against:
        return ours.median(target.key)
    ratios = ours.ratios(theirs, target.key) if theirs else []
    return statistics.median(ratios) if ratios else None


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.3 else f"1/{1 / value:.1f}"
