"""`agent_execution.bid_lock_manager`: its functions and methods, sentence by sentence."""

import asyncio
import inspect
import logging
import sqlite3
import threading
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest

from testing_support.machine import Stopwatch
from testing_support.waiting import until
from tests.drop_in.support import change, rewind, rows

KEY = "bid:lock:upwork:p1"


@pytest.fixture
def manager(locks: Any) -> Any:
    """A manager with the original's `ttl`."""
    return locks.BidLockManager(ttl=300)


def insert(file: Path, holder: str, seconds: float = 300) -> str:
    """Put a row of another process into the table; gives its id."""
    row = str(uuid.uuid4())
    now = time.time()
    change(
        file,
        "INSERT INTO distributed_locks (id, lock_key, holder_id, acquired_at, expires_at) "
        "VALUES (?, ?, ?, ?, ?)",
        row,
        KEY,
        holder,
        now,
        now + seconds,
    )
    return row


# The module's functions


def test_ttl_is_300_by_default(locks: Any) -> None:
    assert locks.BidLockManager().ttl == 300
    assert locks.BidLockManager(ttl=60).ttl == 60
    assert locks.BidLockManager(60).ttl == 60


def test_get_bid_lock_manager_is_process_wide_with_ttl_300(locks: Any) -> None:
    manager = locks.get_bid_lock_manager()
    assert isinstance(manager, locks.BidLockManager)
    assert manager.ttl == 300
    assert locks.get_bid_lock_manager() is manager
    assert locks._bid_lock_manager is manager


def test_init_bid_lock_manager_makes_the_process_wide_one(locks: Any) -> None:
    manager = locks.init_bid_lock_manager(ttl=60)
    assert manager.ttl == 60
    assert locks.get_bid_lock_manager() is manager
    assert locks.init_bid_lock_manager().ttl == 300


def test_setting_the_module_global_to_none_resets_it(locks: Any) -> None:
    manager = locks.get_bid_lock_manager()
    locks._bid_lock_manager = None
    assert locks.get_bid_lock_manager() is not manager


def test_a_manager_put_into_the_module_global_is_the_process_wide_one(locks: Any) -> None:
    mine = locks._bid_lock_manager = locks.BidLockManager(ttl=5)
    assert locks.get_bid_lock_manager() is mine


async def test_an_assigned_ttl_affects_the_next_acquisition(manager: Any, lock_file: Path) -> None:
    await manager.acquire_lock("upwork", "p1")
    manager.ttl = 17
    assert manager.ttl == 17
    await manager.acquire_lock("upwork", "p2")
    lasting = {row["lock_key"]: row["expires_at"] - row["acquired_at"] for row in rows(lock_file)}
    assert lasting == pytest.approx({KEY: 300, "bid:lock:upwork:p2": 17}, abs=0.5)


# acquire_lock


async def test_acquire_lock_is_true_when_acquired(manager: Any) -> None:
    assert await manager.acquire_lock("upwork", "p1") is True


async def test_acquire_lock_takes_its_arguments_by_position(manager: Any, lock_file: Path) -> None:
    assert await manager.acquire_lock("upwork", "p1", 1.0, "me") is True
    assert [row["holder_id"] for row in rows(lock_file)] == ["me"]


async def test_the_holder_is_default_by_default(manager: Any, lock_file: Path) -> None:
    await manager.acquire_lock("upwork", "p1")
    assert [row["holder_id"] for row in rows(lock_file)] == ["default"]


async def test_acquire_lock_is_false_when_it_is_still_held_in_the_end(manager: Any) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="one")
    watch = Stopwatch()
    assert await manager.acquire_lock("upwork", "p1", timeout=0.5, holder_id="two") is False
    assert 0.5 <= watch.seconds < 3 + watch.held_up


async def test_acquire_lock_with_timeout_0_does_not_wait(manager: Any) -> None:
    await manager.acquire_lock("upwork", "p1")
    watch = Stopwatch()
    assert await manager.acquire_lock("upwork", "p1", timeout=0) is False
    assert watch.seconds < 5 + watch.held_up


async def test_a_lock_that_is_released_meanwhile_is_acquired(manager: Any) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="one")
    waiter = asyncio.create_task(manager.acquire_lock("upwork", "p1", timeout=10, holder_id="two"))
    await asyncio.sleep(0.2)
    assert not waiter.done()
    await manager.release_lock("upwork", "p1", holder_id="one")
    assert await waiter is True


