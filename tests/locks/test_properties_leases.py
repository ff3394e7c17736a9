"""Any sequence of operations on leases and locks of two managers of one file, against a plain model."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockLostError, LockTimeoutError
from arbitrageai_native.locks.leases import Lease
from tests.properties import examples

LONG = 600.0
SHORT = 0.02
SECONDS = 20.0

KEYS = st.sampled_from(["1", "2"])
HOLDERS = st.sampled_from(["a", "b"])
MANAGERS = st.sampled_from([0, 1])
INDEX = st.integers(0, 7)


@dataclass
class Row:
    """What holds a key: a lease, or a lock that only has a name."""

    holder: str
    lease: Lease | None
    expired: bool = False


@dataclass
class Held:
    """A lease that the test has."""

    key: str
    lease: Lease
    token: int = field(init=False)
    ended: bool = False
    """It was released, by itself or by its holder's name."""
    expired: bool = False

    def __post_init__(self) -> None:
        self.token = self.lease.fencing_token


class LeaseMachine(RuleBasedStateMachine):
    """Whoever acquires, renews, releases, gives up, forgets, breaks or comes too late."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="leases-")
        self.loop = asyncio.new_event_loop()
        url = f"sqlite:///{Path(self.folder) / 'locks.db'}"
        self.managers = [BidLockManager(LONG, url), BidLockManager(LONG, url, auto_renew=False)]
        self.rows: dict[str, Row] = {}
        self.leases: list[Held] = []
        self.tokens: dict[str, int] = {}

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, SECONDS))

    def is_held(self, key: str) -> bool:
        return key in self.rows and not self.rows[key].expired

    def has(self, held: Held) -> bool:
        """Return whether the row of a lease is still its own."""
        return held.key in self.rows and self.rows[held.key].lease is held.lease

    def begin(self, key: str, holder: str, lease: Lease, *, expired: bool = False) -> None:
        assert (lease.key, lease.holder_id) == (f"bid:lock:m:{key}", holder)
        assert lease.fencing_token > self.tokens.get(key, 0)
        assert abs(lease.acquired_at - time.time()) < SECONDS
        assert expired or LONG - SECONDS < lease.remaining <= LONG
        assert lease.acquired_at < lease.expires_at
        self.tokens[key] = lease.fencing_token
        self.rows[key] = Row(holder, lease, expired)
        self.leases.append(Held(key, lease, expired=expired))

    # --- acquisitions ---

    @rule(manager=MANAGERS, key=KEYS, holder=HOLDERS)
    def try_lock(self, manager: int, key: str, holder: str) -> None:
        lease = self.run(self.managers[manager].try_lock("m", key, holder))
        assert (lease is None) == self.is_held(key)
        if lease is not None:
            assert lease.is_held
            self.begin(key, holder, lease)

    @rule(manager=MANAGERS, key=KEYS, holder=HOLDERS)
    def acquire_by_name(self, manager: int, key: str, holder: str) -> None:
        acquired = self.run(self.managers[manager].acquire_lock("m", key, 0, holder))
        assert acquired != self.is_held(key)
        if acquired:
            self.rows[key] = Row(holder, None)

    @rule(key=KEYS, holder=HOLDERS)
    def acquire_and_come_too_late(self, key: str, holder: str) -> None:
        if self.is_held(key):
            return
        manager = self.managers[1]  # does not renew
        manager.ttl = SHORT
        try:
            lease = self.run(manager.acquire_lease("m", key, LONG, holder))
        finally:
            manager.ttl = LONG
        time.sleep(2 * SHORT)
        assert not lease.is_held
        self.begin(key, holder, lease, expired=True)

    @rule(manager=MANAGERS, holder=HOLDERS)
    def acquire_all_or_none(self, manager: int, holder: str) -> None:
        names = [("m", "2"), ("m", "1")]
        try:
            leases = self.run(self.managers[manager].lock_many(names, 0, holder))
        except LockTimeoutError:
            assert self.is_held("1") or self.is_held("2")
            return
        assert not self.is_held("1")
        assert not self.is_held("2")
        for (_, key), lease in zip(names, leases, strict=True):
            self.begin(key, holder, lease)

    @rule(manager=MANAGERS, key=KEYS, holder=HOLDERS, turns=st.integers(0, 3))
    def give_up_waiting(self, manager: int, key: str, holder: str, turns: int) -> None:
        if not self.is_held(key):
            return

        async def wait_and_give_up() -> None:
            waiting = asyncio.ensure_future(self.managers[manager].acquire_lease("m", key, LONG, holder))
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
            assert waiting.cancelled()

        self.run(wait_and_give_up())

    # --- leases ---

    @rule(which=INDEX, manager=MANAGERS, holder=HOLDERS)
    def hand_over(self, which: int, manager: int, holder: str) -> None:
        held = self.pick(which)
        if held is None or not self.has(held) or held.expired:
            return

        async def wait_and_release() -> Lease:
            waiting = asyncio.ensure_future(self.managers[manager].acquire_lease("m", held.key, LONG, holder))
            while not (await self.managers[manager].locks()).waiting:
                pass
            assert await held.lease.release()
            return await waiting

        lease = self.run(wait_and_release())
        held.ended = True
        self.begin(held.key, holder, lease)

    @rule(which=INDEX, ttl=st.none() | st.floats(LONG, 2 * LONG))
    def renew(self, which: int, ttl: float | None) -> None:
        held = self.pick(which)
        if held is None:
            return
        asked_at = time.time()
        try:
            expires_at = self.run(held.lease.renew(ttl))
        except LockLostError:
            assert held.expired or held.ended or not self.has(held)
        else:
            assert self.has(held)
            assert not held.ended
            assert not held.expired
            assert expires_at == held.lease.expires_at
            # By the database's clock, which is this machine's; a later renewal may ask for less.
            assert -1 < expires_at - asked_at - (ttl or LONG) < SECONDS

    @rule(which=INDEX)
    def release(self, which: int) -> None:
        held = self.pick(which)
        if held is None:
            return
        released = self.run(held.lease.release())
        assert not held.lease.is_held
        if held.ended:
            assert not released
        elif not held.expired:
            assert released == self.has(held)
            assert (held.lease.loss is None) == released
        if not held.ended and self.has(held):
            # Whether a late release finds the row is nobody's concern.
            if held.expired and not released:
                self.rows[held.key].lease = None
            else:
                del self.rows[held.key]
        held.ended = True

    @rule(which=INDEX)
    def forget(self, which: int) -> None:
        held = self.pick(which)
        if held is None:
            return
        live = self.has(held) and not held.ended and not held.expired
        if not live and held.lease.is_held:
            return  # broken, and it does not know yet
        self.leases.remove(held)
        key = held.key
        if self.has(held):
            self.rows[key].lease = None
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            del held
        assert [warning.category for warning in seen] == ([ResourceWarning] if live else [])
        if live:
            del self.rows[key]
            deadline = time.monotonic() + SECONDS
            while f"bid:lock:m:{key}" in self.listed():
                assert time.monotonic() < deadline, "a lease that was dropped is not released"

    # --- by name ---

    @rule(manager=MANAGERS, key=KEYS, holder=HOLDERS)
    def release_by_name(self, manager: int, key: str, holder: str) -> None:
        released = self.run(self.managers[manager].release_lock("m", key, holder))
        row = self.rows.get(key)
        if row is None or row.holder != holder:
            assert not released
        elif not row.expired:
            assert released
        if released:
            assert row is not None
            for held in self.leases:
                held.ended |= held.key == key and self.has(held)
            del self.rows[key]

    @rule(key=KEYS)
    def break_lock(self, key: str) -> None:
        broken = self.run(self.managers[0].break_lock(f"bid:lock:m:{key}"))
        if key not in self.rows or not self.rows[key].expired:
            assert broken == (key in self.rows)
        self.rows.pop(key, None)

    @rule()
    def clean_up(self) -> None:
        self.run(self.managers[1].cleanup_all())
        self.rows.clear()

    # --- what holds ---

    def pick(self, which: int) -> Held | None:
        return self.leases[which % len(self.leases)] if self.leases else None

    def listed(self) -> dict[str, str]:
        overview = self.run(self.managers[0].locks())
        assert overview.waiting == []
        return {held.key: held.holder_id for held in overview.held if not held.is_expired}

    @invariant()
    def the_table_is_the_models(self) -> None:
        expected = {f"bid:lock:m:{key}": row.holder for key, row in self.rows.items() if not row.expired}
        assert self.listed() == expected

    @invariant()
    def who_has_a_lock_believes_in_it_and_who_gave_it_up_does_not(self) -> None:
        for held in self.leases:
            assert held.lease.fencing_token == held.token
            if held.ended or held.expired:
                assert not held.lease.is_held
            elif self.has(held):
                assert held.lease.is_held

    def teardown(self) -> None:
        try:
            for held in self.leases:
                self.run(held.lease.release())
            for manager in self.managers:
                self.run(manager.aclose())
        finally:
            self.loop.close()
            shutil.rmtree(self.folder)


class TestLeases(LeaseMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = examples(20, steps=30)
    pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
