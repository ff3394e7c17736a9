"""Locks between processes: exclusion, crashes, pauses, restarts, old processes on the same table."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from testing_support.lock_counter import count_together
from testing_support.machine import Stopwatch
from testing_support.reference.polling_lock import old_manager
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.tcp_proxy import TcpProxy


@pytest.mark.parametrize("kinds", [["native"] * 4, ["native", "polling"] * 2], ids=["all-new", "rolling"])
def test_no_update_is_lost(shared_url: str, tmp_path: Path, kinds: list[str]) -> None:
    rounds = 15
    entries = count_together(kinds, shared_url, tmp_path, rounds=rounds, seconds=100)
    assert sum(entries.values()) == rounds * len(kinds)


async def test_old_and_new_release_for_each_other(shared_url: str) -> None:
    old, new = old_manager(shared_url, ttl=2), BidLockManager(300, shared_url)
    assert await old.acquire_lock("m", "p", holder_id="old")
    assert not await new.acquire_lock("m", "p", timeout=0.05)
    assert await new.acquire_lock("m", "p", timeout=10)  # the old one's has expired
    assert not await old.acquire_lock("m", "p", timeout=0)
    assert await new.release_lock("m", "p")
    old.ttl = 300
    assert await old.acquire_lock("m", "p", timeout=0, holder_id="old")
    waiter = asyncio.create_task(new.acquire_lock("m", "p", timeout=30))
    await asyncio.sleep(0.4)
    assert not waiter.done()
    watch = Stopwatch()
    assert await old.release_lock("m", "p", holder_id="old")
    assert await waiter
    assert watch.seconds < 5 + watch.held_up  # 0.3 s on an idle machine
    assert await new.release_lock("m", "p")
    await old.close()
    await new.aclose()


HOLD = """
import asyncio, sys
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

async def main():
    manager = BidLockManager(float(sys.argv[2]), sys.argv[1])
    lease = await manager.acquire_lease("m", "p", holder_id="other")
    print(lease.fencing_token, flush=True)
    {then}

asyncio.run(main())
"""


def start_holder(url: str, ttl: float, then: str) -> tuple[subprocess.Popen[str], int]:
    """A process that holds the lock and then does something; its fencing token."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then=then), url, str(ttl)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    return holder, int(holder.stdout.readline())


async def test_a_killed_holder_holds_until_its_ttl(shared_url: str) -> None:
    holder, token = start_holder(shared_url, 1.5, "await asyncio.sleep(60)")
    async with BidLockManager(300, shared_url) as manager:
        assert not await manager.acquire_lock("m", "p", timeout=2.0)  # it renews
        holder.kill()
        await asyncio.to_thread(holder.communicate)
        lease = await manager.acquire_lease("m", "p", timeout=20)
        assert lease.fencing_token > token


async def test_an_exit_releases(shared_url: str) -> None:
    holder, _ = start_holder(shared_url, 300, "input(); sys.exit(0)")
    async with BidLockManager(300, shared_url) as manager:
        assert await manager.try_lock("m", "p") is None
        holder.communicate("go on\n", timeout=20)
        assert await manager.acquire_lock("m", "p", timeout=20)


EXIT_WHILE_THREADS_TAKE_TURNS = """
import asyncio, sys, threading, time
from arbitrageai_native import BidLockManager

url, way = sys.argv[1:]
locks = BidLockManager(ttl=300, database_url=url)
turns = threading.Semaphore(0)

def take_turns():
    while True:
        with locks.with_lock_sync("m", "p", timeout=60):
            turns.release()
            time.sleep(0.01)

async def take_turns_without_leases(name):
    while True:
        if await locks.acquire_lock("m", "p", timeout=60, holder_id=name):
            turns.release()
            await locks.release_lock("m", "p", holder_id=name)

def on_a_loop():
    async def run():
        await asyncio.gather(*map(take_turns_without_leases, "ab"))
    asyncio.run(run())

for _ in range(2):
    threading.Thread(target=take_turns if way == "threads" else on_a_loop, daemon=True).start()
for _ in range(5):
    turns.acquire()
"""