async def test_an_expired_lock_is_taken_over_at_once(manager: Any, lock_file: Path) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="one")
    rewind(lock_file, 301)
    watch = Stopwatch()
    assert await manager.acquire_lock("upwork", "p1", timeout=10, holder_id="two") is True
    assert watch.seconds < 5 + watch.held_up
    assert [row["holder_id"] for row in rows(lock_file)] == ["two"]


async def test_a_lock_that_expires_meanwhile_is_taken_over(manager: Any) -> None:
    manager.ttl = 0.5
    await manager.acquire_lock("upwork", "p1", holder_id="one")
    watch = Stopwatch()
    assert await manager.acquire_lock("upwork", "p1", timeout=10, holder_id="two") is True
    assert 0.3 <= watch.seconds < 3 + watch.held_up


@pytest.mark.parametrize(("marketplace", "posting"), [("", "p1"), ("upwork", ""), ("", "")])
async def test_empty_ids_are_refused(manager: Any, marketplace: str, posting: str) -> None:
    with pytest.raises(ValueError, match=r"^marketplace_id and posting_id must not be empty$"):
        await manager.acquire_lock(marketplace, posting)


async def test_locks_of_different_postings_are_independent(manager: Any) -> None:
    assert await manager.acquire_lock("upwork", "p1", timeout=0)
    assert await manager.acquire_lock("upwork", "p2", timeout=0)
    assert await manager.acquire_lock("fiverr", "p1", timeout=0)


async def test_a_lock_is_not_reentrant(manager: Any) -> None:
    assert await manager.acquire_lock("upwork", "p1", holder_id="me")
    assert await manager.acquire_lock("upwork", "p1", timeout=0.2, holder_id="me") is False


async def test_two_managers_exclude_each_other(locks: Any) -> None:
    one, two = locks.BidLockManager(), locks.BidLockManager()
    assert await one.acquire_lock("upwork", "p1", holder_id="one")
    assert await two.acquire_lock("upwork", "p1", timeout=0.2, holder_id="two") is False


async def test_of_many_at_once_one_acquires(locks: Any) -> None:
    managers = [locks.BidLockManager() for _ in range(5)]
    won = await asyncio.gather(
        *(
            manager.acquire_lock("upwork", "p1", timeout=0.2, holder_id=f"h{number}")
            for number, manager in enumerate(managers)
        )
    )
    assert sorted(won) == [False, False, False, False, True]


async def test_a_database_error_is_logged_and_gives_false(
    locks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "corrupt.db").write_bytes(b"this is no database, whatever its name says" * 50)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'corrupt.db'}")
    with closing(sqlite3.connect(tmp_path / "good.db")):
        pass
    try:
        manager = locks.BidLockManager()
        assert await manager.acquire_lock("upwork", "p1", timeout=0.5) is False
    except Exception as error:  # the reference makes the table outside of its own `try`
        if "sqlite3.DatabaseError" not in str(error):
            raise
        return
    assert any(record.levelno >= logging.ERROR for record in caplog.records)


@pytest.mark.better
async def test_a_transient_database_error_is_retried_within_the_timeout(
    manager: Any, lock_file: Path
) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    await manager.acquire_lock("upwork", "p0")
    # The original fails as soon as SQLite's own patience ends.
    engine = create_engine(f"sqlite:///{lock_file}", connect_args={"timeout": 0.05})
    manager._get_db = lambda: Session(engine)
    with locked(lock_file, 0.5):
        acquired = await manager.acquire_lock("upwork", "p1", timeout=10)
    engine.dispose()
    assert acquired is True


class locked:  # noqa: N801  reads as a verb
    """The database is locked by another process for a time that begins now."""

    def __init__(self, file: Path, seconds: float) -> None:
        self._file = file
        self._seconds = seconds
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def _hold(self) -> None:
        with closing(sqlite3.connect(self._file, isolation_level=None, timeout=10)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            self._begun.set()
            time.sleep(self._seconds)
            connection.execute("ROLLBACK")

    def __enter__(self) -> None:
        self._thread.start()
        self._begun.wait(10)

    def __exit__(self, *_: object) -> None:
        self._thread.join()


@pytest.mark.better
async def test_a_busy_database_does_not_block_the_loop(manager: Any, lock_file: Path) -> None:
    await manager.acquire_lock("upwork", "p0")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    with locked(lock_file, 0.5):
        ticker = asyncio.create_task(tick())
        assert await manager.acquire_lock("upwork", "p1", timeout=10) is True
        ticker.cancel()
    assert ticks >= 10


# release_lock


async def test_release_lock_releases(manager: Any, lock_file: Path) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="me")
    assert await manager.release_lock("upwork", "p1", holder_id="me") is True
    assert rows(lock_file) == []
    assert await manager.acquire_lock("upwork", "p1", timeout=0, holder_id="other") is True


