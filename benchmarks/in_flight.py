"""Many calls in flight at once: how long they take, how long the loop waits, and how much memory they need.

    python benchmarks/in_flight.py [--rounds 5]

- ten calls, and ten thousand, each with the stealth delay of 2 to 5 s;
- a thousand calls against a server that answers after 2 s, while a ticker runs on the loop and a control
  ticker in an idle process beside it.

The model server is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))
from arbitrageai_native import LLMService
from arbitrageai_native.testing import ModelServer
from testing_support.ticker import control, ticker


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


async def stealth(service: LLMService, calls: int) -> tuple[float, float]:
    """Seconds for all calls, and the growth of resident memory in megabytes while they were under way."""
    before = resident_megabytes()
    peak = before
    started = time.perf_counter()
    under_way = asyncio.gather(*(service.complete_async("ping", stealth_mode=True) for _ in range(calls)))
    while not under_way.done():
        await asyncio.sleep(0.05)
        peak = max(peak, resident_megabytes())
    assert all(result["content"] == "ping" for result in await under_way)
    return time.perf_counter() - started, peak - before


async def loop_waits(service: LLMService, calls: int) -> tuple[float, float]:
    """Worst wait of the loop, and of an idle process's, in seconds, with `calls` in flight."""
    with control() as idle:
        start = time.monotonic()
        async with ticker() as busy:
            await asyncio.gather(*(service.complete_async("ping") for _ in range(calls)))
        return busy.worst, max(idle.waits_between(start, time.monotonic()))


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    table = Table(title="Calls in flight")
    for heading in ["what", "measured", "bound"]:
        table.add_column(heading, justify="left" if heading == "what" else "right")

    async with ModelServer.in_subprocess(record=False) as server:
        service = LLMService(server.base_url, "key", enable_circuit_breaker=False)
        seconds, _ = await stealth(service, 10)
        table.add_row("10 stealth calls", f"{seconds:.2f} s", "5.3 s")
        seconds, growth = await stealth(service, 10_000)
        table.add_row("10,000 stealth calls", f"{seconds:.2f} s", "7 s")
        table.add_row("  growth of resident memory", f"{growth:.0f} MB", "400 MB")

    async with ModelServer.in_subprocess(delay=2.0, record=False) as server:
        service = LLMService(server.base_url, "key", enable_circuit_breaker=False)
        rounds = [await loop_waits(service, 1_000) for _ in range(options.rounds)]
        worst = statistics.median(busy for busy, _ in rounds)
        idle = statistics.median(idle for _, idle in rounds)
        table.add_row("1,000 calls, 2 s each: worst wait of the loop", f"{worst * 1e3:.1f} ms", "20 ms")
        table.add_row("  of an idle process beside it", f"{idle * 1e3:.1f} ms", "")
    Console().print(table)


if __name__ == "__main__":
    asyncio.run(main())
