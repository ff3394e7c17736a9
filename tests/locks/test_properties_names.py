"""Any text as an id or a holder: every method that takes it accepts it, or refuses it by name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from tests.properties import examples

TEXT = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=6),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=6),
    st.sampled_from(
        ["", " ", "a:b", ":", "'; DROP TABLE distributed_locks; --", "%s", "?", "\x1b[31m", "\u202e"]
    ),
    st.sampled_from(["n" * 1000, "n" * 1001, "a\0b", "\0", "\ud800", "1", "None"]),
)


def is_valid(text: str) -> bool:
    return (
        len(text) <= 1000 and "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)
    )


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BidLockManager]:
    made = BidLockManager(60, f"sqlite:///{tmp_path_factory.mktemp('names') / 'locks.db'}")
    yield made
    made.close()


async def hold(manager: BidLockManager, *arguments: str) -> None:
    async with manager.with_lock(arguments[0], arguments[1], 0.0, arguments[2]):
        pass


def hold_in_thread(manager: BidLockManager, *arguments: str) -> None:
    with manager.with_lock_sync(arguments[0], arguments[1], 0.0, arguments[2]):
        pass


@given(marketplace=TEXT, posting=TEXT, holder=TEXT)
@example("m", "p", "")
@example("n" * 1000, "n" * 1000, "n" * 1000)
@example("a:b", "c", "h")
@examples(60)
def test_a_name_that_is_accepted_is_everywhere_what_was_given(
    manager: BidLockManager, marketplace: str, posting: str, holder: str
) -> None:
    assume(marketplace and posting and all(map(is_valid, (marketplace, posting, holder))))
    key = f"bid:lock:{marketplace}:{posting}"
    names = (marketplace, posting)

    async def live() -> None:
        assert await manager.acquire_lock(*names, timeout=0, holder_id=holder)
        assert [(held.key, held.holder_id) for held in (await manager.locks()).held] == [(key, holder)]
        assert not await manager.acquire_lock(*names, timeout=0, holder_id="another")
        assert await manager.try_lock(*names, holder_id=holder) is None
        assert not await manager.release_lock(*names, holder_id=f"{holder[:999]}x")
        assert await manager.release_lock(*names, holder_id=holder)
        assert not await manager.release_lock(*names, holder_id=holder)
        lease = await manager.acquire_lease(*names, timeout=0, holder_id=holder)
        assert (lease.key, lease.holder_id) == (key, holder)
        assert await manager.break_lock(key)
        assert not await manager.break_lock(key)
        assert not await lease.release()
        [lease] = await manager.lock_many([names], timeout=0, holder_id=holder)
        assert await lease.release()
        await hold(manager, *names, holder)
        assert (await manager.locks()).held == []

    asyncio.run(live())
    assert BidLockManager._make_lock_key(*names) == key


METHODS: dict[str, Callable[..., Any]] = {
    "acquire_lock": lambda manager, m, p, h: manager.acquire_lock(m, p, timeout=0, holder_id=h),
    "acquire_lease": lambda manager, m, p, h: manager.acquire_lease(m, p, timeout=0, holder_id=h),
    "try_lock": lambda manager, m, p, h: manager.try_lock(m, p, holder_id=h),
    "release_lock": lambda manager, m, p, h: manager.release_lock(m, p, holder_id=h),
    "lock_many": lambda manager, m, p, h: manager.lock_many([(m, p)], timeout=0, holder_id=h),
    "with_lock": hold,
    "with_lock_sync": hold_in_thread,
}


@given(
    method=st.sampled_from(sorted(METHODS)),
    names=st.tuples(TEXT, TEXT, TEXT),
    which=st.integers(0, 2),
    bad=st.sampled_from(["", "a\0", "\ud800", "n" * 1001]),
)
@examples(80)
def test_a_name_that_is_refused_is_named(
    manager: BidLockManager, method: str, names: tuple[str, str, str], which: int, bad: str
) -> None:
    arguments = [name if name and is_valid(name) else "x" for name in names]
    arguments[which] = bad
    assume(bad or which < 2)  # a holder may have an empty name

    async def call() -> None:
        result = METHODS[method](manager, *arguments)
        if isinstance(result, Awaitable):
            await result

    with pytest.raises(ValueError) as caught:
        asyncio.run(call())
    named = ("marketplace_id", "posting_id", "holder_id")[which]
    assert named in str(caught.value)
    assert asyncio.run(manager.locks()).held == []
