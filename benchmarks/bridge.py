"""What one await across the boundary costs: this package's bridge against `pyo3-async-runtimes`' stock one.

    python benchmarks/bridge.py [--calls 50000] [--tasks 100] [--rounds 5]

Each round measures, in turn and in this one process, the CPU time (all threads) and the wall time of awaits
that have nothing to do, from `--tasks` tasks at once. The table shows medians over the rounds, and ratios to
the stock bridge.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import uvloop
from rich.console import Console
from rich.table import Table

from arbitrageai_native._native import Probe


@dataclass
class Cost:
    """Of one await, in seconds."""

    cpu: float
    wall: float


WAYS: dict[str, Callable[[], Awaitable[object]]] = {
    "this bridge": Probe.noop,
    "stock bridge": Probe.stock_noop,
    "asyncio.sleep(0)": lambda: asyncio.sleep(0),
}
NEW_LOOP: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


async def spread(call: Callable[[], Awaitable[object]], calls: int, tasks: int) -> None:
    async def repeat() -> None:
        for _ in range(calls // tasks):
            await call()

    await asyncio.gather(*(repeat() for _ in range(tasks)))


def measure(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
    call: Callable[[], Awaitable[object]],
    calls: int,
    tasks: int,
) -> Cost:
    loop = new_loop()
    try:
        loop.run_until_complete(spread(call, tasks * 10, tasks))
        cpu, wall = time.process_time(), time.perf_counter()
        loop.run_until_complete(spread(call, calls, tasks))
        return Cost((time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls)
    finally:
        loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    table = Table(title=f"One no-op await, {options.tasks} tasks at once, medians of {options.rounds} rounds")
    for heading in ["loop", "way", "CPU µs", "awaits/s", "CPU against stock"]:
        table.add_column(heading, justify="left" if heading in ("loop", "way") else "right")
    for loop_name, new_loop in NEW_LOOP.items():
        costs: dict[str, list[Cost]] = {name: [] for name in WAYS}
        for _ in range(options.rounds):
            for name, call in WAYS.items():
                costs[name].append(measure(new_loop, call, options.calls, options.tasks))
        stock = statistics.median(cost.cpu for cost in costs["stock bridge"])
        for name, measured in costs.items():
            cpu = statistics.median(cost.cpu for cost in measured)
            wall = statistics.median(cost.wall for cost in measured)
            table.add_row(loop_name, name, f"{cpu * 1e6:.2f}", f"{1 / wall:,.0f}", f"1/{stock / cpu:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
