"""Writes the figures of docs/scale.md anew: from `scale.json`, and from the simulation that runs on it.

    python benchmarks/scale_page.py [--check]

What stands between `<!-- figures: NAME -->` and `<!-- end -->` is replaced. `--check` writes nothing, and
fails where the page is not what would be written.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.scale_simulation import DAY, FIGURES, Database, Load, Simulation, measured_database

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "redis": "Redis"}
OPERATIONS = {
    "acquire": "acquire a free lock",
    "refused": "be refused a held one",
    "renew": "renew",
    "release": "release",
    "at_once": "acquire, 100 callers of one process at once",
}
SCANNERS = 1_000
CONNECTIONS = {"postgresql": 2, "redis": 2}
SERVER_CORES = 8
SIMULATED_SECONDS = 5.0
TIMES = "\N{MULTIPLICATION SIGN}"
LOAD = Load()

Figures = Mapping[str, Any]


def main() -> int:
    """Write or check the page; the exit status."""
    parser = argparse.ArgumentParser(description="The figures of docs/scale.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is out of date")
    arguments = parser.parse_args()
    page = PAGE.read_text("utf-8")
    current = with_figures(page, json.loads(FIGURES.read_text()))
    if not arguments.check:
        PAGE.write_text(current, "utf-8")
    elif page != current:
        print(f"{PAGE.name} is out of date: run python benchmarks/scale_page.py", file=sys.stderr)
        return 1
    return 0


def with_figures(page: str, figures: Figures) -> str:
    """The page, with every block of figures made anew."""
    return BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block[2]](figures)}{block[3]}", page)


def about(figures: Figures) -> str:
    """When and on what it was measured."""
    of = figures["about"]
    return (
        f"Measured {of['date']} on {of['cores']} cores, server and client together, at a load of"
        f" {of['load_at_start']} before it began.\n"
    )


def operations(figures: Figures) -> str:
    """What an operation costs each kind of database."""

    def rows() -> Iterator[list[str]]:
        yield ["", "", "requests", "bytes sent", "received", "written", "CPU µs"]
        for store, of_store in figures["stores"].items():
            for name, words in OPERATIONS.items():
                cost = of_store["operations"][name]
                wire = [number(cost["sent"]), number(cost["received"])] if cost["sent"] else ["", ""]
                yield [
                    NAMES[store],
                    words,
                    number(cost["requests"]),
                    *wire,
                    number(cost["written"]),
                    number(cost["cpu"] * 1e6),
                ]

    return table(list(rows()))


def capacity(figures: Figures) -> str:
    """What each kind of database carries."""
    about_it = figures["about"]
    rows = [["", *(NAMES[store] for store in figures["stores"])]]

    def row(title: str, value: Callable[[Figures], float]) -> None:
        rows.append([title, *(number(value(of_store)) for of_store in figures["stores"].values())])

    row("pairs a second, one caller", lambda of: of["pairs_a_second"]["alone"])
    row(
        f"{about_it['callers']} callers of one process",
        lambda of: of["pairs_a_second"]["callers"],
    )
    row(
        f"{about_it['processes']} processes of one caller each",
        lambda of: of["pairs_a_second"]["processes"],
    )
    row("bytes for each lock held", lambda of: of["bytes_a_lock"])
    waiters = next(iter(figures["stores"].values()))["waiting"]["waiters"]
    row(f"requests a second of a process with {waiters} waiters", lambda of: of["waiting"]["requests"])
    return table(rows)


def demand(figures: Figures) -> str:
    """What the example asks of a database, step by step."""
    a_posting = LOAD.operations_a_posting()
    a_second = LOAD.postings_a_second
    total = sum(a_posting.values())
    held = a_second * LOAD.hold
    lines = [
        f"- {LOAD.postings_a_day:,.0f} postings a day / {DAY:,} s ="
        f" {LOAD.postings_a_day / DAY:,.0f} a second;"
        f" {TIMES} {LOAD.peak:g} in the busiest hour = **{a_second:,.0f} a second**.",
        f"- Each is wanted by {LOAD.contenders:g} scanners,"
        f" held {LOAD.hold:g} s with a `ttl` of {LOAD.ttl:g} s: "
        + ", ".join(f"{number(times)} {TIMES} {name}" for name, times in a_posting.items())
        + f" = {number(total)} operations, together **{a_second * total:,.0f} a second**.",
        f"- Locks held at a time: {a_second:,.0f} {TIMES} {LOAD.hold:g} s = **{held:,.0f}**.",
        f"- {SCANNERS:,} scanners are {SCANNERS:,} processes with"
        f" {' or '.join(str(count) for count in sorted(set(CONNECTIONS.values())))} connections each:"
        f" **{SCANNERS * max(CONNECTIONS.values()):,} connections**.",
    ]
    return "\n".join(lines) + "\n"


def example(figures: Figures) -> str:
    """How much of each kind of database the example takes, computed and simulated."""
    rows = [
        [
            "",
            "of its processors",
            "simulated",
            "p99 of an operation",
            "MB/s on the wire",
            "MB/s to disk",
            "RAM or disk",
        ]
    ]
    for store in figures["stores"]:
        database = measured_database(figures, store, SERVER_CORES)
        rows.append(
            [
                f"{NAMES[store]}, {database.workers} core{'s' if database.workers > 1 else ''}",
                f"{database.utilisation(LOAD):.0%}",
                *simulated(database),
                *traffic(figures["stores"][store]),
            ]
        )
    return table(rows)


def simulated(database: Database) -> list[str]:
    """What the simulation says of a database that is not overrun."""
    if database.utilisation(LOAD) >= 1:
        return ["the queue grows for ever", ""]
    outcome = Simulation(database, LOAD).run(SIMULATED_SECONDS)
    return [f"{outcome.utilisation:.0%}", f"{outcome.latency(0.99) * 1e3:.1f} ms"]


def traffic(of_store: Figures) -> list[str]:
    """Megabytes a second on the wire and to disk, and those that are held."""
    a_second = {name: times * LOAD.postings_a_second for name, times in LOAD.operations_a_posting().items()}

    def sum_of(*keys: str) -> float:
        costs = of_store["operations"]
        return sum(costs[name][key] * times for name, times in a_second.items() for key in keys)

    held = LOAD.postings_a_second * LOAD.hold * of_store["bytes_a_lock"]
    return [f"{value / 1e6:.1f}" for value in (sum_of("sent", "received"), sum_of("written"))] + [
        f"{held / 1e6:.1f} MB"
    ]


def limits(figures: Figures) -> str:
    """How many postings a day each carries at seven tenths of its processors."""
    rows = [["", "operations a second at 70 %", "postings a day, as above"]]
    for store in figures["stores"]:
        database = measured_database(figures, store, SERVER_CORES)
        factor = 0.7 / database.utilisation(LOAD)
        operations_a_second = LOAD.postings_a_second * sum(LOAD.operations_a_posting().values()) * factor
        rows.append(
            [NAMES[store], number(operations_a_second), f"{LOAD.postings_a_day * factor / 1e6:,.1f} million"]
        )
    return table(rows)


BLOCKS: dict[str, Callable[[Figures], str]] = {
    "about": about,
    "operations": operations,
    "capacity": capacity,
    "demand": demand,
    "example": example,
    "limits": limits,
}


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{float(f'{value:.3g}'):,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def table(rows: list[list[str]]) -> str:
    """A table in Markdown; the first row has the headings."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{' --- |' * len(rows[0])}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