@pytest.mark.parametrize("way", ["threads", "loops"])
async def test_an_exit_grants_nothing_to_the_threads_that_still_run(way: str, shared_url: str) -> None:
    for _ in range(3):
        program = [sys.executable, "-c", EXIT_WHILE_THREADS_TAKE_TURNS, shared_url, way]
        ended = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, timeout=110)
        assert (ended.returncode, ended.stderr) == (0, "")
        async with BidLockManager(300, shared_url) as manager:
            assert (await manager.locks()).held == []


LATE_HOOK = """
import atexit, sys

@atexit.register
def late():
    from arbitrageai_native.exceptions import LockBackendError
    for manager in (locks, BidLockManager(ttl=300, database_url=sys.argv[1] + ".other")):
        try:
            with manager.with_lock_sync("m", "p", timeout=0.1):
                print("held", flush=True)
        except LockBackendError as error:
            print(error, flush=True)

from arbitrageai_native import BidLockManager
locks = BidLockManager(ttl=300, database_url=sys.argv[1])
with locks.with_lock_sync("m", "p"):
    pass
"""


async def test_a_hook_that_runs_after_the_release_gets_an_error(tmp_path: Path) -> None:
    program = [sys.executable, "-c", LATE_HOOK, f"sqlite:///{tmp_path / 'locks.db'}"]
    ended = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, timeout=110)
    said = "this process is ending and takes no more locks\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, said * 2, "")


