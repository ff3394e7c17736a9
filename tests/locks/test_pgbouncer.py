"""Locks through PgBouncer in transaction mode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockBackendError
from testing_support.lock_counter import count_together
from testing_support.servers.pgbouncer import PgBouncer
from testing_support.servers.postgres import PostgresServer


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


async def test_with_prepared_statements_it_is_told_what_to_do(pooled_url: str) -> None:
    managers = [BidLockManager(300, f"{pooled_url}&application_name={number}") for number in range(4)]

    async def work(manager: BidLockManager) -> None:
        for _ in range(10):
            await (await manager.acquire_lease("m", "p", timeout=10)).release()

    with pytest.raises(LockBackendError, match="statement_cache=False"):
        await asyncio.gather(*(work(manager) for manager in managers))
