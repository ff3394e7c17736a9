"""A loss is detected long before the next renewal, and the margin ends a lease before its row."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from arbitrageai_native.exceptions import LockLostError
from arbitrageai_native.locks.leases import Lease
from testing_support.servers.redis import RedisServer
from testing_support.waiting import until
from tests.conftest import MakeManager

# The renewals of these leases are 100 s apart; the check, by default, a second.
TTL = 300
SOON = 20


def delete_row(request: pytest.FixtureRequest, url: str, posting: str = "p") -> None:
    """Delete a row as nobody of ours does: no notification is sent."""
    delete = f"DELETE FROM distributed_locks WHERE lock_key = 'bid:lock:m:{posting}'"
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute(delete)
        connection.close()
    elif url.startswith("postgresql"):
        request.getfixturevalue("postgres_server").execute(delete)
    else:
        request.getfixturevalue("redis_server").execute("DEL", f"bid_lock:m:{posting}")


async def test_a_row_that_is_deleted_behind_our_back_is_missed(
    request: pytest.FixtureRequest, shared_url: str
) -> None:
    async with BidLockManager(TTL, shared_url) as manager:
        lease, other = await manager.lock_many([("m", "p"), ("m", "q")])
        await asyncio.sleep(0.1)
        delete_row(request, shared_url)
        assert "row was deleted" in str(await asyncio.wait_for(lease.lost(), SOON))
        assert not lease.is_held
        assert not await lease.release()
        assert (await manager.get_metrics_async())["lock_losses"] == 1
        assert other.is_held
        assert await other.release()


async def test_a_row_that_another_has_taken_is_missed(
    request: pytest.FixtureRequest, shared_url: str
) -> None:
    async with BidLockManager(TTL, shared_url) as manager, BidLockManager(TTL, shared_url) as other:
        lease = await manager.acquire_lease("m", "p")
        delete_row(request, shared_url)
        # The queue of this process serves the other manager, too, and finds the row gone.
        assert await other.acquire_lock("m", "p", timeout=SOON)
        await asyncio.wait_for(lease.lost(), SOON)
        assert await other.release_lock("m", "p")


async def test_a_table_that_is_made_anew_holds_no_lock(
    request: pytest.FixtureRequest, table_url: str
) -> None:
    async with BidLockManager(TTL, table_url) as manager:
        lease = await manager.acquire_lease("m", "p")
        if table_url.startswith("sqlite"):
            with sqlite3.connect(table_url.removeprefix("sqlite:///")) as connection:
                connection.execute("DROP TABLE distributed_locks")
            connection.close()
        else:
            request.getfixturevalue("postgres_server").execute("DROP TABLE distributed_locks")
        await asyncio.wait_for(lease.lost(), SOON)


async def test_a_server_that_restarts_without_data_holds_no_lock(own_redis_server: RedisServer) -> None:
    async with BidLockManager(TTL, own_redis_server.url()) as manager:
        lease = await manager.acquire_lease("m", "p")
        own_redis_server.restart()
        await asyncio.wait_for(lease.lost(), SOON)


async def test_a_file_that_is_deleted_holds_no_lock(sqlite_url: str) -> None:
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    async with BidLockManager(TTL, sqlite_url) as manager:
        lease = await manager.acquire_lease("m", "p")
        for name in (file, *file.parent.glob("*-wal"), *file.parent.glob("*-shm")):
            name.unlink()
        await asyncio.wait_for(lease.lost(), SOON)


@pytest.mark.parametrize("in_thread", [False, True], ids=["asyncio", "thread"])
async def test_the_end_of_a_block_does_not_wait_for_the_release_of_what_is_lost(
    request: pytest.FixtureRequest, shared_url: str, in_thread: bool
) -> None:
    server = None
    if shared_url.startswith("sqlite"):
        path = shared_url.removeprefix("sqlite:///")
        writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    else:
        server = request.getfixturevalue(
            "postgres_server" if shared_url.startswith("postgres") else "redis_server"
        )
    took: list[float] = []

    def silence() -> None:
        if server is None:
            writer.execute("BEGIN EXCLUSIVE")
        else:
            stop_all(server.process_id, signal.SIGSTOP)

    def ends(lease: Lease) -> None:
        while lease.is_held:
            time.sleep(0.01)
        took.append(time.monotonic())

    def thread_block() -> None:
        with manager.with_lock_sync("m", "p") as lease:
            silence()
            ends(lease)
        took.append(time.monotonic())

    async with BidLockManager(1, shared_url) as manager:
        await manager.locks()
        try:
            if in_thread:
                await asyncio.to_thread(thread_block)
            else:
                async with manager.with_lock("m", "p") as lease:
                    silence()
                    await asyncio.to_thread(ends, lease)
                took.append(time.monotonic())
        finally:
            if server is None:
                writer.close()
            else:
                stop_all(server.process_id, signal.SIGCONT)
    begun, ended = took
    assert ended - begun < 4, "a release that the database does not answer takes 5 s"


def stop_all(server: int, how: signal.Signals) -> None:
    children = Path(f"/proc/{server}/task/{server}/children").read_text(encoding="ascii").split()
    for process in (server, *map(int, children)):
        os.kill(process, how)


async def test_a_broken_lock_cancels_its_block(manager: BidLockManager) -> None:
    with pytest.raises(LockLostError, match="row was deleted"):
        async with manager.with_lock("m", "p", on_lost="cancel") as lease:
            await manager.break_lock(lease.key)
            await asyncio.sleep(TTL)


async def test_a_broken_lock_calls_back_in_asyncio_and_from_a_thread(manager: BidLockManager) -> None:
    called: list[Lease] = []
    async with manager.with_lock("m", "p", on_lost=called.append) as lease:
        await manager.break_lock(lease.key)
        await until(lambda: bool(called))
    told = threading.Event()

    def block() -> None:
        def on_lost(lost: Lease) -> None:
            called.append(lost)
            told.set()

        with manager.with_lock_sync("m", "p", on_lost=on_lost) as kept:
            asyncio.run(manager.break_lock(kept.key))
            assert told.wait(SOON)

    await asyncio.to_thread(block)
    assert len(called) == 2
    assert (await manager.get_metrics_async())["lock_losses"] == 2


async def test_the_redis_manager_checks_too(redis_server: RedisServer, redis_url: str) -> None:
    manager = RedisBidLockManager(redis_url, on_lost="cancel")
    with pytest.raises(LockLostError):
        async with manager.with_lock("m", "p"):
            redis_server.execute("FLUSHALL")
            await asyncio.sleep(TTL)
    await manager.close()


async def test_without_a_check_the_release_finds_the_loss(
    request: pytest.FixtureRequest, shared_url: str
) -> None:
    async with BidLockManager(TTL, shared_url, loss_check=None) as manager:
        lease = await manager.acquire_lease("m", "p")
        delete_row(request, shared_url)
        await asyncio.sleep(2.5)
        assert lease.is_held
        assert not await lease.release()
        assert lease.loss is not None


async def test_the_check_takes_no_lock_from_its_holder(make_manager: MakeManager) -> None:
    manager = make_manager(TTL, loss_check=0.1)

    async def hold(number: int) -> None:
        for _ in range(10):
            async with manager.with_lock("m", str(number % 5), timeout=60) as lease:
                await asyncio.sleep(0.05)
                assert lease.is_held
            assert lease.loss is None

    await asyncio.gather(*(hold(number) for number in range(10)))
    assert (await manager.get_metrics_async())["lock_losses"] == 0


# --- the margin ---


async def test_a_lease_ends_a_margin_before_its_row(make_manager: MakeManager) -> None:
    manager, other = make_manager(4, margin=1.9, auto_renew=False), make_manager()
    lease = await manager.acquire_lease("m", "p")
    assert 1.9 <= lease.remaining <= 4
    assert lease.expires_at - lease.acquired_at == pytest.approx(4, abs=0.1)
    assert await lease.lost() == "its time ran out"
    assert (lease.is_held, lease.remaining) == (False, 0)
    assert await other.try_lock("m", "p") is None  # the row stands for another 1.9 s
    assert await other.acquire_lock("m", "p", timeout=SOON)


async def test_a_renewed_lease_with_a_margin_is_kept(make_manager: MakeManager) -> None:
    manager = make_manager(2, on_lost="raise")
    async with manager.with_lock("m", "p", margin=0.9) as lease:
        await asyncio.sleep(4)
        assert lease.is_held
    assert lease.loss is None


async def test_without_renewal_the_whole_time_is_the_holders(make_manager: MakeManager) -> None:
    manager = make_manager(1, auto_renew=False, loss_check=None)
    lease = await manager.acquire_lease("m", "p")
    while lease.is_held:
        left = lease.remaining
        await asyncio.sleep(0.001)
    assert left < 0.09, "the default margin with renewal is 0.1 s"


@pytest.mark.parametrize("margin", [150, 1e9, -0.001, float("nan"), float("inf")])
async def test_a_margin_that_makes_no_sense(margin: float) -> None:
    manager = BidLockManager(300, "sqlite://")
    for block in (manager.with_lock("m", "p", margin=margin), RedisBidLockManager("redis://h")):
        if isinstance(block, RedisBidLockManager):
            block = block.with_lock("m", "p", margin=margin)
        with pytest.raises(ValueError, match=r"margin must be .* half of ttl \(150\.0\), not"):
            async with block:
                pass
    with (
        pytest.raises(ValueError, match="margin must be"),
        manager.with_lock_sync("m", "p", margin=margin),
    ):
        pass
    manager = BidLockManager(300, "sqlite://", margin=100)
    manager.ttl = 200
    with pytest.raises(ValueError, match=r"half of ttl \(100\.0\), not 100\.0"):
        await manager.acquire_lease("m", "p")
    assert await manager.acquire_lock("m", "plain")  # no lease, no margin
    await manager.cleanup_all()


# --- a suspended process ---

SUSPENDED = """
import asyncio, json, sys, threading, time
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