async def test_release_lock_of_no_such_lock_is_false_and_logged(
    manager: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert await manager.release_lock("upwork", "p1") is False
    assert any(record.levelno == logging.WARNING for record in caplog.records)


async def test_release_lock_of_anothers_lock_is_false_and_logged(
    manager: Any, lock_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="one")
    assert await manager.release_lock("upwork", "p1", holder_id="two") is False
    assert any(record.levelno == logging.WARNING for record in caplog.records)
    assert [row["holder_id"] for row in rows(lock_file)] == ["one"]


@pytest.mark.better
async def test_an_expired_holder_does_not_delete_its_successors_row(manager: Any, lock_file: Path) -> None:
    await manager.acquire_lock("upwork", "p1")
    # Another process, whose holder is "default" too, takes the expired lock over.
    change(lock_file, "DELETE FROM distributed_locks")
    successor = insert(lock_file, "default")
    assert await manager.release_lock("upwork", "p1") is False
    assert [row["id"] for row in rows(lock_file)] == [successor]


async def test_where_this_process_never_acquired_the_holder_decides(manager: Any, lock_file: Path) -> None:
    await manager.cleanup_all()
    insert(lock_file, "old process")
    assert await manager.release_lock("upwork", "p1", holder_id="other") is False
    assert await manager.release_lock("upwork", "p1", holder_id="old process") is True
    assert rows(lock_file) == []


async def test_another_manager_of_the_process_may_release(locks: Any, lock_file: Path) -> None:
    await locks.BidLockManager().acquire_lock("upwork", "p1", holder_id="me")
    assert await locks.BidLockManager().release_lock("upwork", "p1", holder_id="me") is True
    assert rows(lock_file) == []


# with_lock


async def test_with_lock_holds_the_lock_during_the_body(manager: Any, lock_file: Path) -> None:
    async with manager.with_lock("upwork", "p1", timeout=1, holder_id="me"):
        assert [(row["lock_key"], row["holder_id"]) for row in rows(lock_file)] == [(KEY, "me")]
        assert await manager.acquire_lock("upwork", "p1", timeout=0, holder_id="other") is False
    assert rows(lock_file) == []


async def test_with_lock_takes_its_arguments_by_position(manager: Any, lock_file: Path) -> None:
    async with manager.with_lock("upwork", "p1", 1.0, "me"):
        assert [row["holder_id"] for row in rows(lock_file)] == ["me"]


@pytest.mark.parametrize("error", [ValueError("body"), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_with_lock_releases_whatever_the_body_raised(
    manager: Any, lock_file: Path, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        async with manager.with_lock("upwork", "p1"):
            raise error
    assert rows(lock_file) == []


async def test_with_lock_raises_timeout_error(manager: Any) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="one")
    # This package goes on after the original's words.
    holder = r"(: it is held by 'one' since \S+ \S+ UTC)?"
    with pytest.raises(TimeoutError, match=rf"^Failed to acquire lock for upwork:p1 within 0.2s{holder}$"):
        async with manager.with_lock("upwork", "p1", timeout=0.2, holder_id="two"):
            pytest.fail("the body ran")


async def test_with_lock_refuses_empty_ids(manager: Any) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        async with manager.with_lock("", "p1"):
            pytest.fail("the body ran")


@pytest.mark.better
async def test_with_lock_renews_while_the_body_runs(manager: Any, lock_file: Path) -> None:
    manager.ttl = 0.6
    async with manager.with_lock("upwork", "p1"):
        await asyncio.sleep(1.0)
        (row,) = rows(lock_file)
        assert row["expires_at"] > time.time()


@pytest.mark.better(raises=TypeError)
async def test_auto_renew_false_gives_the_originals_expiry(manager: Any, lock_file: Path) -> None:
    manager.ttl = 0.4
    async with manager.with_lock("upwork", "p1", auto_renew=False):
        await until(lambda: all(row["expires_at"] < time.time() for row in rows(lock_file)))


# Metrics


def test_metrics_of_a_new_manager(manager: Any) -> None:
    assert manager.get_metrics() == {
        "lock_attempts": 0,
        "lock_successes": 0,
        "lock_conflicts": 0,
        "lock_timeouts": 0,
        "active_locks": 0,
    }


async def test_metrics_count(manager: Any) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="one")
    await manager.acquire_lock("upwork", "p1", timeout=0, holder_id="two")
    await manager.acquire_lock("upwork", "p2")
    await manager.release_lock("upwork", "p2")
    assert manager.get_metrics() == {
        "lock_attempts": 3,
        "lock_successes": 2,
        "lock_conflicts": 1,
        "lock_timeouts": 1,
        "active_locks": 1,
    }


async def test_the_counters_read_as_ints(manager: Any) -> None:
    await manager.acquire_lock("upwork", "p1")
    await manager.acquire_lock("upwork", "p1", timeout=0)
    counters = (
        manager._lock_attempts,
        manager._lock_successes,
        manager._lock_conflicts,
        manager._lock_timeouts,
    )
    assert counters == (2, 1, 1, 1)
    assert all(type(counter) is int for counter in counters)


async def test_the_counters_are_the_managers_own(locks: Any) -> None:
    one, two = locks.BidLockManager(), locks.BidLockManager()
    await one.acquire_lock("upwork", "p1")
    assert (one._lock_attempts, two._lock_attempts) == (1, 0)


async def test_with_lock_is_counted(manager: Any) -> None:
    async with manager.with_lock("upwork", "p1"):
        assert manager.get_metrics()["active_locks"] == 1
    metrics = manager.get_metrics()
    assert (metrics["lock_attempts"], metrics["lock_successes"], metrics["active_locks"]) == (1, 1, 0)


async def test_active_locks_are_rows_not_expired_whoever_holds_them(manager: Any, lock_file: Path) -> None:
    await manager.acquire_lock("upwork", "p1")
    await manager.acquire_lock("upwork", "p2")
    rewind(lock_file, 301)
    assert manager.get_metrics()["active_locks"] == 0
    change(lock_file, "DELETE FROM distributed_locks")
    insert(lock_file, "another process")
    assert manager.get_metrics()["active_locks"] == 1


@pytest.mark.better
async def test_a_conflict_is_counted_once_per_call(manager: Any) -> None:
    await manager.acquire_lock("upwork", "p1")
    await manager.acquire_lock("upwork", "p1", timeout=0.5)
    assert manager._lock_conflicts == 1


async def test_get_metrics_is_synchronous(manager: Any) -> None:
    assert not inspect.iscoroutinefunction(manager.get_metrics)
    assert isinstance(manager.get_metrics(), dict)


# The rest


async def test_cleanup_all_deletes_every_lock(manager: Any, lock_file: Path) -> None:
    await manager.acquire_lock("upwork", "p1")
    await manager.acquire_lock("upwork", "p2")
    change(lock_file, "UPDATE distributed_locks SET holder_id = 'another' WHERE lock_key LIKE '%p2'")
    assert await manager.cleanup_all() is None
    assert rows(lock_file) == []
    assert await manager.acquire_lock("upwork", "p1", timeout=0)


def test_make_lock_key(manager: Any) -> None:
    assert manager._make_lock_key("upwork", "p1") == KEY
    assert manager._make_lock_key("a:b", "c") == "bid:lock:a:b:c"


@pytest.mark.parametrize("name", ["acquire_lock", "release_lock", "cleanup_all"])
def test_coroutine_functions(locks: Any, name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(locks.BidLockManager, name))


async def test_patching_acquire_lock_makes_an_async_mock(locks: Any) -> None:
    with patch.object(locks.BidLockManager, "acquire_lock", return_value=True) as mock:
        assert isinstance(mock, AsyncMock)
        assert await locks.get_bid_lock_manager().acquire_lock("upwork", "p1") is True


def test_coroutines_may_be_made_without_a_loop(manager: Any) -> None:
    assert asyncio.run(manager.acquire_lock("upwork", "p1")) is True
    assert asyncio.run(manager.release_lock("upwork", "p1")) is True


async def test_nothing_starts_before_it_is_awaited(manager: Any) -> None:
    coroutine = manager.acquire_lock("upwork", "p1")
    await asyncio.sleep(0.05)
    coroutine.close()
    assert manager.get_metrics()["active_locks"] == 0
    context = manager.with_lock("upwork", "p1")
    assert manager.get_metrics()["active_locks"] == 0
    async with context:
        assert manager.get_metrics()["active_locks"] == 1