CHILD_OF_AN_ENDING_PROCESS = """
import atexit, os, sys

@atexit.register
def fork():
    if os.fork() == 0:
        with locks.with_lock_sync("m", "p", timeout=60):
            print("held", flush=True)
        os._exit(0)
    os.wait()

from arbitrageai_native import BidLockManager
locks = BidLockManager(ttl=300, database_url=sys.argv[1])
with locks.with_lock_sync("m", "p"):
    pass
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
async def test_a_child_of_a_process_that_ends_takes_locks(shared_url: str) -> None:
    program = [
        sys.executable,
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        CHILD_OF_AN_ENDING_PROCESS,
        shared_url,
    ]
    ended = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, timeout=110)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "held\n", "")


async def test_a_paused_holder_learns_of_its_loss_and_is_fenced_off(shared_url: str, tmp_path: Path) -> None:
    bids = tmp_path / "bids.db"
    with sqlite3.connect(bids) as connection:
        connection.execute("CREATE TABLE bids (posting TEXT PRIMARY KEY, fence INTEGER, bidder TEXT)")
        connection.execute("INSERT INTO bids VALUES ('p', 0, '')")
    then = (
        "await asyncio.to_thread(input); import sqlite3; "
        f"rows = sqlite3.connect({str(bids)!r}).execute("
        "\"UPDATE bids SET fence = ?, bidder = 'late' WHERE posting = 'p' AND fence < ?\", "
        "(lease.fencing_token, lease.fencing_token)).rowcount; print(lease.is_held, rows, flush=True)"
    )
    holder, _ = start_holder(shared_url, 1, then)
    holder.send_signal(signal.SIGSTOP)
    async with BidLockManager(300, shared_url) as manager:
        lease = await manager.acquire_lease("m", "p", timeout=20)
        with sqlite3.connect(bids) as connection:
            update = "UPDATE bids SET fence = ?, bidder = 'next' WHERE posting = 'p' AND fence < ?"
            assert connection.execute(update, (lease.fencing_token, lease.fencing_token)).rowcount == 1
        holder.send_signal(signal.SIGCONT)
        output, _ = holder.communicate("go on\n", timeout=20)
        assert output.split() == ["False", "0"]
        assert lease.is_held


@pytest.mark.serial
async def test_two_processes_hand_over_promptly(shared_url: str) -> None:
    go_on = "await asyncio.to_thread(input); await lease.release()"
    then = f"import time; {go_on}; print(time.monotonic(), flush=True)"
    async with BidLockManager(300, shared_url) as manager:
        holder, _ = start_holder(shared_url, 300, then)
        waiter = asyncio.create_task(manager.acquire_lock("m", "p", timeout=30))
        await asyncio.sleep(0.4)  # past the poller's first, quick looks
        assert holder.stdin is not None
        holder.stdin.write("go on\n")
        holder.stdin.flush()
        assert await waiter
        acquired = time.monotonic()
        output, _ = await asyncio.to_thread(holder.communicate)
        assert acquired - float(output) < 0.2, "this is how long the poller takes"
        assert await manager.release_lock("m", "p")


async def test_a_fork_takes_no_lock_along(shared_url: str) -> None:
    manager = BidLockManager(300, shared_url)
    lease = await manager.acquire_lease("m", "p")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            own = asyncio.new_event_loop()
            refused = own.run_until_complete(manager.acquire_lock("m", "p", timeout=0.1))
            granted = own.run_until_complete(manager.acquire_lock("m", "q", timeout=10))
            status = 0 if (granted and not refused and not lease.is_held) else 2
            del lease
        finally:
            os._exit(status)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert lease.is_held
    assert await lease.release()
    await manager.aclose()


async def test_a_restarted_server_is_found_again() -> None:
    server = PostgresServer()
    try:
        manager = BidLockManager(30, server.url(), on_lost="raise")
        async with manager.with_lock("m", "p") as lease:
            waiter = asyncio.create_task(manager.acquire_lock("m", "p", timeout=60))
            await asyncio.to_thread(server.restart)
            assert await manager.acquire_lock("m", "q", timeout=60)
            await lease.renew()
        assert await waiter
        await manager.aclose()
    finally:
        server.stop()


async def test_cut_connections_cost_no_lock(postgres_server: PostgresServer, postgres_url: str) -> None:
    database = postgres_url.rsplit("/", 1)[1]
    async with TcpProxy(postgres_server.port) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database}"
        manager, direct = BidLockManager(300, url), BidLockManager(300, postgres_url)
        stop = time.monotonic() + 3
        rounds = 0
        inside = 0

        async def work(number: int) -> None:
            nonlocal inside, rounds
            while time.monotonic() < stop or rounds <= 10:
                async with manager.with_lock("m", "p", timeout=60, holder_id=str(number)):
                    assert inside == 0
                    inside += 1
                    await asyncio.sleep(0)
                    inside -= 1
                rounds += 1

        async def cut() -> None:
            while time.monotonic() < stop:
                await asyncio.sleep(0.1)
                proxy.cut()

        await asyncio.gather(*(work(number) for number in range(5)), cut())
        deadline = time.monotonic() + 20
        while (await direct.locks()).held:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        proxy.refuse()
        watch = Stopwatch()
        assert not await manager.acquire_lock("m", "p", timeout=1)
        assert 0.9 < watch.seconds < 5 + watch.held_up
        await manager.aclose()
        await direct.aclose()


def test_the_applications_own_sqlite_may_use_the_file(tmp_path: Path) -> None:
    path = tmp_path / "shared.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE rows (number INTEGER)")
    stop = time.monotonic() + 2
    written = 0

    def write() -> None:
        nonlocal written
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        while time.monotonic() < stop:
            connection.execute("INSERT INTO rows VALUES (?)", (written,))
            written += 1
            if written % 20 == 0:
                connection.close()
                connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        connection.close()

    async def lock() -> int:
        manager = BidLockManager(300, f"sqlite:///{path}")
        acquired = 0
        while time.monotonic() < stop:
            acquired += await manager.acquire_lock("m", str(acquired), timeout=30)
        return acquired

    writer = threading.Thread(target=write)
    writer.start()
    acquired = asyncio.run(lock())
    writer.join()
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM rows").fetchone() == (written,)
        assert connection.execute("SELECT count(*) FROM distributed_locks").fetchone() == (acquired,)


async def test_several_processes_make_the_schema_at_once(shared_url: str, tmp_path: Path) -> None:
    count_together(["native"] * 4, shared_url, tmp_path, rounds=1, seconds=100)
