"""The process that is measured: one peer, one event loop, one kind of load.

    python -m benchmarks.measured '{"peer": …, "loop": …, "kind": …, "base_url": …, …}'

Prints one JSON object of figures. A process of its own for each measurement: its CPU time is the peer's, all
threads together, and its memory too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from benchmarks import peers
from testing_support.ticker import Waits, ticker

Figures = dict[str, float]
_WARM_UP_PIECES = 20


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


class Memory:
    """Growth of the resident set, peak against start, in kilobytes."""

    def __init__(self) -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self._before = self._status("VmRSS")

    @staticmethod
    def _status(name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
        assert found is not None
        return int(found[1])

    def growth(self) -> float:
        return max(self._status("VmHWM") - self._before, 0)


def switches() -> tuple[int, int]:
    """How often the loop's thread, and how often any thread, has gone to sleep so far."""
    counts = {}
    for task in Path("/proc/self/task").iterdir():
        found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M)
        counts[task.name] = int(found[1]) if found else 0
    main = min(counts, key=int)
    return counts[main], sum(counts.values())


def stalls_of(waits: Waits) -> Figures:
    return {"worst_stall_ms": waits.worst * 1e3, "p99_stall_ms": waits.percentile(0.99) * 1e3}


async def _repeat(client: peers.Client, end: float, latencies: list[float], failures: list[str]) -> None:
    while True:
        started = time.perf_counter()
        if started >= end:
            return
        try:
            await client.complete()
        except Exception as error:
            failures.append(repr(error))
        else:
            latencies.append(time.perf_counter() - started)


async def _keep_in_flight(
    client: peers.Client, in_flight: int, seconds: float, failures: list[str]
) -> list[float]:
    """Latencies of calls of which `in_flight` are under way until the time is over."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    await asyncio.gather(*(_repeat(client, end, latencies, failures) for _ in range(in_flight)))
    return latencies


async def load(
    client: peers.Client, in_flight: int, seconds: float, warm_up: float, stalls: bool, **_: Any
) -> Figures:
    """A number of calls in flight for some time; then, if `stalls`, again with a ticker on the loop."""
    failures: list[str] = []
    peers.check_answer(await client.complete())
    memory = Memory()
    await _keep_in_flight(client, in_flight, warm_up, failures)

    cpu, started = time.process_time(), time.perf_counter()
    latencies = await _keep_in_flight(client, in_flight, seconds, failures)
    cpu, seconds_taken = time.process_time() - cpu, time.perf_counter() - started
    figures = {
        "cpu_us": cpu / len(latencies) * 1e6,
        "calls_per_s": len(latencies) / seconds_taken,
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
    }
    if stalls:
        async with ticker() as waits:
            await asyncio.sleep(0.02)  # the ticker is on its way before the load begins
            await _keep_in_flight(client, in_flight, seconds, failures)
            await asyncio.sleep(0.02)  # a tick that is late now still counts
        figures |= stalls_of(waits)
        figures["rss_growth_kb"] = memory.growth()
    return figures | {"failures": len(failures)}


async def burst(client: peers.Client, calls: int, **_: Any) -> Figures:
    """So many calls at once, from nothing: no connection is open yet but one."""
    failures: list[str] = []
    peers.check_answer(await client.complete())
    memory = Memory()

    async def call() -> None:
        try:
            await client.complete()
        except Exception as error:
            failures.append(repr(error))

    async with ticker() as waits:
        await asyncio.sleep(0.02)
        cpu, started = time.process_time(), time.perf_counter()
        await asyncio.gather(*(call() for _ in range(calls)))
        cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
        await asyncio.sleep(0.02)
    return {
        "seconds": seconds,
        "cpu_us": cpu / calls * 1e6,
        **stalls_of(waits),
        "rss_growth_kb_per_call": memory.growth() / calls,
        "failures": len(failures),
    }


async def streams(client: peers.Client, in_flight: int, chunks: int, **_: Any) -> Figures:
    """So many streams at once. A chunk is one event that the server sent, however many arrive together."""
    await peers.count_pieces(client, at_most=_WARM_UP_PIECES)
    switched, cpu, started = switches(), time.process_time(), time.perf_counter()
    pieces = await asyncio.gather(*(peers.count_pieces(client) for _ in range(in_flight)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    wakeups = [after - before for before, after in zip(switched, switches(), strict=True)]
    sent = in_flight * chunks
    return {
        "cpu_us_per_chunk": cpu / sent * 1e6,
        "loop_wakeups_per_chunk": wakeups[0] / sent,
        "wakeups_per_chunk": wakeups[1] / sent,
        "chunks_per_s": sent / seconds,
        "handed_over_per_chunk": sum(pieces) / sent,
        "failures": 0,
    }


KINDS: dict[str, Callable[..., Awaitable[Figures]]] = {"load": load, "burst": burst, "streams": streams}


async def measure(request: dict[str, Any]) -> Figures:
    make = peers.PEERS[request["peer"]].make
    assert make is not None
    client = make(request["base_url"], request.get("in_flight") or request["calls"])
    try:
        return await KINDS[request["kind"]](client, **request)
    finally:
        await client.close()


def run_on(loop: str, measurement: Coroutine[Any, Any, Figures]) -> Figures:
    """Run a measurement on a new event loop of the kind that is named."""
    if loop == "uvloop":
        import uvloop

        figures: Figures = uvloop.run(measurement)
        return figures
    return asyncio.run(measurement)


if __name__ == "__main__":
    _request = json.loads(sys.argv[1])
    print(json.dumps(run_on(_request["loop"], measure(_request))))
