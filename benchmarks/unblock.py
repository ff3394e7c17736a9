"""What portals cost: a task's step, an idle task, and ten thousand blocking calls at once.

    python benchmarks/unblock.py [--rounds 25] [--calls 10000]

- `sleep(0)` in a task with a portal, as a multiple of one without, in turn, on asyncio and uvloop;
- resident memory of an idle task, likewise, each in a process of its own;
- so many tasks that each call `complete()`, of a model server that answers after 1 s; then the same with
  half of them cancelled at random moments, and what is left after it.

The model server is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent.parent))
from arbitrageai_native import LLMService, metrics
from arbitrageai_native.llm import unblock
from arbitrageai_native.testing import ModelServer

STEPS = 10_000
IDLE = 20_000


async def step_seconds() -> float:
    """The processor's time of a step: the clock's depends on what else the machine does."""

    async def steps() -> None:
        for _ in range(STEPS):
            await asyncio.sleep(0)

    task = asyncio.create_task(steps())
    started = time.thread_time()
    await task
    return (time.thread_time() - started) / STEPS


def step_ratio(new_loop: Any, rounds: int) -> tuple[float, float]:
    """A step's microseconds without a portal, and the median multiple with one."""
    plain, ratios = [], []
    for _ in range(rounds):
        seconds = {}
        for with_portal in (False, True):
            if with_portal:
                unblock.install()
            loop = new_loop()
            seconds[with_portal] = loop.run_until_complete(step_seconds())
            loop.close()
            unblock.uninstall()
        plain.append(seconds[False])
        ratios.append(seconds[True] / seconds[False])
    return min(plain) * 1e6, statistics.median(ratios)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def idle_bytes() -> float:
    """Resident memory of a task that waits."""

    async def idle() -> None:
        await asyncio.sleep(1000)

    gc.collect()
    before = resident()
    tasks = [asyncio.create_task(idle()) for _ in range(IDLE)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    grown = (resident() - before) / IDLE
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return grown


def idle_in_process(with_portal: bool) -> float:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--idle", *(["--portal"] if with_portal else [])]
    return float(subprocess.check_output(command))


async def many(service: LLMService, calls: int, cancelled: int, changed: bool = False) -> tuple[float, int]:
    """Seconds for so many calls, and how many were answered; `changed`: of an application that awaits."""

    def ask() -> None:
        service.complete("x")

    async def one() -> None:
        if changed:
            await service.complete_async("x")
        else:
            ask()

    started = time.perf_counter()
    tasks = [asyncio.create_task(one()) for _ in range(calls)]
    loop = asyncio.get_running_loop()
    for task in random.sample(tasks, cancelled):
        loop.call_later(random.uniform(0, 2), task.cancel)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    strange = [
        found for found in results if found is not None and not isinstance(found, asyncio.CancelledError)
    ]
    assert not strange, strange[0]
    return time.perf_counter() - started, results.count(None)


def left() -> dict[str, int]:
    """What is left of the calls in this process."""
    from arbitrageai_native.llm.unblock.portal import Worker, suspended

    gc.collect()
    found = gc.get_objects()
    return {
        "tasks": sum(isinstance(one, asyncio.Task) for one in found),
        "greenlets": sum(type(one) is Worker for one in found),
        "suspended calls": len(suspended),
        "calls in flight": metrics()["llm"]["requests_in_flight"],
    }


async def measure_many(calls: int) -> dict[str, Any]:
    async with ModelServer.in_subprocess(delay=1.0, record=False) as server:
        service = LLMService(server.base_url, "key", enable_circuit_breaker=False, max_retries=0)
        changed_seconds, answered = await many(service, calls, 0, changed=True)
        assert answered == calls
        all_seconds, answered = await many(service, calls, 0)
        assert answered == calls
        cancelled_seconds, answered = await many(service, calls, calls // 2)
    return {
        "complete_async": changed_seconds,
        "complete": all_seconds,
        "half cancelled": cancelled_seconds,
        "answered": answered,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--idle", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--portal", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.idle:
        if options.portal:
            unblock.install()
        print(asyncio.run(idle_bytes()))
        return
    found: dict[str, Any] = {}
    for name, new_loop in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
        plain, ratio = step_ratio(new_loop, options.rounds)
        found[f"sleep(0), {name}"] = f"{plain:.2f} us, with a portal {ratio:.2f} times"
    plain, with_portal = idle_in_process(False), idle_in_process(True)
    found["idle task"] = f"{plain:.0f} bytes, with a portal {with_portal / plain:.2f} times"
    unblock.install()
    for name, runner in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
        found[f"{options.calls} calls, {name}"] = {
            **{key: round(value, 2) for key, value in runner(measure_many(options.calls)).items()},
            "left": left(),
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
