"""The loss of a lock is reported at the end of its block at the latest, on every kind of database."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from arbitrageai_native.exceptions import LockLostError
from arbitrageai_native.locks.leases import Lease
from testing_support.servers.redis import RedisServer
from tests.conftest import MakeManager

KEY = "bid:lock:m:p"

ON_LOST = ["log", "raise", "cancel", "callable"]
RAISING = ("raise", "cancel")


class BodyError(Exception):
    """The exception of the body."""


class Block:
    """A block that loses its lock while its body runs, in asyncio or in a thread."""

    def __init__(self, manager: BidLockManager, on_lost: str) -> None:
        self.manager = manager
        self.called_with: list[Lease] = []
        self.lease: Lease | None = None
        self._on_lost: Any = self.called_with.append if on_lost == "callable" else on_lost

    async def run(self, take_away: Callable[[], None], error: Exception | None = None) -> None:
        """Run an asynchronous block whose body never lets the loop run."""
        async with self.manager.with_lock("m", "p", on_lost=self._on_lost) as self.lease:
            take_away()
            if error is not None:
                raise error

    async def run_in_a_thread(self, take_away: Callable[[], None], error: Exception | None = None) -> None:
        """Run a block in a thread."""

        def block() -> None:
            with self.manager.with_lock_sync("m", "p", on_lost=self._on_lost) as self.lease:
                take_away()
                if error is not None:
                    raise error

        await asyncio.to_thread(block)

    def lease_is_lost(self) -> None:
        """Wait for the loss without letting the loop run."""
        assert self.lease is not None
        deadline = time.monotonic() + 20
        while self.lease.loss is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def in_another_thread(work: Callable[[], Any]) -> None:
    """Run a coroutine function in another thread with its own loop, while this thread waits."""
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    thread.join()


def break_lock(manager: BidLockManager) -> None:
    """Delete the row, as an operator does."""
    in_another_thread(lambda: manager.break_lock(KEY))


def warnings_of_loss(caplog: pytest.LogCaptureFixture) -> int:
    """Return the number of losses logged."""
    lost = [record for record in caplog.records if "was lost" in record.getMessage()]
    assert all(record.levelno == logging.WARNING for record in lost)
    return len(lost)


async def assert_reported(
    block: Block, on_lost: str, raised: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Assert that `on_lost`, the lease, the log and the counters each report the loss once."""
    assert block.lease is not None
    assert block.lease.loss is not None
    assert await block.lease.lost() == block.lease.loss
    if on_lost in RAISING:
        assert isinstance(raised, LockLostError), raised
        assert block.lease.loss in str(raised)
    else:
        assert raised is None
        assert warnings_of_loss(caplog) == 1
    assert block.called_with == ([block.lease] if on_lost == "callable" else [])
    assert (await block.manager.get_metrics_async())["lock_losses"] == 1
    await asyncio.sleep(0)  # raises if a cancellation of the task is still pending


