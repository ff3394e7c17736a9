"""Every message about a lock is one line, whatever its name, its holder and the server's text contain."""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from arbitrageai_native.exceptions import LockBackendError, LockLostError, LockTimeoutError
from tests.conftest import MakeManager

HOSTILE = "1\n2026-01-01 CRITICAL forged\x1b[2J\x9b\u202e\u2029"
SHOWN = r"1\n2026-01-01 CRITICAL forged\x1b[2J\x9b\u202e\u2029"
READABLE = "größe 日本 👩"

Wait = Callable[[BidLockManager], Awaitable[object]]


async def with_lock(manager: BidLockManager) -> object:
    async with manager.with_lock("upwork", HOSTILE, timeout=0):
        return None


async def with_lock_sync(manager: BidLockManager) -> object:
    def block() -> None:
        with manager.with_lock_sync("upwork", HOSTILE, timeout=0):
            pass

    return await asyncio.to_thread(block)


WAITS: dict[str, Wait] = {
    "acquire_lock": lambda manager: manager.acquire_lock("upwork", HOSTILE, 0, raise_on_error=True),
    "acquire_lease": lambda manager: manager.acquire_lease("upwork", HOSTILE, 0),
    "lock_many": lambda manager: manager.lock_many([("upwork", HOSTILE)], 0),
    "with_lock": with_lock,
    "with_lock_sync": with_lock_sync,
}


def is_one_line(text: str) -> bool:
    return SHOWN in text and not any(character in text for character in "\n\x1b\x9b\u202e\u2029")


@pytest.mark.parametrize("wait", WAITS)
async def test_a_timeout(make_manager: MakeManager, wait: str) -> None:
    manager = make_manager()
    await manager.acquire_lock("upwork", HOSTILE, holder_id="somebody")
    with pytest.raises(LockTimeoutError) as raised:
        await WAITS[wait](manager)
    assert is_one_line(str(raised.value))
    assert f"Failed to acquire lock for upwork:{SHOWN} within 0" in str(raised.value)


async def test_the_log(make_manager: MakeManager, caplog: pytest.LogCaptureFixture) -> None:
    manager = make_manager()
    await manager.acquire_lock("upwork", HOSTILE, holder_id=HOSTILE)
    await manager.acquire_lock("upwork", READABLE, holder_id="a")
    with caplog.at_level(logging.INFO):
        assert not await manager.acquire_lock("upwork", HOSTILE, timeout=0)
        assert not await manager.release_lock("upwork", HOSTILE, holder_id=f"another {HOSTILE}")
        assert not await manager.release_lock("upwork", READABLE, holder_id=READABLE)
        assert await manager.release_lock("upwork", HOSTILE, holder_id=HOSTILE)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("bid_lock_manager")]
    conflict, timeout, not_released, readable, released = lines
    assert all(is_one_line(line) for line in lines if line is not readable)
    key = f"bid:lock:upwork:{SHOWN}"
    assert conflict == f"Lock conflict: default tried to acquire {key} but it's held by {SHOWN}"
    assert timeout.startswith(f"Lock timeout for {key} after ")
    assert not_released == f"Holder mismatch for {key}: another {SHOWN} tried to release but held by {SHOWN}"
    assert readable == (
        f"Holder mismatch for bid:lock:upwork:{READABLE}: {READABLE} tried to release but held by a"
    )
    assert released == f"Lock released: {SHOWN} released {key}"


async def test_a_loss(make_manager: MakeManager, caplog: pytest.LogCaptureFixture) -> None:
    manager = make_manager(ttl=0.3, on_lost="raise")
    with pytest.raises(LockLostError) as raised:
        async with manager.with_lock("upwork", HOSTILE) as lease:
            await manager.break_lock(lease.key)
            assert await lease.lost() is not None
    assert is_one_line(str(raised.value))
    with pytest.raises(LockLostError) as raised:
        await lease.renew()
    assert is_one_line(str(raised.value))
    assert is_one_line(repr(lease))
    assert lease.key == f"bid:lock:upwork:{HOSTILE}", "attributes keep the text unchanged"
    with caplog.at_level(logging.WARNING):
        async with manager.with_lock("upwork", HOSTILE, on_lost="log") as lease:
            await manager.break_lock(lease.key)
            assert await lease.lost() is not None
    assert [is_one_line(record.getMessage()) for record in caplog.records] == [True]


async def test_a_lock_asked_for_twice(manager: BidLockManager) -> None:
    with pytest.raises(ValueError, match="asked for twice") as raised:
        await manager.lock_many([("upwork", HOSTILE)] * 2)
    assert is_one_line(str(raised.value))


async def test_what_a_database_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with BidLockManager(300, f"sqlite:///{tmp_path / 'locks.db'}") as manager:
        await manager.acquire_lock("upwork", "1")
        with closing(sqlite3.connect(tmp_path / "locks.db")) as connection:
            refuse = f"BEFORE INSERT ON distributed_locks BEGIN SELECT RAISE(ABORT, '{HOSTILE}'); END"
            connection.execute(f"CREATE TRIGGER refuse {refuse}")
        with pytest.raises(LockBackendError) as raised:
            await manager.acquire_lock("upwork", "2", timeout=0, raise_on_error=True)
        assert is_one_line(str(raised.value))
        assert is_one_line(str(raised.value.__cause__))
        assert not await manager.acquire_lock("upwork", "2", timeout=0)
    assert [is_one_line(record.getMessage()) for record in caplog.records] == [True]


async def test_the_redis_manager(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    manager = RedisBidLockManager(redis_url=redis_url)
    try:
        assert await manager.acquire_lock("upwork", HOSTILE, holder_id="a")
        with pytest.raises(LockTimeoutError) as raised:
            async with manager.with_lock("upwork", HOSTILE, timeout=0, holder_id="b"):
                pass
        assert is_one_line(str(raised.value))
        assert not await manager.release_lock("upwork", HOSTILE, holder_id=HOSTILE)
        assert [is_one_line(record.getMessage()) for record in caplog.records] == [True, True]
    finally:
        await manager.close()
