"""A row whose expiry never comes: held until an operator deletes it, and it affects no other row."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from testing_support.machine import Stopwatch

ODD_ROWS = [
    ("postgresql", "'Infinity'"),
    ("postgresql", "1e300"),
    ("sqlite", "9e999"),
    ("sqlite", "1e300"),
    ("redis", None),
    ("redis", 2**60),
]


async def write_row(request: pytest.FixtureRequest, url: str, store: str, expiry: object) -> None:
    """Write a lock on m:odd, as another program might."""
    if store == "redis":
        client = request.getfixturevalue("redis_server").client
        client.set("bid_lock:m:odd", "somebody", px=expiry)
        return
    async with BidLockManager(database_url=url) as manager:
        await manager.locks()  # creates the table
    insert = (
        "INSERT INTO distributed_locks (id, lock_key, holder_id, acquired_at, expires_at) "
        f"VALUES ('odd', 'bid:lock:m:odd', 'somebody', 1, {expiry})"
    )
    if store == "postgresql":
        request.getfixturevalue("postgres_server").execute(insert)
    else:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute(insert)
        connection.close()


@pytest.mark.parametrize(("store", "expiry"), ODD_ROWS)
async def test_a_row_with_an_odd_expiry_is_held_until_it_is_broken(
    request: pytest.FixtureRequest, store: str, expiry: object
) -> None:
    fixtures = {"postgresql": "postgres_url", "sqlite": "sqlite_url", "redis": "redis_url"}
    url = request.getfixturevalue(fixtures[store])
    await write_row(request, url, store, expiry)
    async with BidLockManager(database_url=url) as manager:
        watch = Stopwatch()
        tries = (manager.acquire_lock("m", "odd", timeout=0.3) for _ in range(2))
        assert await asyncio.gather(*tries) == [False, False]
        assert 0.3 <= watch.seconds < 5 + watch.held_up
        assert await manager.try_lock("m", "odd") is None
        (row,) = (await manager.locks()).held
        assert (row.key, row.holder_id, row.is_expired) == ("bid:lock:m:odd", "somebody", False)
        assert (await manager.get_metrics_async())["active_locks"] == 1

        # A lease that is handed over in memory does not take its times from the odd row.
        for _ in range(5):
            first = await manager.acquire_lease("m", "p")
            waiting = asyncio.create_task(manager.acquire_lease("m", "p", timeout=20))
            for _ in range(20):  # only the fastest answer is asserted
                assert await manager.try_lock("m", "odd") is None
            assert await first.release()
            second = await waiting
            assert math.isfinite(second.acquired_at)
            assert abs(second.acquired_at - time.time()) < 60
            assert await second.release()

        waiting_for_it = asyncio.create_task(manager.acquire_lock("m", "odd", timeout=20))
        await asyncio.sleep(0.05)
        assert await manager.break_lock("bid:lock:m:odd")
        assert await waiting_for_it