SETTINGS = ["log", "raise", "cancel", "callable"]

async def main():
    manager = BidLockManager(1, sys.argv[1])
    outcomes, held = {}, []

    def on_lost(called, name):
        return called.append if name == "callable" else name

    async def block(name):
        called, error = [], None
        try:
            async with manager.with_lock("m", f"a-{name}", on_lost=on_lost(called, name)) as lease:
                held.append(lease)
                while lease.is_held:
                    await asyncio.sleep(0.01)
                if name == "cancel":
                    await asyncio.sleep(60)
        except Exception as raised:
            error = type(raised).__name__
        outcomes[f"a-{name}"] = [error, len(called), lease.loss is not None]

    def thread_block(name):
        called, error = [], None
        try:
            with manager.with_lock_sync("m", f"t-{name}", on_lost=on_lost(called, name)) as lease:
                held.append(lease)
                while lease.is_held or (name == "callable" and not called):
                    time.sleep(0.01)
        except Exception as raised:
            error = type(raised).__name__
        outcomes[f"t-{name}"] = [error, len(called), lease.loss is not None]

    blocks = [asyncio.create_task(block(name)) for name in SETTINGS]
    threads = [asyncio.create_task(asyncio.to_thread(thread_block, name)) for name in SETTINGS]
    while len(held) < 8:
        await asyncio.sleep(0.01)
    print("held", flush=True)
    await asyncio.gather(*blocks, *threads)
    outcomes["losses"] = (await manager.get_metrics_async())["lock_losses"]
    print(json.dumps(outcomes), flush=True)

asyncio.run(main())
"""


def start_suspended(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SUSPENDED, url], stdout=subprocess.PIPE, text=True)


async def test_a_process_that_was_stopped_reports_every_loss_when_it_runs_again(shared_url: str) -> None:
    with start_suspended(shared_url) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            os.kill(process.pid, signal.SIGSTOP)
            async with BidLockManager(TTL, shared_url) as manager:
                for kind in ("a", "t"):
                    for name in ("log", "raise", "cancel", "callable"):
                        assert await manager.acquire_lock("m", f"{kind}-{name}", timeout=SOON)
                os.kill(process.pid, signal.SIGCONT)
                resumed = time.monotonic()
                outcomes: dict[str, Any] = json.loads(await asyncio.to_thread(process.stdout.readline))
                assert time.monotonic() - resumed < SOON
                assert len((await manager.locks()).held) == 8
        finally:
            process.kill()
    assert outcomes.pop("losses") == 8
    assert outcomes == {
        f"{kind}-{name}": [
            "LockLostError" if name in ("raise", "cancel") else None,
            int(name == "callable"),
            True,
        ]
        for kind in ("a", "t")
        for name in ("log", "raise", "cancel", "callable")
    }
