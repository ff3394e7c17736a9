"""Bad arguments of locks raise at the call, and the error names the argument and the value."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from tests.conftest import MakeManager

LONG = "\U0001f600" * 700  # 2,800 bytes
SURROGATE = "a\udc80b"


async def with_lock(manager: BidLockManager, *arguments: Any, **keywords: Any) -> None:
    async with manager.with_lock(*arguments, **keywords):
        pass


async def with_lock_sync(manager: BidLockManager, *arguments: Any, **keywords: Any) -> None:
    def block() -> None:
        with manager.with_lock_sync(*arguments, **keywords):
            pass

    await asyncio.to_thread(block)


async def lock_many(
    manager: BidLockManager, marketplace_id: Any = "m", posting_id: Any = "p", *rest: Any, **keywords: Any
) -> None:
    await manager.lock_many([("a", "b"), (marketplace_id, posting_id)], *rest, **keywords)


Method = Callable[..., Awaitable[object]]

TAKING: dict[str, Method] = {
    "acquire_lock": BidLockManager.acquire_lock,
    "acquire_lease": BidLockManager.acquire_lease,
    "with_lock": with_lock,
    "with_lock_sync": with_lock_sync,
    "lock_many": lock_many,
}
WITH_A_NAME: dict[str, Method] = {
    **TAKING,
    "try_lock": BidLockManager.try_lock,
    "release_lock": BidLockManager.release_lock,
}

NAMES = [
    ("marketplace_id", LONG, r"2,?\d+ bytes"),
    ("marketplace_id", "x" * 1001, "1000 characters"),
    ("marketplace_id", "a\0b", r"a\\0b"),
    ("marketplace_id", SURROGATE, "surrogate pair at character 1"),
    ("posting_id", LONG, r"2,?\d+ bytes"),
    ("posting_id", "a\0b", r"a\\0b"),
    ("posting_id", SURROGATE, "surrogate pair at character 1"),
    ("holder_id", LONG, "2800 bytes"),
    ("holder_id", "x" * 1001, "1000 characters"),
    ("holder_id", "a\0b", r"a\\0b"),
    ("holder_id", SURROGATE, "surrogate pair at character 1"),
]


@pytest.mark.parametrize("method", WITH_A_NAME)
async def test_a_name_that_no_database_can_keep(method: str, make_manager: MakeManager) -> None:
    manager = make_manager()
    for argument, value, said in NAMES:
        arguments = {"marketplace_id": "m", "posting_id": "p", argument: value}
        with pytest.raises(ValueError, match=said) as raised:
            await WITH_A_NAME[method](manager, **arguments)
        assert argument in str(raised.value)
        assert SURROGATE not in str(raised.value)
    assert (await manager.locks()).held == []


@pytest.mark.parametrize("method", WITH_A_NAME)
async def test_a_name_of_a_wrong_type(method: str) -> None:
    manager = BidLockManager(60, "sqlite://")
    for argument in ("marketplace_id", "posting_id", "holder_id"):
        arguments: dict[str, Any] = {"marketplace_id": "m", "posting_id": "p", argument: 5}
        with pytest.raises(TypeError) as raised:
            await WITH_A_NAME[method](manager, **arguments)
        assert f"argument '{argument}'" in str(raised.value)  # `match` would also search the notes


@pytest.mark.parametrize("method", TAKING)
async def test_times_that_make_no_sense(method: str) -> None:
    manager = BidLockManager(60, "sqlite://")
    for value in (-1, math.nan, math.inf, 10**400, -(10**400)):
        with pytest.raises(ValueError, match="timeout must be a finite number of seconds >= 0, not"):
            await TAKING[method](manager, "m", "p", timeout=value)
    for value in ("x", None, b"1"):
        with pytest.raises(TypeError) as raised:
            await TAKING[method](manager, "m", "p", timeout=value)
        assert "argument 'timeout'" in str(raised.value)
    for value in (0, -1, math.nan, 10**400):
        manager.ttl = value
        with pytest.raises(ValueError, match="ttl must be a finite number of seconds > 0, not"):
            await TAKING[method](manager, "m", "p")
    manager.ttl = "x"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="argument 'ttl'"):
        await TAKING[method](manager, "m", "p")


@pytest.mark.parametrize("method", [name for name in TAKING if name != "acquire_lock"])
async def test_a_renewal_that_is_no_bool(method: str) -> None:
    manager = BidLockManager(60, "sqlite://")
    with pytest.raises(TypeError, match="argument 'auto_renew'"):
        await TAKING[method](manager, "m", "p", auto_renew="no")


async def test_a_renewal_that_makes_no_sense() -> None:
    manager = BidLockManager(60, "sqlite://")
    async with manager.with_lock("m", "p") as lease:
        for value in (0, -1, math.nan, math.inf, 10**400):
            with pytest.raises(ValueError, match="ttl must be a finite number of seconds > 0, not"):
                await lease.renew(value)
        with pytest.raises(TypeError, match="argument 'ttl'"):
            await lease.renew("x")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "said"),
    [("bid:lock:m:" + "x" * 3000, "characters"), ("a\0b", "NUL"), (SURROGATE, "surrogate"), (5, "key")],
)
async def test_a_key_that_makes_no_sense(key: Any, said: str, make_manager: MakeManager) -> None:
    with pytest.raises((ValueError, TypeError), match="key") as raised:
        await make_manager().break_lock(key)
    assert said in str(raised.value)


@pytest.mark.parametrize("names", [5, "ab", ["ab"], [("a",)], [("a", "b", "c")], [["a", "b"]], [5], None])
async def test_names_that_are_no_pairs(names: Any) -> None:
    with pytest.raises(TypeError, match="names must be"):
        await BidLockManager(60, "sqlite://").lock_many(names)


SETTINGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    *[({"ttl": value}, ValueError, "ttl must be") for value in (0, -1, math.nan, math.inf, 10**400)],
    ({"ttl": "x"}, TypeError, "argument 'ttl'"),
    ({"ttl": None}, TypeError, "argument 'ttl'"),
    *[({"max_hold": value}, ValueError, "max_hold must be") for value in (0, -1, math.nan, math.inf)],
    ({"max_hold": "x"}, TypeError, "argument 'max_hold'"),
    ({"auto_renew": "no"}, TypeError, "argument 'auto_renew'"),
    ({"auto_renew": None}, TypeError, "argument 'auto_renew'"),
    *[({"on_lost": value}, ValueError, "on_lost must be") for value in ("explode", 5, None, "", b"log")],
    *[
        ({"max_connections": value}, ValueError, f"max_connections must be from 1 to 262143, not {value}")
        for value in (0, -1, 2**40)
    ],
    ({"max_connections": 10**30}, ValueError, "max_connections must be from 1"),
    ({"max_connections": 1.5}, TypeError, "argument 'max_connections'"),
    ({"max_connections": "x"}, TypeError, "argument 'max_connections'"),
    *[
        ({"listen_url": value}, ValueError, "listen_url")
        for value in ("bogus://", "", "redis://h", "postgresql://h:port", "postgresql://\udc80@h")
    ],
    ({"listen_url": 5}, TypeError, "argument 'listen_url'"),
    ({"statement_cache": "no"}, TypeError, "argument 'statement_cache'"),
]


@pytest.mark.parametrize("url", ["sqlite://", "postgresql://h/d", "redis://h", None])
def test_settings_that_make_no_sense(url: str | None) -> None:
    for settings, kind, said in SETTINGS:
        with pytest.raises(kind) as raised:
            BidLockManager(**{"database_url": url, **settings})
        assert said in str(raised.value)


def test_settings_of_the_redis_manager_that_make_no_sense() -> None:
    for settings, kind, said in SETTINGS:
        if settings.keys() <= {"ttl", "auto_renew", "on_lost"}:
            with pytest.raises(kind, match=said):
                RedisBidLockManager("redis://h", **settings)
    with pytest.raises(TypeError, match="argument 'redis_url'"):
        RedisBidLockManager(5)  # type: ignore[arg-type]
