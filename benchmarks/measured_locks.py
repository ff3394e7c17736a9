"""The process that is measured when it comes to locks: one peer, one store, one event loop, one kind of load.

    python -m benchmarks.measured_locks '{"peer": …, "store": …, "loop": …, "url": …, "kind": …, …}'

Prints one JSON object of figures. Its CPU time is the client's, all threads together, without the server's.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.lock_peers import Locker, find
from benchmarks.measured import Figures, percentile, run_on, stalls_of
from testing_support.ticker import ticker

_AT_ONCE = 1_000
_SERVED = 500


async def _pair(locker: Locker, key: str) -> float:
    """Seconds that an acquisition and its release take."""
    started = time.perf_counter()
    await locker.release(await locker.acquire(key))
    return time.perf_counter() - started


async def _call(locker: Locker, callers: int, keys: int, seconds: float) -> list[float]:
    """What each pair took, of so many callers, each with keys of its own, until the time is over."""
    end = time.perf_counter() + seconds
    latencies: list[float] = []

    async def repeat(caller: int) -> None:
        number = 0
        while time.perf_counter() < end:
            number += 1
            latencies.append(await _pair(locker, f"key-{caller}-{number % keys}"))

    await asyncio.gather(*(repeat(caller) for caller in range(callers)))
    return latencies


async def pairs(locker: Locker, callers: int, keys: int, seconds: float, stalls: bool, **_: Any) -> Figures:
    """Callers that never meet; then, if `stalls`, again with a ticker on the loop."""
    await _call(locker, callers, keys, seconds / 4)
    cpu, started = time.process_time(), time.perf_counter()
    latencies = await _call(locker, callers, keys, seconds)
    cpu, seconds_taken = time.process_time() - cpu, time.perf_counter() - started
    figures = {
        "pairs_per_s": len(latencies) / seconds_taken,
        "cpu_us": cpu / len(latencies) * 1e6,
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
    }
    if stalls:
        async with ticker() as waits:
            await asyncio.sleep(0.02)  # the ticker is on its way before the load begins
            await _call(locker, callers, keys, seconds)
            await asyncio.sleep(0.02)  # a tick that is late now still counts
        figures |= stalls_of(waits)
    return figures


async def _cost_of_pairs(locker: Locker, count: int) -> Figures:
    cpu = time.process_time()
    latencies = [await _pair(locker, f"pair-{number % 10}") for number in range(count)]
    cpu = time.process_time() - cpu
    return {"pair_us": statistics.median(latencies) * 1e6, "cpu_us": cpu / count * 1e6}


async def held(locker: Locker, count: int, pairs: int, **_: Any) -> Figures:
    """A pair at a time, while so many other locks are held by this process."""
    for start in range(0, count, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, count))
        await asyncio.gather(*(locker.acquire(f"held-{number}") for number in numbers))
    await _cost_of_pairs(locker, 10)
    return await _cost_of_pairs(locker, pairs)


async def waiters(locker: Locker, count: int, pairs: int, **_: Any) -> Figures:
    """What serving one of so many waiters for one lock takes, and what a pair of another key meanwhile."""

    async def wait() -> None:
        await locker.release(await locker.acquire("wanted"))

    first = await locker.acquire("wanted")
    tasks = [asyncio.create_task(wait()) for _ in range(count)]
    await asyncio.sleep(0.5 + count / 10_000)
    figures = await _cost_of_pairs(locker, pairs)
    served = min(count, _SERVED)
    started = time.perf_counter()
    await locker.release(first)
    await asyncio.gather(*tasks[:served])  # who came first is served first
    figures["served_us"] = (time.perf_counter() - started) / served * 1e6
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return figures


@contextmanager
def _statements_seen(store: str, url: str) -> Iterator[Callable[[], int]]:
    """What tells how many statements the server has seen; 0 for ever where there is no server."""
    if store == "postgresql":
        import psycopg2

        connection = psycopg2.connect(url)
        connection.autocommit = True
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        with connection.cursor() as cursor:
            # Its transactions would be counted, too.
            cursor.execute("ALTER SYSTEM SET autovacuum = off")
            cursor.execute("SELECT pg_reload_conf()")

            def of_postgresql() -> int:
                cursor.execute(query)
                return int(cursor.fetchone()[0])

            yield of_postgresql
            cursor.execute("ALTER SYSTEM RESET autovacuum")
            cursor.execute("SELECT pg_reload_conf()")
    elif store == "redis":
        import redis

        client = redis.Redis.from_url(url)
        # A script is one statement, whatever it calls.
        yield lambda: int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])
    else:
        yield lambda: 0


async def waiting(locker: Locker, store: str, url: str, quick: bool, **_: Any) -> Figures:
    """What tests bound generously, in figures; the original's way holds the locks that are waited for."""
    from testing_support.lock_waits import crowd, idle_cost, loop_excess, takeover

    times, waiters = (1, 100) if quick else (5, 1_000)
    takeovers = [await takeover(url) for _ in range(times)]
    excess = await loop_excess(url, 0.5 if quick else 3)
    latest = (await crowd(url, waiters // 2, timeout=1 if quick else 3, hold=0.005)).latest
    # A connection that has become idle tells PostgreSQL's statistics of its last statements 10 s later.
    seconds, settled = (1, 1) if quick else (10, 12)
    with _statements_seen(store, url) as count:
        idle = await idle_cost(url, waiters, seconds, count, settled)
    figures = {
        "idle_percent": idle.cpu * 100,
        "takeover_ms": statistics.median(takeovers) * 1e3,
        "late_ms": latest * 1e3,
        "loop_excess_ms": excess * 1e3,
    }
    return figures if store == "sqlite" else {**figures, "idle_statements": idle.statements}


KINDS: dict[str, Callable[..., Awaitable[Figures]]] = {
    "pairs": pairs,
    "held": held,
    "waiters": waiters,
    "waiting": waiting,
}


async def measure(request: dict[str, Any]) -> Figures:
    make = find(request["peer"], request["store"]).make
    assert make is not None
    locker = make(request["url"])
    await locker.open()
    try:
        return await KINDS[request["kind"]](locker, **request)
    finally:
        await locker.close()


if __name__ == "__main__":
    _request = json.loads(sys.argv[1])
    print(json.dumps(run_on(_request["loop"], measure(_request))))
