"""What the figures are held against."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

from benchmarks import lock_peers, peers
from benchmarks.axes.axis import Subject
from benchmarks.lock_peers import LEASES, ORIGINAL, PGBENCH, PGBENCH_OURS
from benchmarks.results import Measured, Results, Series
from benchmarks.stores import TITLES

_PROGRAMS = (*peers.PROGRAMS, *lock_peers.PROGRAMS)


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
    store: str = ""
    against_store: str = ""
    """The peer's, if it is not ours."""
    flat: bool = False
    """The figure is that of the largest size over the least of any size."""


_CALLS = (
    Target("load-100", "cpu_us", "CPU per call / openai", 1 / 30, "openai"),
    Target("load-100", "cpu_us", "CPU per call / openai on aiohttp", 1 / 15, "openai-aiohttp"),
    Target("load-100", "cpu_us", "CPU per call / aiohttp", 1 / 2, "aiohttp", loops=("asyncio",)),
    Target("load-100", "cpu_us", "CPU per call / pyreqwest", 1 / 2, "pyreqwest", loops=("asyncio",)),
    Target("load-100", "cpu_us", "CPU per call / pyreqwest", 0.8, "pyreqwest", loops=("uvloop",)),
    Target("load-100", "cpu_us", "CPU per call / bare reqwest", 2.2, peers.BARE),
    Target("load-100", "calls_per_s", "calls/s / pyreqwest", 1.7, "pyreqwest", True, ("asyncio",)),
    Target("load-100", "calls_per_s", "calls/s / pyreqwest", 1.2, "pyreqwest", True, ("uvloop",)),
    Target("load-100", "calls_per_s", "calls/s / bare reqwest", 0.5, peers.BARE, True),
    Target("load-1000", "worst_stall_ms", "worst stall, 1,000 in flight / pyreqwest", 0.5, "pyreqwest"),
    Target("load-1000", "worst_stall_ms", "worst stall, 1,000 in flight", 15, unit=" ms"),
    Target("burst", "seconds", "10,000 calls of 2 s: all done", 2.8, unit=" s"),
    Target("burst", "failures", "10,000 calls of 2 s: failed", 0),
    Target("burst", "worst_stall_ms", "10,000 calls of 2 s: worst stall", 60, unit=" ms"),
    Target(
        "burst", "rss_growth_kb_per_call", "10,000 calls of 2 s: peak RSS growth per call", 30, unit=" KB"
    ),
    Target("streaming", "cpu_us_per_chunk", "CPU per chunk / openai", 1 / 20, "openai"),
    Target("streaming", "cpu_us_per_chunk", "CPU per chunk / aiohttp", 1, "aiohttp"),
    Target("import", "wall_ms", "import above bare Python", 15, loops=("",), unit=" ms"),
    Target("bridge", "cpu_us", "CPU per await / stock bridge", 1 / 6, "stock bridge", us="this bridge"),
)

# Who locks in the plainest way, or the floor, and what part of its pairs is to be reached.
_PAIRS = (
    Target(
        "locks-alone",
        "pairs_per_s",
        "SQLite alone: pairs/s / aiosqlite",
        1.5,
        "aiosqlite",
        True,
        store="sqlite",
    ),
    Target(
        "locks-100",
        "pairs_per_s",
        "SQLite, 100 keys: pairs/s / raw sqlite3",
        1,
        "sqlite3",
        True,
        store="sqlite",
    ),
    *(
        Target("locks-alone", "pairs_per_s", f"PostgreSQL alone: {text}", 0.8, who, True, store="postgresql")
        for text, who in (
            ("pairs/s / pgbench with our statements, 1 client", PGBENCH_OURS),
            ("pairs/s / pgbench, 1 client", PGBENCH),
        )
    ),
    Target(
        "locks-100",
        "pairs_per_s",
        "PostgreSQL, 100 keys: pairs/s / pgbench, 8 clients",
        1,
        PGBENCH,
        True,
        store="postgresql",
    ),
    *(
        Target(axis, "cpu_us", f"{title}{how}: CPU per pair / the original", 1 / 20, ORIGINAL, store=store)
        for axis, how in (("locks-alone", " alone"), ("locks-100", ", 100 keys"))
        for store, title in TITLES.items()
    ),
)

