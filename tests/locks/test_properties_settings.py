"""Any number and any text as a setting of a lock manager: it serves, or the refusal names it, at once."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from tests.properties import ANY_TEXT, examples

NUMBERS = st.one_of(
    st.floats(),
    st.integers(-(2**63), 2**63),
    st.sampled_from([0, -0.0, 1e-9, 1e-320, 1e9, 1e10, 1e308]),
    st.booleans(),
)
OTHERS = st.none() | ANY_TEXT | st.sampled_from(["log", "raise", "cancel", "LOG", print, 5, (), 1.5])


async def use(manager: BidLockManager) -> None:
    async with manager:
        await manager.cleanup_all()
        async with manager.with_lock("m", "p", timeout=5) as lease:
            assert lease.key == "bid:lock:m:p"
        assert await manager.acquire_lock("m", "p", timeout=5)
        await manager.cleanup_all()


def is_duration(number: Any) -> bool:
    """Return whether a number of seconds can be waited for, and is more than none at all in nanoseconds."""
    return 0 < number <= 1e9 and round(number * 1e9) > 0


@given(ttl=NUMBERS)
@example(float("nan"))
@example(6.615080762366934e-10)
@examples(60)
def test_a_time_to_live_is_refused_by_name(ttl: Any) -> None:
    try:
        manager = BidLockManager(ttl, "sqlite://")
    except ValueError as error:
        assert "ttl" in str(error)  # noqa: PT017
        assert not is_duration(ttl)
        return
    assert is_duration(ttl)
    # A shorter one may be over before it is used. A lock may be kept for ten times as long, up to 1e9 s.
    if 1 <= ttl <= 1e8:
        asyncio.run(use(manager))


@given(on_lost=OTHERS)
@examples(40)
def test_what_to_do_about_a_loss_is_refused_by_name(on_lost: Any) -> None:
    is_known = on_lost in ("log", "raise", "cancel") or on_lost is print
    for make in (
        lambda: BidLockManager(60, "sqlite://", on_lost=on_lost),
        lambda: BidLockManager(60, "sqlite://").with_lock("m", "p", on_lost=on_lost),
        lambda: BidLockManager(60, "sqlite://").with_lock_sync("m", "p", on_lost=on_lost),
    ):
        try:
            made = make()
        except ValueError as error:
            assert "on_lost" in str(error)  # noqa: PT017
            assert not is_known
        else:
            # None is no `on_lost` of a manager; of a block it stands for the manager's.
            assert is_known or (on_lost is None and not isinstance(made, BidLockManager))


@given(timeout=NUMBERS)
@examples(60)
def test_a_timeout_is_refused_by_name_or_kept(timeout: Any) -> None:
    async def call() -> None:
        async with BidLockManager(60, "sqlite://") as manager:
            await manager.cleanup_all()
            for acquire in (manager.acquire_lock, manager.acquire_lease):
                try:
                    acquired = await acquire("m", "p", timeout)
                except ValueError as error:
                    assert "timeout" in str(error)  # noqa: PT017
                    assert not 0 <= timeout <= 1e9
                else:
                    assert acquired
                    assert 0 <= timeout <= 1e9
                    if acquired is not True:
                        await acquired.release()
                    await manager.cleanup_all()

    asyncio.run(call())
