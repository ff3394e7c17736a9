"""Bad arguments of locks raise at the call, and the error names the argument and the value."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from testing_support.servers.redis import RedisServer
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


class Market(Enum):
    UPWORK = "upwork"


class Named(str, Enum):  # an f-string makes another text of it on Python 3.10 than later
    UPWORK = "upwork"


class Formatted(str):
    def __format__(self, _spec: str) -> str:
        return "formatted"


NO_STRINGS = [17, 10**30, -1, 1.5, UUID(int=7), Market.UPWORK, Named.UPWORK, Formatted("x"), b"bytes", ("a",)]


@pytest.mark.parametrize("value", NO_STRINGS, ids=repr)
async def test_what_is_no_string_counts_as_the_text_that_an_f_string_makes_of_it(
    value: Any, make_manager: MakeManager
) -> None:
    manager = make_manager()
    key, holder = f"bid:lock:{value}:{value}", value if isinstance(value, str) else str(value)
    holder = holder.value if isinstance(holder, Enum) else holder
    assert manager._make_lock_key(value, value) == key
    assert await manager.acquire_lock(value, value, 0, value)
    assert [(held.key, held.holder_id) for held in (await manager.locks()).held] == [(key, holder)]
    assert not await manager.acquire_lock(f"{value}", f"{value}", timeout=0)
    assert await manager.release_lock(value, value, value)
    for way in (with_lock, with_lock_sync):
        await way(manager, value, value, 0, value)
    async with manager.with_lock(value, value, 0, value) as lease:
        assert (lease.key, lease.holder_id) == (key, holder)
    for lease in await manager.lock_many([(value, value), ("m", "p")], 0, value):
        assert await lease.release()
    lease = await manager.acquire_lease(value, value, 0, value)
    assert await manager.try_lock(value, value, value) is None
    assert await manager.break_lock(lease.key)

    @manager.with_lock(value, value, 0, value)
    async def locked() -> list[str]:
        return [held.key for held in (await manager.locks()).held]

    assert await locked() == [key]


async def test_the_redis_manager_takes_them_too(redis_server: RedisServer, redis_url: str) -> None:
    manager = RedisBidLockManager(redis_url)
    for value in NO_STRINGS:
        key = f"bid_lock:{value}:{value}"
        assert await manager.acquire_lock(value, value, 0, value)
        holder = value.value if isinstance(value, Enum) and isinstance(value, str) else str(value)
        assert redis_server.execute("GET", key) == holder
        assert await manager.release_lock(value, value, value)
        async with manager.with_lock(value, value, 0, value) as lease:
            assert lease.holder_id == holder
        assert redis_server.execute("GET", key) is None
    for nobody in (None, ""):
        assert await manager.acquire_lock("m", "p", 0, nobody)
        assert str(redis_server.execute("GET", "bid_lock:m:p")).count(":") == 2  # host, process, number
        assert await manager.release_lock("m", "p", nobody)
    await manager.close()


@pytest.mark.parametrize("method", WITH_A_NAME)
@pytest.mark.parametrize("value", [None, "", 0, b"", ()], ids=repr)
async def test_what_is_false_counts_as_an_empty_id(method: str, value: Any, shared_url: str) -> None:
    async with BidLockManager(60, shared_url) as manager:
        for argument in ("marketplace_id", "posting_id"):
            arguments: dict[str, Any] = {"marketplace_id": "m", "posting_id": "p", argument: value}
            with pytest.raises(ValueError, match="marketplace_id and posting_id must not be empty"):
                await WITH_A_NAME[method](manager, **arguments)


@pytest.mark.parametrize("method", WITH_A_NAME)
async def test_a_holder_that_is_none(method: str) -> None:
    with pytest.raises(ValueError, match="holder_id must not be None"):
        await WITH_A_NAME[method](BidLockManager(60, "sqlite://"), "m", "p", holder_id=None)


class Unprintable:
    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize("method", WITH_A_NAME)
async def test_an_error_of_a_name_itself_comes_out(method: str) -> None:
    manager = BidLockManager(60, "sqlite://")
    for argument in ("marketplace_id", "posting_id", "holder_id"):
        arguments: dict[str, Any] = {"marketplace_id": "m", "posting_id": "p", argument: Unprintable()}
        with pytest.raises(LookupError):
            await WITH_A_NAME[method](manager, **arguments)


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


@pytest.mark.parametrize("method", TAKING)
async def test_a_time_of_a_wrong_type_is_named_on_every_database(method: str, shared_url: str) -> None:
    async with BidLockManager(60, shared_url) as manager:
        for argument, value in (("timeout", "x"), ("timeout", None)):
            with pytest.raises(TypeError) as raised:
                await TAKING[method](manager, "m", "p", **{argument: value})
            assert f"argument '{argument}'" in str(raised.value)
        for value in ("x", None, []):
            manager.ttl = value  # type: ignore[assignment]
            with pytest.raises(TypeError) as raised:
                await TAKING[method](manager, "m", "p")
            assert "argument 'ttl'" in str(raised.value)


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
    [
        ("bid:lock:m:" + "x" * 3000, "characters"),
        ("a\0b", "NUL"),
        (SURROGATE, "surrogate"),
        ("", "key"),
        (None, "key"),
    ],
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
    *[
        ({"margin": value}, ValueError, "margin must be a number of seconds >= 0 and less than half of ttl")
        for value in (-1, 150, 10**400, math.nan, math.inf)
    ],
    ({"margin": 5, "ttl": 10}, ValueError, "less than half of ttl (5.0), not 5.0"),
    ({"margin": "x"}, TypeError, "argument 'margin'"),
    *[
        ({"loss_check": value}, ValueError, "loss_check must be")
        for value in (0, 0.09, -1, math.nan, math.inf, 10**400)
    ],
    ({"loss_check": "x"}, TypeError, "argument 'loss_check'"),
    ({"ttl": 1_000_000_001}, ValueError, "ttl must be at most 1000000000 seconds, not 1000000001.0"),
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


@pytest.mark.parametrize("url", [[], {}, 5, b"sqlite://", Path("locks.db")])
def test_a_url_that_is_no_text(url: Any) -> None:
    with pytest.raises(TypeError, match="argument 'database_url'"):
        BidLockManager(database_url=url)


@pytest.mark.parametrize("ttl", [100_000_001, 1_000_000_000])
async def test_a_ttl_that_the_manager_takes_is_taken_by_every_method(
    ttl: float, make_manager: MakeManager
) -> None:
    manager = make_manager(ttl)
    assert await manager.acquire_lock("m", "p")
    assert await manager.release_lock("m", "p")
    async with manager.with_lock("m", "p") as lease:
        assert lease.is_held


def test_a_block_is_no_condition() -> None:
    manager = BidLockManager(60, "sqlite://")
    with pytest.raises(TypeError, match="write `async with locks"):
        assert manager.with_lock("m", "p")
    with pytest.raises(TypeError, match="write `with locks"):
        assert manager.with_lock_sync("m", "p")


def test_settings_of_the_redis_manager_that_make_no_sense() -> None:
    for settings, kind, said in SETTINGS:
        if settings.keys() <= {"ttl", "auto_renew", "on_lost", "margin", "loss_check"}:
            with pytest.raises(kind) as raised:
                RedisBidLockManager("redis://h", **settings)
            assert said in str(raised.value)
    with pytest.raises(TypeError, match="argument 'redis_url'"):
        RedisBidLockManager(5)  # type: ignore[arg-type]
