"""What one await across the boundary costs: by this package's bridge, by `pyo3-async-runtimes`' stock one.

    python -m benchmarks.bridge '{"way": …, "loop": …, "calls": …, "tasks": …}'

Measures the CPU time (all threads) and the wall time of awaits that have nothing to do, and prints one JSON
object of figures.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

from arbitrageai_native._native import Probe
from benchmarks.measured import Figures, run_on

WAYS: dict[str, Callable[[], Awaitable[object]]] = {
    "this bridge": Probe.noop,
    "stock bridge": Probe.stock_noop,
    "asyncio.sleep(0)": lambda: asyncio.sleep(0),
}


async def _spread(call: Callable[[], Awaitable[object]], calls: int, tasks: int) -> None:
    async def repeat() -> None:
        for _ in range(calls // tasks):
            await call()

    await asyncio.gather(*(repeat() for _ in range(tasks)))


async def measure(way: str, calls: int, tasks: int) -> Figures:
    call = WAYS[way]
    await _spread(call, tasks * 10, tasks)
    cpu, started = time.process_time(), time.perf_counter()
    await _spread(call, calls, tasks)
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    return {"cpu_us": cpu / calls * 1e6, "awaits_per_s": calls / seconds}


if __name__ == "__main__":
    _request = json.loads(sys.argv[1])
    print(json.dumps(run_on(_request.pop("loop"), measure(**_request))))
