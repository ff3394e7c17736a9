"""Locks through PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from testing_support.lock_counter import count_together
from testing_support.servers.pgbouncer import PgBouncer
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.tcp_proxy import TcpProxy


@pytest.fixture(scope="module")
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """One for all tests of this file."""
    pooler = PgBouncer(postgres_server)
    yield pooler
    pooler.stop()


@pytest.fixture
def pooled_url(pgbouncer: PgBouncer, postgres_url: str) -> str:
    """The database of `postgres_url`, through the pooler."""
    return pgbouncer.url(postgres_url.rsplit("/", 1)[1])


async def test_more_clients_than_connections(pooled_url: str) -> None:
    managers = [
        BidLockManager(300, f"{pooled_url}&application_name={n}", statement_cache=False) for n in range(6)
    ]
    inside = 0

    async def work(manager: BidLockManager) -> None:
        nonlocal inside
        for _ in range(10):
            async with manager.with_lock("m", "p", timeout=60) as lease:
                assert inside == 0
                inside += 1
                await lease.renew()
                inside -= 1

    await asyncio.gather(*(work(manager) for manager in managers))
    assert (await managers[0].locks()).held == []
    for manager in managers:
        await manager.aclose()


def test_processes_count_together(pooled_url: str, tmp_path: Path) -> None:
    entries = count_together(["pooled"] * 4, pooled_url, tmp_path, rounds=10, seconds=100)
    assert entries.total() == 40


async def hand_over(pooled_url: str, **settings: str) -> float:
    """The median of the seconds that a waiter on another engine has to wait after a release."""
    holder = BidLockManager(300, f"{pooled_url}&application_name=holder", statement_cache=False, **settings)  # type: ignore[arg-type]
    waiter = BidLockManager(300, f"{pooled_url}&application_name=waiter", statement_cache=False, **settings)  # type: ignore[arg-type]
    waits = []
    for _ in range(5):
        assert await holder.acquire_lock("m", "p", timeout=10)
        waiting = asyncio.create_task(waiter.acquire_lock("m", "p", timeout=30))
        await asyncio.sleep(0.6)  # past the poller's first, quick looks
        released = time.monotonic()
        assert await holder.release_lock("m", "p")
        assert await waiting
        waits.append(time.monotonic() - released)
        assert await waiter.release_lock("m", "p")
    await holder.aclose()
    await waiter.aclose()
    return sorted(waits)[2]


@pytest.mark.serial
async def test_a_release_is_found_by_polling(pooled_url: str) -> None:
    assert await hand_over(pooled_url) < 3  # 0.3 s and what a busy machine adds


@pytest.mark.serial
async def test_a_direct_connection_brings_notifications(pooled_url: str, postgres_url: str) -> None:
    assert await hand_over(pooled_url, listen_url=postgres_url) < 0.15


async def test_with_default_settings_nothing_stays_behind(pgbouncer: PgBouncer, pooled_url: str) -> None:
    managers = [BidLockManager(300, f"{pooled_url}&application_name={number}") for number in range(4)]

    async def work(manager: BidLockManager) -> None:
        for _ in range(10):
            await (await manager.acquire_lease("m", "p", timeout=30)).release()

    await asyncio.gather(*(work(manager) for manager in managers))
    for manager in managers:
        await manager.aclose()
    left_behind = (
        "SELECT current_setting('plan_cache_mode'), current_setting('lock_timeout'), "
        "current_setting('statement_timeout'), (SELECT count(*) FROM pg_prepared_statements), "
        "(SELECT count(*) FROM pg_listening_channels())"
    )
    database = pooled_url.rsplit("/", 1)[1]
    for _ in range(4):  # there are two sessions
        shown = await asyncio.to_thread(psql, pgbouncer.url(database.partition("?")[0]), left_behind)
        assert shown == "auto|0|0|0|0"


def psql(url: str, statement: str) -> str:
    """What a statement of another application shows."""
    command = [PostgresServer.program("psql"), "-X", "-A", "-t", "-q", "-c", statement, url]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


async def test_a_connection_that_goes_silent_is_replaced(pgbouncer: PgBouncer, pooled_url: str) -> None:
    async with TcpProxy(pgbouncer.port) as proxy:
        url = pooled_url.replace(f":{pgbouncer.port}/", f":{proxy.port}/")
        async with BidLockManager(4, url, statement_cache=False) as manager:
            lease = await manager.acquire_lease("m", "p", timeout=30)
            proxy.hold_back()
            await asyncio.sleep(5)
            assert lease.is_held
            assert await lease.release()
        proxy.let_go()
