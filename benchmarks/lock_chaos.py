"""Locks while everything goes wrong, for minutes: no two holders, and no stale write.

    python benchmarks/lock_chaos.py [--seconds 600] [--store sqlite|postgresql] [--workers 8]

Workers increment an unprotected counter under one lock, and write it with their fencing token. Meanwhile
holders are killed and stopped for longer than their time to live, and the PostgreSQL server is restarted as
after a crash; dead workers are replaced. Every write goes to a SQLite file of the script's own that refuses
a token no greater than the last. At the end: every accepted write followed the one before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

TTL = 2.0
HISTORY = (
    "CREATE TABLE history "
    "(number INTEGER PRIMARY KEY AUTOINCREMENT, worker TEXT, token INTEGER, value INTEGER);"
    "CREATE TABLE bid (token INTEGER, value INTEGER); INSERT INTO bid VALUES (0, 0);"
)


async def work(url: str, history: str) -> None:
    """Increment the counter until killed."""
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
    from arbitrageai_native.exceptions import LockError

    manager = BidLockManager(TTL, url, on_lost="raise")
    database = sqlite3.connect(history, timeout=60, isolation_level=None)
    me = str(os.getpid())
    while True:
        with contextlib.suppress(LockError):
            async with manager.with_lock("m", "chaos", timeout=30, holder_id=me) as lease:
                (value,) = database.execute("SELECT value FROM bid").fetchone()
                await asyncio.sleep(random.random() * 0.01)
                record(database, me, lease.fencing_token, value + 1)


def record(database: sqlite3.Connection, worker: str, token: int, value: int) -> None:
    """Write a value unless a later holder has written."""
    database.execute("BEGIN IMMEDIATE")
    written = database.execute(
        "UPDATE bid SET token = ?, value = ? WHERE token < ?", (token, value, token)
    ).rowcount
    kind = worker if written else f"{worker} refused"
    database.execute("INSERT INTO history (worker, token, value) VALUES (?, ?, ?)", (kind, token, value))
    database.execute("COMMIT")


def check(history: Path) -> tuple[int, int]:
    """Every accepted value is one more than the last; how many were accepted, and how many refused."""
    rows = (
        sqlite3.connect(history)
        .execute("SELECT worker, token, value FROM history ORDER BY number")
        .fetchall()
    )
    accepted = [(token, value) for worker, token, value in rows if "refused" not in worker]
    for number, (token, value) in enumerate(accepted):
        assert value == number + 1, f"write {number + 1} has the value {value}: an update was lost"
        assert number == 0 or token > accepted[number - 1][0], f"write {number + 1} has no greater token"
    return len(accepted), len(rows) - len(accepted)


def torment(url: str, server: Any, seconds: float, workers: int, history: Path) -> dict[str, int]:
    """Start workers and make everything go wrong for some time; what was done."""
    done = {"killed": 0, "stopped": 0, "restarts": 0}
    command = [sys.executable, __file__, "--work", url, str(history)]
    running = [subprocess.Popen(command) for _ in range(workers)]
    stop = time.monotonic() + seconds
    try:
        while time.monotonic() < stop:
            time.sleep(random.uniform(0.2, 1.0))
            number = random.randrange(workers)
            match random.choice(["kill", "stop", "stop", "restart" if server is not None else "kill"]):
                case "kill":
                    running[number].kill()
                    running[number].wait()
                    running[number] = subprocess.Popen(command)
                    done["killed"] += 1
                case "stop":
                    running[number].send_signal(signal.SIGSTOP)
                    time.sleep(TTL * 1.3)
                    running[number].send_signal(signal.SIGCONT)
                    done["stopped"] += 1
                case "restart":
                    server.restart()
                    done["restarts"] += 1
    finally:
        for worker in running:
            worker.kill()
            worker.wait()
    return done


def main() -> None:
    """Torment, check, print."""
    if sys.argv[1:2] == ["--work"]:
        asyncio.run(work(sys.argv[2], sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description="Locks while everything goes wrong.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--store", choices=["sqlite", "postgresql"], default="postgresql")
    parser.add_argument("--workers", type=int, default=8)
    arguments = parser.parse_args()
    from tests.servers.postgres import PostgresServer

    server = PostgresServer() if arguments.store == "postgresql" else None
    try:
        with tempfile.TemporaryDirectory() as name:
            history = Path(name, "history.db")
            sqlite3.connect(history).executescript("PRAGMA journal_mode=WAL;" + HISTORY)
            url = server.url() if server is not None else f"sqlite:///{name}/locks.db"
            done = torment(url, server, arguments.seconds, arguments.workers, history)
            accepted, refused = check(history)
        print(f"{accepted} writes in order, {refused} stale ones refused; {done}")
    finally:
        if server is not None:
            server.stop()


if __name__ == "__main__":
    main()
