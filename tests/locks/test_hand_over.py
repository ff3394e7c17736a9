"""A lock that goes from hand to hand in one process, on every kind of database."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockTimeoutError
from arbitrageai_native.locks.leases import Lease
from arbitrageai_native.locks.overview import HeldLock
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer
from testing_support.servers.tcp_proxy import TcpProxy
from tests.conftest import MakeManager


async def stand_in_line(manager: BidLockManager, **settings: Any) -> asyncio.Task[Lease]:
    """Someone who has asked for the lock, and been told that another has it."""

    async def conflicts() -> int:
        count: int = (await manager.get_metrics_async())["lock_conflicts"]
        return count

    before = await conflicts()
    waiting = asyncio.create_task(manager.acquire_lease("m", "p", **settings))
    while await conflicts() == before:
        pass
    return waiting


async def handed_a_broken_lock(
    manager: BidLockManager, break_and_release: Callable[[Lease, asyncio.Task[Lease]], Awaitable[bool]]
) -> tuple[Lease, Lease]:
    """Return a lease whose lock was broken, and the lease that its release handed to the next in line.

    Who waits looks into the database now and then. Two things can happen at just that moment, and both are
    tried again: a release hands it nothing, and it waits until its time is over for whoever has the lock by
    then; or it finds the broken lock free, which `break_and_release` reports by returning False.
    """
    for _ in range(20):
        first = await manager.acquire_lease("m", "p")
        waiting = await stand_in_line(manager, timeout=2)
        broken = await break_and_release(first, waiting)
        await asyncio.wait([waiting])
        if broken and waiting.exception() is None:
            return first, await waiting
        if broken:
            with pytest.raises(LockTimeoutError):
                await waiting
        await manager.cleanup_all()
    pytest.fail("nobody was handed the lock")


async def until_held_by(manager: BidLockManager, *holders: str) -> None:
    """Wait until the table says so."""
    deadline = time.monotonic() + 20
    while [lock.holder_id for lock in (await manager.locks()).held] != list(holders):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_the_next_holder_has_the_next_token_and_soon_a_row_of_its_own(
    make_manager: MakeManager,
) -> None:
    manager, other = make_manager(ttl=300), make_manager(ttl=400)
    first = await manager.acquire_lease("m", "p", holder_id="first")
    waiting = await stand_in_line(other, holder_id="second")
    assert await first.release()
    second = await waiting
    assert second.fencing_token == first.fencing_token + 1
    assert second.is_held
    assert abs(second.acquired_at - time.time()) < 60
    await until_held_by(manager, "second")
    assert second.remaining > 350
    assert await second.release()
    await until_held_by(manager)


async def test_a_lease_on_its_way_can_be_renewed(manager: BidLockManager) -> None:
    first = await manager.acquire_lease("m", "p")
    waiting = await stand_in_line(manager)
    releasing = asyncio.create_task(first.release())
    second = await waiting
    assert await second.renew(1_000) == second.expires_at
    assert second.remaining > 900
    assert await releasing
    assert await second.release()


async def test_whoever_comes_later_has_a_greater_token(make_manager: MakeManager) -> None:
    manager = make_manager()
    tokens: list[int] = []

    async def take() -> None:
        async with manager.with_lock("m", "p", timeout=30) as lease:
            tokens.append(lease.fencing_token)

    for _ in range(3):
        await asyncio.gather(*(take() for _ in range(30)))
        lease = await manager.acquire_lease("m", "p", timeout=30)
        tokens.append(lease.fencing_token)
        await manager.cleanup_all()
        assert not await lease.release()
    assert tokens == sorted(set(tokens))


async def test_only_one_at_a_time_has_it(manager: BidLockManager) -> None:
    inside = 0

    async def take(number: int) -> None:
        nonlocal inside
        holding = manager.with_lock("m", "p", timeout=60, holder_id=f"holder {number}")
        async with holding as lease:
            inside += 1
            assert inside == 1
            if number % 3:
                await asyncio.sleep(random.uniform(0, 0.003))
            assert lease.is_held
            inside -= 1

    # Every fourth is a plain lock: it waits for the database.
    async def take_plainly(number: int) -> None:
        nonlocal inside
        assert await manager.acquire_lock("m", "p", timeout=60, holder_id=f"holder {number}")
        inside += 1
        assert inside == 1
        await asyncio.sleep(0)
        inside -= 1
        assert await manager.release_lock("m", "p", holder_id=f"holder {number}")

    await asyncio.gather(*(take(number) if number % 4 else take_plainly(number) for number in range(200)))
    await until_held_by(manager)


async def test_who_is_cancelled_in_line_or_with_the_lock_in_hand_leaves_nothing(
    manager: BidLockManager,
) -> None:
    async def take() -> None:
        async with manager.with_lock("m", "p", timeout=60):
            await asyncio.sleep(random.choice((0, 0.001)))

    tasks = [asyncio.create_task(take()) for _ in range(300)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(random.uniform(0, 0.002))
        random.choice(tasks).cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    await until_held_by(manager)
    assert await manager.acquire_lock("m", "p", timeout=5)


async def test_both_hear_of_it_when_the_lock_had_been_broken(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    manager = BidLockManager(database_url=postgres_url, on_lost=lambda lease: None)

    async def break_and_release(first: Lease, _waiting: asyncio.Task[Lease]) -> bool:
        # By someone who tells nobody; who waits looks only now and then.
        postgres_server.execute("UPDATE distributed_locks SET id = 'taken', holder_id = 'another'")
        assert not await first.release()
        return True

    _, second = await handed_a_broken_lock(manager, break_and_release)
    assert await second.lost() is not None
    assert not second.is_held
    await until_held_by(manager, "another")
    await manager.aclose()


AHEAD = 5_000_000_000_000_000
"""More than the clock: tokens are one after another."""


def set_tokens_ahead(request: pytest.FixtureRequest, store: str) -> None:
    """As if so many had been given already."""
    if store == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        buckets = itertools.chain.from_iterable((str(bucket), str(AHEAD)) for bucket in range(4096))
        server.execute("HSET", "arbitrageai:lock_fences", *buckets)
    else:
        request.getfixturevalue("postgres_server").execute(
            f"INSERT INTO arbitrageai_lock_fences SELECT bucket, {AHEAD} FROM generate_series(0, 4095) "
            "AS bucket ON CONFLICT (bucket) DO UPDATE SET token = excluded.token"
        )


def delete_silently(request: pytest.FixtureRequest, store: str) -> None:
    """Delete the lock as a stranger does: nobody who waits hears of it."""
    if store == "redis":
        assert request.getfixturevalue("redis_server").execute("DEL", "bid_lock:m:p") == 1
    else:
        request.getfixturevalue("postgres_server").execute("DELETE FROM distributed_locks")


@pytest.mark.parametrize("store", ["postgresql", "redis"])
async def test_who_is_handed_a_lost_lock_comes_before_its_next_holder(
    store: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue({"postgresql": "postgres_url", "redis": "redis_url"}[store])
    manager = BidLockManager(database_url=url, on_lost=lambda lease: None)
    another = BidLockManager(database_url=url.replace("test-", "another-"))
    await another.locks()  # creates the tables
    set_tokens_ahead(request, store)
    takings: list[asyncio.Task[Lease]] = []

    async def break_and_release(first: Lease, waiting: asyncio.Task[Lease]) -> bool:
        delete_silently(request, store)
        takings.append(taking := asyncio.create_task(another.acquire_lease("m", "p")))
        await asyncio.wait([taking, waiting], return_when=asyncio.FIRST_COMPLETED)
        if waiting.done() and waiting.exception() is None:
            # It looked at just that moment, and took the lock before `another` did.
            await (await waiting).release()
            await (await taking).release()
            await first.release()
            return False
        await taking  # if the waiter's time was over just now, `another` is the only one left
        assert not await first.release()
        return True

    first, second = await handed_a_broken_lock(manager, break_and_release)
    taken = await takings[-1]
    assert AHEAD < first.fencing_token < second.fencing_token < taken.fencing_token
    assert await second.lost() is not None
    for each in (manager, another):
        await each.aclose()


async def handed_over(
    manager: BidLockManager,
    begin_fault: Callable[[], None] = lambda: None,
    end_fault: Callable[[], None] = lambda: None,
) -> tuple[Lease, asyncio.Task[bool]]:
    """A lease that was handed over just after a fault, and its predecessor's release.

    A release hands nothing to a waiter that looks into the database at just that moment, and the waiter's
    look has no end before the fault's: this is tried again.
    """
    for _ in range(10):
        first = await manager.acquire_lease("m", "p", holder_id="first")
        waiting = await stand_in_line(manager, holder_id="second")
        begin_fault()
        releasing = asyncio.create_task(first.release())
        try:
            second = await asyncio.wait_for(waiting, 4)
        except asyncio.TimeoutError:
            end_fault()
            await releasing
            await until_held_by(manager)
            continue
        assert second.fencing_token == first.fencing_token + 1
        return second, releasing
    pytest.fail("nobody was handed the lock")


@pytest.mark.serial
async def test_a_lease_is_handed_over_while_the_database_is_away(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with TcpProxy(postgres_server.port) as proxy:
        url = postgres_url.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        async with BidLockManager(300, url) as manager:
            second, releasing = await handed_over(manager, proxy.refuse, proxy.accept)
            assert second.is_held
            assert not releasing.done()
            proxy.accept()
            assert await releasing
            await until_held_by(manager, "second")
            assert await second.release()
            await until_held_by(manager)


async def test_a_statement_that_comes_late_does_not_shorten_a_lease(
    postgres_server: PostgresServer, unprivileged: str
) -> None:
    direct_url = f"postgresql://locker@127.0.0.1:{postgres_server.port}/{unprivileged}"
    async with TcpProxy(postgres_server.port) as proxy:
        url = direct_url.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        async with (
            # The one connection knows the statement, and no look for the row is under way on it.
            BidLockManager(300, url, max_connections=1, loss_check=None) as manager,
            BidLockManager(300, direct_url) as direct,
        ):
            for _ in range(5):
                second, releasing = await handed_over(manager)  # prepares the statement
                assert await releasing
                assert await second.release()
                second, releasing = await handed_over(manager, proxy.hold_back, proxy.let_go)
                # That connection is given up, and the row given on another.
                assert await releasing
                await second.renew(1_000)
                (before,) = (await direct.locks()).held
                proxy.let_go()
                after = await row_after_the_late_statement(direct, before)
                assert (after or before).expires_at == before.expires_at
                assert await second.release()
                if after is not None:
                    return
    pytest.fail("no late statement was carried out")


async def row_after_the_late_statement(manager: BidLockManager, before: HeldLock) -> HeldLock | None:
    """Return the row when it has changed; None if it does not.

    A connection that was replaced meanwhile, since a busy machine answered late, does not know the statement:
    it was never sent then, and nothing comes late.
    """
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        (after,) = (await manager.locks()).held
        if after.acquired_at != before.acquired_at:
            return after
        await asyncio.sleep(0.01)
    return None