_ADVISORY = "pg_advisory_lock"
_POLLERS = (
    ("sqlite", ORIGINAL),
    ("sqlite", "aiosqlite"),
    ("postgresql", ORIGINAL),
    ("postgresql", "asyncpg"),
    ("redis", ORIGINAL),
    ("redis", "redis-py"),
)

_HAND_OFF = (
    *(
        Target(
            "hand-off", "within_ms", f"{title}: {what} in one process", 0.5, unit=" ms", us=us, store=store
        )
        for what, us in (("hand-off of a lease", LEASES), ("hand-off", peers.OURS))
        for store, title in TITLES.items()
    ),
    *(
        Target(
            "hand-off",
            "between_ms",
            f"{TITLES[store]}: hand-off between processes / {_ADVISORY}",
            bound,
            _ADVISORY,
            store=store,
            against_store="postgresql",
        )
        for store, bound in (("sqlite", 5), ("postgresql", 3), ("redis", 5))
    ),
    *(
        Target("hand-off", key, f"{TITLES[store]}: hand-off {where} / {poller}", 1 / 10, poller, store=store)
        for key, where in (("within_ms", "in one process"), ("between_ms", "between processes"))
        for store, poller in _POLLERS
    ),
    *(
        Target("hand-off", "queue", f"{title}: 20 waiters of 5 ms / their holds", 1.3, store=store)
        for store, title in TITLES.items()
    ),
)

_WAITING = tuple(
    Target("waiting", key, f"{title}: {text}", bound, unit=unit, store=store)
    for key, text, bound, unit in (
        ("idle_percent", "1,000 waiters, CPU of a core", 2, " %"),
        ("idle_statements", "1,000 waiters, statements a second", 5, ""),
        ("takeover_ms", "an expired lock is taken over within", 50, " ms"),
        ("loop_excess_ms", "loop's p99.9 above an idle one's", 20, " ms"),
    )
    for store, title in TITLES.items()
)

# What grows with the size would be thousands of times as much. Twice is what a larger working set may cost: a
# tree of 100,000 rows is two pages deeper, and 10,000 connections do not fit into a processor's cache.
_FLAT = 2.0

_SIZES = (
    Target("sizes-calls", "cpu_us", "10,000 calls in flight: CPU per call / at its least", _FLAT, flat=True),
    *(
        Target(axis, key, f"{title}, {what} / at its least", _FLAT, store=store, flat=True)
        for axis, key, what in (
            ("sizes-held", "pair_us", "100,000 locks held: time of a pair"),
            ("sizes-waiters", "served_us", "10,000 waiters: time until the next is served"),
        )
        for store, title in TITLES.items()
    ),
)

TARGETS: tuple[Target, ...] = (*_CALLS, *_PAIRS, *_HAND_OFF, *_WAITING, *_SIZES)


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
            value = _value(target, measured, loop) if measured else None
            if value is None:
                continue
            sign, met = ("≥", value >= target.bound) if target.at_least else ("≤", value <= target.bound)
            is_ratio = target.against or target.flat
            show = _ratio if is_ratio else lambda number, unit=target.unit: f"{number:.3g}{unit}"
            yield Verdict(loop, target.text, show(value), f"{sign} {show(target.bound)}", met)


def _value(target: Target, measured: Measured, loop: str) -> float | None:
    if target.flat:
        return _median(_growth(target, measured, loop))
    ours = measured.of(Subject(target.us, loop, store=target.store))
    if ours is None or not target.against:
        return ours.median(target.key) if ours else None
    theirs = next((series for series in measured.series if _stands_for(series, target, loop)), None)
    return _median(ours.ratios(theirs, target.key)) if theirs else None


def _stands_for(series: Series, target: Target, loop: str) -> bool:
    """A program of its own has no event loop: it runs once, and stands for both."""
    subject = series.subject
    return (subject.name, subject.store) == (target.against, target.against_store or target.store) and (
        subject.loop == loop or subject.name in _PROGRAMS
    )


def _growth(target: Target, measured: Measured, loop: str) -> list[float]:
    """Round by round, the figure of the largest size over the least of any size."""
    curve = sorted(
        (
            s
            for s in measured.series
            if replace(s.subject, size=0) == Subject(target.us, loop, store=target.store)
        ),
        key=lambda series: series.subject.size,
    )
    rounds = zip(*(series.rounds for series in curve), strict=False)
    return [
        figures[-1][target.key] / min(one[target.key] for one in figures)
        for figures in rounds
        if all(figures)
    ]


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.3 else f"1/{1 / value:.1f}"
