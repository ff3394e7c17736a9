"""Locks in Redis, where it differs from a database: its keys, its neighbours, its channels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockLostError
from testing_support.reference.src.agent_execution.redis_bid_lock_manager import (
    RedisBidLockManager as OldManager,
)
from testing_support.servers.redis import RedisServer
from testing_support.waiting import until

FENCES = "arbitrageai:lock_fences"


@pytest.fixture
async def manager(redis_url: str) -> AsyncIterator[BidLockManager]:
    """A manager on the shared server."""
    async with BidLockManager(300, redis_url) as manager:
        yield manager


# --- what is in Redis ---


async def test_a_lock_is_the_originals_key(manager: BidLockManager, redis_server: RedisServer) -> None:
    async with manager.with_lock("upwork", "p1", holder_id="me"):
        assert redis_server.execute("GET", "bid_lock:upwork:p1") == "me"
        assert 299_000 < redis_server.execute("PTTL", "bid_lock:upwork:p1") <= 300_000
    assert redis_server.execute("GET", "bid_lock:upwork:p1") is None


async def test_nothing_stays_for_ever_but_the_counters(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    manager.ttl = 0.3
    for number in range(50):
        assert await manager.acquire_lock("m", str(number))
        if number % 2:
            assert await manager.release_lock("m", str(number))
    await until(lambda: redis_server.execute("KEYS", "*") == [FENCES])


async def test_cancelled_acquisitions_leave_no_key(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    for delay in range(40):
        tasks = [asyncio.create_task(manager.acquire_lock("m", str(number))) for number in range(10)]
        await asyncio.sleep(delay * 0.00005)
        for task in tasks:
            task.cancel()
        acquired = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(acquired):
            if result is True:
                assert await manager.release_lock("m", str(number))
    deadline = time.monotonic() + 20
    while redis_server.execute("KEYS", "*bid_lock:*"):
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"posting_id": "x" * 1001}, "posting_id"),
        ({"marketplace_id": "a\0b"}, "marketplace_id"),
        ({"holder_id": "a\0b"}, "holder_id"),
    ],
)
async def test_names_that_no_store_takes(
    manager: BidLockManager, arguments: dict[str, str], named: str, redis_server: RedisServer
) -> None:
    with pytest.raises(ValueError, match=named):
        await manager.acquire_lock(**{"marketplace_id": "m", "posting_id": "p", **arguments})
    assert redis_server.execute("KEYS", "*") == []


async def test_databases_of_a_server_are_apart(redis_server: RedisServer, redis_url: str) -> None:
    async with BidLockManager(300, redis_url) as one, BidLockManager(300, redis_server.url(7)) as other:
        assert await one.acquire_lock("m", "p", timeout=0)
        assert await other.acquire_lock("m", "p", timeout=0)
        assert not await one.acquire_lock("m", "p", timeout=0)


async def test_a_unix_socket(redis_server: RedisServer, redis_url: str) -> None:
    url = f"unix://{redis_server.socket}?db=0"
    async with BidLockManager(300, url) as one, BidLockManager(300, redis_url) as other:
        assert await one.acquire_lock("m", "p", timeout=0)
        assert not await other.acquire_lock("m", "p", timeout=0)


async def test_a_closed_manager_leaves_no_connection(own_redis_server: RedisServer) -> None:
    def connections() -> int:
        return len(own_redis_server.client.client_list())

    before = connections()
    async with BidLockManager(300, own_redis_server.url()) as manager:
        assert await manager.acquire_lock("m", "p")
        assert not await manager.acquire_lock("m", "p", timeout=0.2)
        assert before < connections() <= before + 2
        assert await manager.release_lock("m", "p")
    deadline = time.monotonic() + 20
    while connections() > before:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


# --- neighbours on the same keys ---


async def test_a_neighbour_that_took_the_key_under_the_same_name_keeps_it(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    lease = await manager.acquire_lease("m", "p", holder_id="scanner", auto_renew=False)
    redis_server.execute("DEL", "bid_lock:m:p")
    redis_server.execute("SET", "bid_lock:m:p", "scanner", "NX", "PX", 60_000)
    with pytest.raises(LockLostError):
        await lease.renew()
    assert not await lease.release()
    assert redis_server.execute("GET", "bid_lock:m:p") == "scanner"


async def test_a_lock_that_never_expires_is_respected(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    redis_server.execute("SET", "bid_lock:m:p", "someone")
    assert not await manager.acquire_lock("m", "p", timeout=0.2)
    (lock,) = (await manager.locks()).held
    assert (lock.holder_id, lock.is_expired) == ("someone", False)
    assert await manager.release_lock("m", "p", holder_id="someone")


async def test_a_key_of_another_kind_is_respected(manager: BidLockManager, redis_server: RedisServer) -> None:
    redis_server.execute("RPUSH", "bid_lock:m:p", "not", "a", "lock")
    assert not await manager.acquire_lock("m", "p", timeout=0.2)
    assert redis_server.execute("LLEN", "bid_lock:m:p") == 3


async def test_only_keys_of_locks_are_ever_deleted(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    redis_server.execute("SET", "session:7", "the application's own")
    await manager.acquire_lock("m", "p")
    assert not await manager.break_lock("session:7")
    assert await manager.break_lock("bid_lock:m:p")
    await manager.cleanup_all()
    assert redis_server.execute("GET", "session:7") == "the application's own"


async def test_a_broken_lock_wakes_its_waiter_whichever_name_it_is_broken_by(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    redis_server.execute("SET", "bid_lock:m:p", "an old process", "PX", 60_000)
    waiter = asyncio.create_task(manager.acquire_lock("m", "p", timeout=30))
    await until(lambda: bool(redis_server.execute("PUBSUB", "CHANNELS", "arbitrageai:lock:*")))
    assert await manager.break_lock("bid_lock:m:p")
    assert await waiter


async def test_old_waiters_and_new_ones_take_turns(manager: BidLockManager, redis_url: str) -> None:
    old = OldManager(redis_url)
    inside = 0

    async def work(of: OldManager | BidLockManager, number: int) -> None:
        nonlocal inside
        for _ in range(5):
            async with of.with_lock("m", "p", timeout=60, holder_id=str(number)):
                assert inside == 0
                inside += 1
                await asyncio.sleep(0.001)
                inside -= 1

    await asyncio.gather(*(work((old, manager)[number % 2], number) for number in range(6)))
    await old.close()


# --- who is told of a release ---


async def test_a_release_is_published(manager: BidLockManager, redis_server: RedisServer) -> None:
    with redis_server.client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.psubscribe("arbitrageai:lock:*")
        assert heard.get_message(timeout=5) is None  # the subscription itself
        assert await manager.acquire_lock("m", "p")
        assert await manager.release_lock("m", "p")
        message = heard.get_message(timeout=5)
        assert message is not None
        assert await manager.acquire_lock("m", "other")
        await manager.cleanup_all()
        other = heard.get_message(timeout=5)
        assert other is not None
        assert other["channel"] != message["channel"]


async def test_a_waiter_looks_when_it_hears_of_a_release_and_not_of_others(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    def looks() -> int:
        calls: int = redis_server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
        return calls

    redis_server.execute("SET", "bid_lock:m:p", "someone", "PX", 60_000)
    waiter = asyncio.create_task(manager.acquire_lock("m", "p", timeout=60))
    await asyncio.sleep(0.5)
    (channel,) = redis_server.execute("PUBSUB", "CHANNELS", "arbitrageai:lock:*")
    before, started = looks(), time.monotonic()
    for _ in range(50):
        redis_server.execute("PUBLISH", channel + "1", "")
        await asyncio.sleep(0.02)
    seconds = max(1.0, time.monotonic() - started)  # on a busy machine more than the one that it sleeps
    assert looks() - before < 10 * seconds  # the slow poll
    before = looks()
    for _ in range(50):
        redis_server.execute("PUBLISH", channel, "")
        await asyncio.sleep(0.02)
    assert looks() - before > 25
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
