"""Locks use a bounded number of descriptors and connections, whatever fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockBackendError
from testing_support.machine import Stopwatch
from testing_support.ports import free_port
from testing_support.servers.pgbouncer import PgBouncer
from testing_support.servers.postgres import _BIN, PostgresServer
from testing_support.waiting import until_waiting

DESCRIPTORS = """
import asyncio, logging, os, sqlite3, sys
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

logging.disable(logging.CRITICAL)
case, path = sys.argv[1:]
url = f"sqlite:///{path}"

def application():
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS bids (posting TEXT)")
    connection.execute("SELECT * FROM bids").fetchall()
    return connection

def descriptors():
    return len(os.listdir("/proc/self/fd"))

most = 0

async def open_and_close(rounds):
    global most
    for _ in range(rounds):
        async with BidLockManager(60, url) as manager:
            assert await manager.acquire_lock("m", "p", timeout=30)
            most = max(most, descriptors())

async def fail(manager, rounds):
    for number in range(rounds):
        assert not await manager.acquire_lock("m", "refused", timeout=0)

async def main():
    global path, most
    if case == "many managers":
        connection = application()
        await open_and_close(3)
        most = before = descriptors()
        await open_and_close(300)
    elif case == "one manager again and again":
        manager = BidLockManager(60, url)
        most = before = descriptors()
        for number in range(250):
            lease = await manager.acquire_lease("m", str(number), timeout=30)
            assert await lease.release()
            await manager.aclose()
            most = max(most, descriptors())
    elif case == "a trigger":
        connection = application()
        manager = BidLockManager(60, url)
        await manager.locks()
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON distributed_locks BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        await fail(manager, 5)
        before = descriptors()
        await fail(manager, 300)
    elif case == "another table":
        connection = application()
        connection.execute("CREATE TABLE distributed_locks (id TEXT)")
        manager = BidLockManager(60, url)
        await fail(manager, 5)
        before = descriptors()
        await fail(manager, 300)
    elif case == "many files":
        before = descriptors()
        for number in range(100):
            path = f"{sys.argv[2]}{number}"
            connection = application()
            async with BidLockManager(60, f"sqlite:///{path}") as manager:
                await manager.locks()
            connection.close()
    most = max(most, descriptors())
    # Connections close on separate threads, so some of the last ones may still be open.
    assert most - before < 60, (before, most)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "case", ["many managers", "one manager again and again", "a trigger", "another table", "many files"]
)
def test_descriptors_stay_few(case: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DESCRIPTORS, case, str(tmp_path / "locks.db")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert finished.returncode == 0, finished.stderr


THE_APPLICATIONS_LOCK = """
import asyncio, sqlite3, subprocess, sys
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

path = sys.argv[1]
write = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"

async def main():
    # The second connection gets the descriptor numbers of the first one.
    for mode in ("wal", "delete"):
        connection = sqlite3.connect(path, isolation_level=None)
        async with BidLockManager(60, f"sqlite:///{path}") as manager:
            await manager.acquire_lock("m", mode)
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            async with BidLockManager(60, f"sqlite:///{path}") as manager:
                assert len((await manager.locks()).held) == 0
                other = subprocess.run([sys.executable, "-c", write, path], capture_output=True, text=True)
                assert "database is locked" in other.stderr, other.stderr
        other = subprocess.run([sys.executable, "-c", write, path], capture_output=True, text=True)
        assert "database is locked" in other.stderr, other.stderr
        connection.execute("ROLLBACK")
        connection.close()

asyncio.run(main())
"""


def test_the_applications_own_locks_outlast_our_connections(tmp_path: Path) -> None:
    command = [sys.executable, "-c", THE_APPLICATIONS_LOCK, str(tmp_path / "locks.db")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert finished.returncode == 0, finished.stderr


class Psql:
    """A session of an administrator, which stays open between statements."""

    def __init__(self, server: PostgresServer, url: str | None = None) -> None:
        command = [server.program("psql"), "-X", "-q", "-A", "-t", url or server.url()]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def execute(self, statement: str) -> str:
        """Run a statement; return its output, errors included."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{statement};\n\\echo done\n")
        self._process.stdin.flush()
        return "".join(iter(self._process.stdout.readline, "done\n"))

    def close(self) -> None:
        """End the session, which releases its locks."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def session(server: PostgresServer, url: str | None = None) -> Iterator[Psql]:
    """Open a `Psql` session, and close it at the end."""
    opened = Psql(server, url)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def session_pooler(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """Start a pooler in session mode, which refuses startup options."""
    configuration = f"""
    [databases]
    * = host=127.0.0.1 port={postgres_server.port} user=postgres
    [pgbouncer]
    listen_addr = 127.0.0.1
    listen_port = {free_port()}
    unix_socket_dir =
    auth_type = any
    pool_mode = session
    """
    pooler = PgBouncer(postgres_server, configuration)
    yield pooler
    pooler.stop()


async def test_a_locked_table_takes_no_more_connections(
    postgres_server: PostgresServer, postgres_url: str, session_pooler: PgBouncer
) -> None:
    name = postgres_url.rsplit("=", 1)[1]
    pooled = session_pooler.url(postgres_url.rsplit("/", 1)[1])
    managers = {
        "direct": BidLockManager(60, f"{postgres_url}-direct", max_connections=3),
        "uncached": BidLockManager(60, f"{postgres_url}-uncached", max_connections=3, statement_cache=False),
        "pooled": BidLockManager(60, f"{pooled}-pooled", max_connections=3),
    }
    leases = [await manager.acquire_lease("m", key) for key, manager in managers.items()]
    standing = (
        "SELECT application_name, count(*) FROM pg_stat_activity "
        f"WHERE application_name LIKE '{name}-%' GROUP BY 1"
    )
    forgotten = (
        f"SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '{name}-%' "
        "AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '4.5 s'"
    )
    with session(postgres_server) as migration, session(postgres_server) as administrator:
        migration.execute("BEGIN; LOCK TABLE distributed_locks IN ACCESS EXCLUSIVE MODE")
        stop = asyncio.Event()

        async def go_on_asking(manager: BidLockManager, number: int) -> None:
            while not stop.is_set():
                await manager.acquire_lock("m", f"p{number}", timeout=0.5, holder_id="x")

        asking = [
            asyncio.create_task(go_on_asking(manager, number))
            for manager in managers.values()
            for number in range(6)
        ]
        until = time.monotonic() + 5.2
        while time.monotonic() < until:
            for line in administrator.execute(standing).split():
                assert int(line.split("|")[1]) <= 3, line
            assert administrator.execute(forgotten).strip() == "0"
            await asyncio.sleep(0.2)
        with pytest.raises(LockBackendError, match="another transaction has locked the table"):
            await managers["direct"].acquire_lease("m", "q", timeout=2)
        stop.set()
        await asyncio.gather(*asking)
        migration.execute("COMMIT")
        watch = Stopwatch()
        for manager in managers.values():
            assert await manager.acquire_lock("m", "q" + str(id(manager)), timeout=30)
        assert watch.seconds < 4 + watch.held_up  # 2 s, and the delay of a busy machine
    for lease in leases:
        assert lease.is_held
        assert await lease.release()
    for manager in managers.values():
        await manager.aclose()


async def test_no_limit_stays_behind_in_a_poolers_session(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    pooler = PgBouncer(postgres_server)
    try:
        url = pooler.url(postgres_url.rsplit("/", 1)[1])
        manager = BidLockManager(60, url, statement_cache=False)
        for _ in range(20):
            assert await manager.acquire_lock("m", "p")
            assert await manager.release_lock("m", "p")
        with session(postgres_server, pooler.url("postgres")) as another:
            shown = another.execute("SHOW lock_timeout; SHOW statement_timeout")
        assert shown.split() == ["0", "0"]
        await manager.aclose()
    finally:
        pooler.stop()


async def test_a_full_queue_of_notifications_costs_no_release() -> None:
    # The setting for the size of the queue exists since PostgreSQL 17.
    programs = _BIN.parent.parent / "pginstall18" / "bin"
    server = PostgresServer(programs=programs, settings={"max_notify_queue_pages": "64"})
    try:
        holder = BidLockManager(60, f"{server.url()}?application_name=holder")
        waiter = BidLockManager(60, f"{server.url()}?application_name=waiter")
        names = [f"p{index}" for index in range(20)]
        leases = await asyncio.gather(*(holder.acquire_lease("m", name) for name in names))
        waiting = [asyncio.create_task(waiter.acquire_lease("m", name, timeout=30)) for name in names[:10]]
        with session(server) as listening, session(server) as filling:
            listening.execute("LISTEN others; BEGIN; SELECT 1")
            fill = (
                "SELECT count(pg_notify('others', repeat('x', 7000) || n)) FROM generate_series(1, 20) AS n"
            )
            while "too many notifications" not in filling.execute(fill):
                pass
            await until_waiting(waiter, 10)
            started = time.monotonic()
            assert await asyncio.gather(*(lease.release() for lease in leases)) == [True] * 20
            for task in waiting:
                assert (await task).is_held
            assert time.monotonic() - started < 10
            assert await holder.release_lock("m", "p0", "other") is False
            assert await holder.break_lock("bid:lock:m:p0")
            await holder.cleanup_all()
            assert (await holder.locks()).held == []
        await holder.aclose()
        await waiter.aclose()
    finally:
        server.stop()