async def outcome_of(running: Any) -> BaseException | None:
    """Return the exception of an awaitable; None if it raises none."""
    try:
        await running
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("on_lost", ON_LOST)
@pytest.mark.parametrize("run", [Block.run, Block.run_in_a_thread])
async def test_a_loss_that_the_release_finds_is_reported(
    make_manager: MakeManager,
    run: Any,
    on_lost: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    block = Block(make_manager(ttl=300), on_lost)
    other = make_manager()
    raised = await outcome_of(run(block, lambda: break_lock(other)))
    await assert_reported(block, on_lost, raised, caplog)


def give_to_another(request: pytest.FixtureRequest, url: str) -> None:
    """Let another process take the lock, which notifies nobody."""
    take = "UPDATE distributed_locks SET id = 'taken', holder_id = 'another'"
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute(take)
        connection.close()
    elif url.startswith("postgresql"):
        request.getfixturevalue("postgres_server").execute(take)
    else:
        request.getfixturevalue("redis_server").execute("SET", "bid_lock:m:p", "another")


@pytest.mark.parametrize("run", [Block.run, Block.run_in_a_thread])
async def test_a_lock_that_another_has_by_now_is_reported_and_stays_its(
    request: pytest.FixtureRequest, shared_url: str, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with BidLockManager(database_url=shared_url) as manager:
        block = Block(manager, "raise")
        raised = await outcome_of(run(block, lambda: give_to_another(request, shared_url)))
        await assert_reported(block, "raise", raised, caplog)
        assert [lock.holder_id for lock in (await manager.locks()).held] == ["another"]


@pytest.mark.parametrize("on_lost", ["cancel", "callable"])
async def test_a_loss_in_a_body_that_never_lets_the_loop_run_is_reported(
    make_manager: MakeManager, on_lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    block = Block(make_manager(ttl=0.3), on_lost)
    other = make_manager()

    def take_away() -> None:
        break_lock(other)
        block.lease_is_lost()

    raised = await outcome_of(block.run(take_away))
    await assert_reported(block, on_lost, raised, caplog)


@pytest.mark.parametrize("on_lost", ON_LOST)
@pytest.mark.parametrize("run", [Block.run, Block.run_in_a_thread])
async def test_what_the_body_raises_comes_out_and_the_loss_is_logged(
    manager: BidLockManager, run: Any, on_lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    block = Block(manager, on_lost)
    with pytest.raises(BodyError):
        await run(block, lambda: break_lock(manager), BodyError())
    assert warnings_of_loss(caplog) == 1
    assert block.called_with == ([block.lease] if on_lost == "callable" else [])


@pytest.mark.parametrize("run", [Block.run, Block.run_in_a_thread])
async def test_a_callable_that_raises_does_not_disturb_the_block(
    manager: BidLockManager, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    block = Block(manager, "callable")
    block._on_lost = lambda lease: 1 / 0
    await run(block, lambda: break_lock(manager))
    assert any("on_lost failed" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("on_lost", ON_LOST)
async def test_the_redis_manager_reports_it_too(
    redis_server: RedisServer, redis_url: str, on_lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    called_with: list[Lease] = []
    setting: Any = called_with.append if on_lost == "callable" else on_lost
    manager = RedisBidLockManager(redis_url, on_lost=setting)

    async def block() -> None:
        async with manager.with_lock("m", "p"):
            redis_server.execute("FLUSHALL")  # has the effect of a restart without data

    raised = await outcome_of(block())
    assert isinstance(raised, LockLostError) if on_lost in RAISING else raised is None
    assert len(called_with) == (on_lost == "callable")
    assert warnings_of_loss(caplog) == (on_lost not in RAISING)
    await manager.close()


async def test_a_release_finds_a_loss_without_a_block(manager: BidLockManager) -> None:
    lease, *others = await manager.lock_many([("m", "p"), ("m", "q"), ("m", "r")])
    watching = asyncio.create_task(lease.lost())
    await asyncio.sleep(0)
    await manager.break_lock(KEY)
    assert not await lease.release()
    assert lease.loss is not None
    assert await watching == lease.loss
    assert not await lease.release()
    for other in others:
        assert await other.release()
        assert other.loss is None
        assert await other.lost() is None
    assert (await manager.get_metrics_async())["lock_losses"] == 1


async def test_what_is_released_by_name_or_by_closing_is_not_lost_and_what_is_broken_is(
    make_manager: MakeManager,
) -> None:
    manager = make_manager(on_lost="raise")
    async with manager.with_lock("m", "p") as by_name:
        assert await manager.release_lock("m", "p")
    async with manager.with_lock("m", "p") as by_closing:
        await manager.aclose()
    async with manager.with_lock("m", "p") as by_itself:
        assert await by_itself.release()
    assert by_name.loss is by_closing.loss is by_itself.loss is None
    with pytest.raises(LockLostError):
        async with manager.with_lock("m", "p"):
            await manager.break_lock(KEY)
    assert (await manager.get_metrics_async())["lock_losses"] == 1


async def _asynchronous(_lease: object) -> None: ...


class _Asynchronous:
    async def __call__(self, _lease: object) -> None: ...


@pytest.mark.parametrize("on_lost", [_asynchronous, _Asynchronous()])
def test_a_coroutine_function_which_nobody_would_await_is_refused(on_lost: object) -> None:
    manager = BidLockManager(60, "sqlite://")
    for refuses in (
        lambda: BidLockManager(60, "sqlite://", on_lost=on_lost),  # type: ignore[arg-type]
        lambda: manager.with_lock("m", "p", on_lost=on_lost),  # type: ignore[arg-type]
        lambda: manager.with_lock_sync("m", "p", on_lost=on_lost),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="on_lost must be a plain function"):
            refuses()
