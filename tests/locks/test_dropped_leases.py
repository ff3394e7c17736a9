"""A lease that is dropped while it is held warns, and releases its lock, on every kind of database."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import os
import pickle
import subprocess
import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.locks.leases import Lease
from tests.conftest import MakeManager

Drop = Callable[[BidLockManager], Awaitable[None]]

DROPPED = r"bid:lock:m:p was dropped while it was held.*lease = await.*async with locks\.with_lock"


async def drop_what_try_lock_gives(manager: BidLockManager) -> None:
    """Use `try_lock` like the `acquire` of a lock of the standard library."""
    if await manager.try_lock("m", "p"):
        pass


async def drop_what_acquire_lease_gives(manager: BidLockManager) -> None:
    """Acquire a lease without keeping it."""
    await manager.acquire_lease("m", "p")


async def drop_what_lock_many_gives(manager: BidLockManager) -> None:
    """Acquire two leases without keeping them."""
    await manager.lock_many([("m", "p")])


async def forget(manager: BidLockManager) -> None:
    """Keep a lease in a variable, and never release it."""
    lease = await manager.acquire_lease("m", "p")
    assert lease.is_held


@pytest.mark.parametrize(
    "drop",
    [drop_what_try_lock_gives, drop_what_acquire_lease_gives, drop_what_lock_many_gives, forget],
)
async def test_a_lease_that_is_dropped_while_it_is_held_warns_and_is_released(
    manager: BidLockManager, drop: Drop, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(ResourceWarning, match=DROPPED) as warned:
        await drop(manager)
    assert len(warned) == 1
    (logged,) = (record for record in caplog.records if "dropped" in record.getMessage())
    assert logged.levelno == logging.WARNING
    assert "bid:lock:m:p" in logged.getMessage()
    assert await manager.acquire_lock("m", "p", timeout=20)
    assert (await manager.get_metrics_async())["lock_losses"] == 0


async def until_over(lease: Lease) -> None:
    """Wait until the lease is no longer held."""
    deadline = time.monotonic() + 20
    while lease.is_held:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_lease_that_is_not_held_is_dropped_without_a_word(
    make_manager: MakeManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(ttl=0.3)

    async def take_and_drop() -> None:
        released = await manager.acquire_lease("m", "released")
        await released.release()
        by_name = await manager.acquire_lease("m", "by name")
        assert await manager.release_lock("m", "by name")
        lost = await manager.acquire_lease("m", "lost")
        await manager.break_lock(lost.key)
        await lost.lost()
        expired = await manager.acquire_lease("m", "expired", auto_renew=False)
        await until_over(expired)
        async with manager.with_lock("m", "block") as block:
            pass
        with manager.with_lock_sync("m", "thread") as thread:
            pass
        del released, by_name, lost, expired, block, thread

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await take_and_drop()
        gc.collect()
    await assert_only_what_is_held_warns(manager, caplog)


async def assert_only_what_is_held_warns(manager: BidLockManager, caplog: pytest.LogCaptureFixture) -> None:
    """Assert that nothing has warned yet, and that dropping a lease that is held does."""
    assert not [record for record in caplog.records if "dropped" in record.getMessage()]
    with pytest.warns(ResourceWarning, match=DROPPED):
        await forget(manager)


@pytest.mark.parametrize("method", ["acquire_lease", "lock_many"])
async def test_a_lease_that_was_never_received_is_released_without_a_word(
    manager: BidLockManager, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ([("m", "p")],) if method == "lock_many" else ("m", "p")
    for turn in range(40):
        taking = asyncio.create_task(getattr(manager, method)(*arguments, timeout=30))
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        if turn % 2:
            time.sleep(0.002)  # noqa: ASYNC251 - the lock is granted before the loop receives it
        taking.cancel()
        [outcome] = await asyncio.gather(taking, return_exceptions=True)
        for lease in outcome if isinstance(outcome, list) else [outcome]:
            if isinstance(lease, Lease):
                await lease.release()
        del outcome
    assert await manager.acquire_lock("m", "p", timeout=20)
    assert await manager.release_lock("m", "p")
    await assert_only_what_is_held_warns(manager, caplog)


AT_EXIT = """
import asyncio, sys
from arbitrageai_native import BidLockManager

locks = BidLockManager(database_url=sys.argv[1])
kept = asyncio.run(locks.acquire_lease("m", "kept"))
kept_too = asyncio.run(locks.lock_many([("m", "one"), ("m", "other")]))
cycle = [kept_too]
cycle.append(cycle)
print("held", kept.is_held)
asyncio.run(locks.acquire_lease("m", "dropped"))
"""


async def test_an_exit_that_releases_what_is_held_is_quiet(shared_url: str) -> None:
    program = [sys.executable, "-X", "dev", "-W", "always", "-c", AT_EXIT, shared_url]
    ended = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, timeout=110)
    assert (ended.returncode, ended.stdout) == (0, "held True\n")
    # The message appears twice: in the log, and as a warning.
    assert ended.stderr.count("bid:lock:m:dropped was dropped") == 2, ended.stderr
    assert ended.stderr.count("was dropped") == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    async with BidLockManager(database_url=shared_url) as manager:
        assert (await manager.locks()).held == []


IN_A_CHILD = """
import asyncio, os, sys
from arbitrageai_native import BidLockManager

locks = BidLockManager(database_url=sys.argv[1])
lease = asyncio.run(locks.acquire_lease("m", "p"))
child = os.fork()
if child == 0:
    del lease
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert lease.is_held
del lease
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
async def test_a_forked_child_drops_its_parents_lease_without_a_word(tmp_path: Path) -> None:
    program = [sys.executable, "-W", "always", "-W", "ignore::DeprecationWarning", "-c", IN_A_CHILD]
    program.append(f"sqlite:///{tmp_path / 'locks.db'}")
    ended = await asyncio.to_thread(subprocess.run, program, capture_output=True, text=True, timeout=110)
    assert ended.returncode == 0, ended.stderr
    # Only the parent warns.
    assert ended.stderr.count("was dropped") == 2, ended.stderr


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
async def test_a_lease_is_not_copied(copied: Callable[[Lease], object], manager: BidLockManager) -> None:
    async with manager.with_lock("m", "p") as lease:
        with pytest.raises(TypeError, match=r"the lease of bid:lock:m:p can't be copied or pickled"):
            copied(lease)
        gc.collect()
        assert lease.is_held
