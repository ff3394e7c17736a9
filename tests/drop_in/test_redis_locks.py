"""`agent_execution.redis_bid_lock_manager`, sentence by sentence."""

import asyncio
import inspect
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from testing_support.machine import Stopwatch
from testing_support.ports import free_port
from testing_support.servers.redis import RedisServer
from testing_support.servers.tcp_proxy import TcpProxy
from testing_support.waiting import until

KEY = "bid_lock:upwork:p1"


@pytest.fixture
async def make_manager(redis_locks: Any) -> AsyncIterator[Callable[..., Any]]:
    """Makes managers; closes them in the end."""
    made: list[Any] = []

    def make(*arguments: Any, **keywords: Any) -> Any:
        made.append(redis_locks.RedisBidLockManager(*arguments, **keywords))
        return made[-1]

    yield make
    for manager in made:
        await manager.close()


@pytest.fixture
def manager(make_manager: Callable[..., Any]) -> Any:
    """A manager with the original's `ttl`."""
    return make_manager()


def nobody_listens() -> str:
    """A URL behind which there is nothing."""
    return f"redis://127.0.0.1:{free_port()}"


# The class


async def test_the_url_and_the_ttl_may_be_given(
    make_manager: Callable[..., Any], redis_server: RedisServer
) -> None:
    manager = make_manager(redis_server.url(3), 60)
    assert manager.ttl == 60
    assert await manager.acquire_lock("upwork", "p1", holder_id="me")
    assert redis_server.execute("EXISTS", KEY) == 0  # it is in another database
    assert await manager.release_lock("upwork", "p1", "me")
    assert make_manager(redis_url=redis_server.url(), ttl=5).ttl == 5
    assert make_manager().ttl == 300


def test_the_methods_are_the_other_managers(redis_locks: Any) -> None:
    kind = redis_locks.RedisBidLockManager
    for name in ("acquire_lock", "release_lock", "cleanup_all", "health_check", "close"):
        assert inspect.iscoroutinefunction(getattr(kind, name)), name
    assert not inspect.iscoroutinefunction(kind.get_metrics)
    for name in ("acquire_lock", "with_lock"):
        assert list(inspect.signature(getattr(kind, name)).parameters)[:5] == [
            "self",
            "marketplace_id",
            "posting_id",
            "timeout",
            "holder_id",
        ]
        assert inspect.signature(getattr(kind, name)).parameters["timeout"].default == 10.0
    assert inspect.signature(kind.release_lock).parameters["holder_id"].default is None


def test_the_key(redis_locks: Any) -> None:
    assert redis_locks.RedisBidLockManager._make_lock_key("upwork", "p1") == KEY


async def test_a_lock_is_a_key_with_the_holder_as_its_value(manager: Any, redis_server: RedisServer) -> None:
    assert await manager.acquire_lock("upwork", "p1", holder_id="me") is True
    assert redis_server.execute("GET", KEY) == "me"


async def test_a_lock_expires_with_its_ttl(manager: Any, redis_server: RedisServer) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="me")
    assert 299_000 < redis_server.execute("PTTL", KEY) <= 300_000
    manager.ttl = 17
    await manager.acquire_lock("upwork", "p2", holder_id="me")
    assert 16_000 < redis_server.execute("PTTL", "bid_lock:upwork:p2") <= 17_000


async def test_a_key_that_is_there_is_a_lock_that_is_held(manager: Any, redis_server: RedisServer) -> None:
    redis_server.execute("SET", KEY, "an old process", "NX", "EX", 300)
    watch = Stopwatch()
    assert await manager.acquire_lock("upwork", "p1", timeout=0.3, holder_id="me") is False
    assert 0.3 <= watch.seconds < 3 + watch.held_up
    assert redis_server.execute("GET", KEY) == "an old process"


async def test_an_old_process_finds_our_lock_held(manager: Any, redis_server: RedisServer) -> None:
    assert await manager.acquire_lock("upwork", "p1", holder_id="me")
    assert redis_server.execute("SET", KEY, "an old process", "NX", "EX", 300) is None


async def test_an_expired_lock_is_taken_over(manager: Any, redis_server: RedisServer) -> None:
    redis_server.execute("SET", KEY, "an old process", "PX", 400)
    watch = Stopwatch()
    assert await manager.acquire_lock("upwork", "p1", timeout=10, holder_id="me") is True
    assert watch.seconds < 5 + watch.held_up


async def test_an_old_processs_release_is_noticed(manager: Any, redis_server: RedisServer) -> None:
    redis_server.execute("SET", KEY, "an old process", "EX", 300)
    waiter = asyncio.create_task(manager.acquire_lock("upwork", "p1", timeout=10, holder_id="me"))
    await asyncio.sleep(0.5)
    assert not waiter.done()
    redis_server.execute("DEL", KEY)
    watch = Stopwatch()
    assert await waiter is True
    assert watch.seconds < 5 + watch.held_up


async def test_an_old_process_may_release_our_lock_by_its_holder(
    manager: Any, redis_server: RedisServer
) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="me")
    assert redis_server.execute("GET", KEY) == "me"
    redis_server.execute("DEL", KEY)
    assert await manager.acquire_lock("upwork", "p1", timeout=1, holder_id="other") is True


@pytest.mark.parametrize(("marketplace", "posting"), [("", "p1"), ("upwork", "")])
async def test_empty_ids_are_refused(manager: Any, marketplace: str, posting: str) -> None:
    with pytest.raises(ValueError, match=r"^marketplace_id and posting_id must not be empty$"):
        await manager.acquire_lock(marketplace, posting)


async def test_a_lock_is_not_reentrant(manager: Any) -> None:
    assert await manager.acquire_lock("upwork", "p1", holder_id="me")
    assert await manager.acquire_lock("upwork", "p1", timeout=0.1, holder_id="me") is False


# The holder


async def test_without_a_holder_a_unique_one_is_made(manager: Any, redis_server: RedisServer) -> None:
    holders = []
    for posting in ("p1", "p2"):
        await manager.acquire_lock("upwork", posting)
        holders.append(redis_server.execute("GET", f"bid_lock:upwork:{posting}"))
    assert holders[0] != holders[1]
    for holder in holders:
        assert re.fullmatch(rf"{re.escape(socket.gethostname())}:{os.getpid()}:[0-9a-f]{{8}}", holder)


async def test_release_without_a_holder_releases_what_this_manager_acquired(
    manager: Any, redis_server: RedisServer
) -> None:
    await manager.acquire_lock("upwork", "p1")
    assert await manager.release_lock("upwork", "p1") is True
    assert redis_server.execute("EXISTS", KEY) == 0
    assert await manager.release_lock("upwork", "p1") is False
    await manager.acquire_lock("upwork", "p1", holder_id="me")
    assert await manager.release_lock("upwork", "p1") is True


@pytest.mark.better
async def test_release_without_a_holder_releases_nothing_else(
    make_manager: Callable[..., Any], redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = make_manager(), make_manager()
    await one.acquire_lock("upwork", "p1")
    assert await other.release_lock("upwork", "p1") is False
    redis_server.execute("SET", "bid_lock:upwork:p2", "an old process", "EX", 300)
    assert await one.release_lock("upwork", "p2") is False
    assert redis_server.execute("EXISTS", KEY, "bid_lock:upwork:p2") == 2
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == 2


@pytest.mark.better
async def test_release_without_a_holder_leaves_a_successor_alone(
    manager: Any, redis_server: RedisServer
) -> None:
    manager.ttl = 0.1
    await manager.acquire_lock("upwork", "p1")
    await until(lambda: not redis_server.execute("EXISTS", KEY))
    redis_server.execute("SET", KEY, "successor", "NX", "EX", 300)
    assert await manager.release_lock("upwork", "p1") is False
    assert redis_server.execute("GET", KEY) == "successor"


async def test_release_compares_the_holder(
    manager: Any, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="one")
    assert await manager.release_lock("upwork", "p1", holder_id="two") is False
    assert any(record.levelno == logging.WARNING for record in caplog.records)
    assert redis_server.execute("GET", KEY) == "one"
    assert await manager.release_lock("upwork", "p1", holder_id="one") is True
    assert redis_server.execute("EXISTS", KEY) == 0


async def test_where_this_process_never_acquired_the_holder_decides(
    manager: Any, redis_server: RedisServer
) -> None:
    redis_server.execute("SET", KEY, "an old process", "EX", 300)
    assert await manager.release_lock("upwork", "p1", holder_id="an old process") is True
    assert redis_server.execute("EXISTS", KEY) == 0


class BeforeDeletion(TcpProxy):
    """Does something just before it passes a request on that deletes a key."""

    def __init__(self, target: int, act: Callable[[], object]) -> None:
        super().__init__(target)
        self._act = act

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        while data := await reader.read(65536):
            if b"$3\r\nDEL\r\n" in data:
                self._act()
            writer.write(data)
            await writer.drain()
        writer.transport.abort()


@pytest.mark.better
async def test_release_is_one_step(make_manager: Callable[..., Any], redis_server: RedisServer) -> None:
    came_between = []

    def another_takes_over() -> None:
        came_between.append(redis_server.execute("SET", KEY, "successor", "EX", 300))

    async with BeforeDeletion(redis_server.port, another_takes_over) as proxy:
        manager = make_manager(f"redis://127.0.0.1:{proxy.port}")
        await manager.acquire_lock("upwork", "p1", holder_id="me")
        await manager.release_lock("upwork", "p1", holder_id="me")
        await manager.close()
    assert redis_server.execute("GET", KEY) == ("successor" if came_between else None)


# with_lock


async def test_with_lock_holds_the_lock_during_the_body(manager: Any, redis_server: RedisServer) -> None:
    async with manager.with_lock("upwork", "p1", timeout=1, holder_id="me"):
        assert redis_server.execute("GET", KEY) == "me"
        assert await manager.acquire_lock("upwork", "p1", timeout=0, holder_id="other") is False
    assert redis_server.execute("EXISTS", KEY) == 0


async def test_with_lock_makes_a_holder_too(manager: Any, redis_server: RedisServer) -> None:
    async with manager.with_lock("upwork", "p1"):
        assert redis_server.execute("GET", KEY).startswith(f"{socket.gethostname()}:{os.getpid()}:")


@pytest.mark.parametrize("error", [ValueError("body"), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_with_lock_releases_whatever_the_body_raised(
    manager: Any, redis_server: RedisServer, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        async with manager.with_lock("upwork", "p1"):
            raise error
    assert redis_server.execute("EXISTS", KEY) == 0


async def test_with_lock_raises_timeout_error(manager: Any) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="one")
    # This package goes on after the original's words.
    holder = r"(: it is held by 'one' since \S+ \S+ UTC)?"
    with pytest.raises(TimeoutError, match=rf"^Failed to acquire lock for upwork:p1 within 0.2s{holder}$"):
        async with manager.with_lock("upwork", "p1", timeout=0.2, holder_id="two"):
            pytest.fail("the body ran")


@pytest.mark.better
async def test_with_lock_renews_while_the_body_runs(manager: Any, redis_server: RedisServer) -> None:
    manager.ttl = 0.6
    async with manager.with_lock("upwork", "p1", holder_id="me"):
        await asyncio.sleep(1.0)
        assert redis_server.execute("GET", KEY) == "me"


@pytest.mark.better(raises=TypeError)
async def test_auto_renew_false_gives_the_originals_expiry(manager: Any, redis_server: RedisServer) -> None:
    manager.ttl = 0.4
    async with manager.with_lock("upwork", "p1", auto_renew=False):
        await until(lambda: redis_server.execute("EXISTS", KEY) == 0)


# Health, metrics, errors


async def test_health_check(manager: Any, make_manager: Callable[..., Any]) -> None:
    assert await manager.health_check() is True
    assert await make_manager(nobody_listens()).health_check() is False


async def test_metrics_of_a_new_manager(manager: Any) -> None:
    assert manager.get_metrics() == {
        "lock_attempts": 0,
        "lock_successes": 0,
        "lock_conflicts": 0,
        "lock_timeouts": 0,
        "redis_errors": 0,
    }


async def test_metrics_count(manager: Any) -> None:
    await manager.acquire_lock("upwork", "p1", holder_id="one")
    await manager.acquire_lock("upwork", "p1", timeout=0, holder_id="two")
    assert manager.get_metrics() == {
        "lock_attempts": 2,
        "lock_successes": 1,
        "lock_conflicts": 1,
        "lock_timeouts": 1,
        "redis_errors": 0,
    }
    assert (manager._lock_attempts, manager._lock_successes) == (2, 1)
    assert (manager._lock_conflicts, manager._lock_timeouts) == (1, 1)


@pytest.mark.parametrize(
    "call",
    [
        "acquire_lock",
        "release_lock",
        pytest.param("health_check", marks=pytest.mark.better),
        pytest.param("cleanup_all", marks=pytest.mark.better),
    ],
)
async def test_errors_give_false_and_are_logged_and_counted(
    make_manager: Callable[..., Any], call: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = make_manager(nobody_listens())
    arguments: dict[str, Any] = {
        "acquire_lock": {"marketplace_id": "upwork", "posting_id": "p1", "timeout": 0.2},
        "release_lock": {"marketplace_id": "upwork", "posting_id": "p1", "holder_id": "me"},
    }.get(call, {})
    assert not await getattr(manager, call)(**arguments)
    assert manager.get_metrics()["redis_errors"] >= 1
    assert any(record.levelno >= logging.WARNING for record in caplog.records)


async def test_cleanup_all_deletes_every_lock_and_nothing_else(
    manager: Any, redis_server: RedisServer
) -> None:
    await manager.acquire_lock("upwork", "p1")
    redis_server.execute("SET", "bid_lock:upwork:p2", "an old process", "EX", 300)
    redis_server.execute("SET", "other", "stays")
    await manager.cleanup_all()
    assert redis_server.execute("EXISTS", KEY, "bid_lock:upwork:p2") == 0
    assert redis_server.execute("GET", "other") == "stays"


# The environment


async def test_the_environments_url(
    redis_locks: Any, make_manager: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It goes before the single variables.
    monkeypatch.setenv("REDIS_PORT", nobody_listens().rpartition(":")[2])
    assert await make_manager().health_check() is True


async def test_the_environments_single_variables(
    redis_locks: Any,
    make_manager: Callable[..., Any],
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
    monkeypatch.setenv("REDIS_PORT", str(redis_server.port))
    assert await make_manager().acquire_lock("upwork", "p1", holder_id="me")
    assert redis_server.execute("GET", KEY) == "me"
    monkeypatch.setenv("REDIS_DB", "4")
    assert await make_manager().acquire_lock("upwork", "p1", timeout=0, holder_id="me")


async def test_the_environments_password(
    redis_locks: Any, make_manager: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(password="right")
    try:
        monkeypatch.delenv("REDIS_URL")
        monkeypatch.setenv("REDIS_PORT", str(server.port))
        monkeypatch.setenv("REDIS_PASSWORD", "wrong")
        assert await make_manager().health_check() is False
        monkeypatch.setenv("REDIS_PASSWORD", "right")
        manager = make_manager()
        assert await manager.health_check() is True
        await manager.close()
    finally:
        server.stop()


# The module's functions


async def test_the_modules_functions_are_coroutines(redis_locks: Any) -> None:
    assert inspect.iscoroutinefunction(redis_locks.get_bid_lock_manager)
    assert inspect.iscoroutinefunction(redis_locks.init_bid_lock_manager)


async def test_get_bid_lock_manager_is_process_wide(redis_locks: Any) -> None:
    manager = await redis_locks.get_bid_lock_manager()
    assert isinstance(manager, redis_locks.RedisBidLockManager)
    assert manager.ttl == 300
    assert await redis_locks.get_bid_lock_manager() is manager
    await manager.close()


async def test_init_bid_lock_manager_makes_the_process_wide_one(
    redis_locks: Any, redis_server: RedisServer
) -> None:
    manager = await redis_locks.init_bid_lock_manager(redis_server.url(2), 60)
    assert manager.ttl == 60
    assert await redis_locks.get_bid_lock_manager() is manager
    await manager.close()
    manager = await redis_locks.init_bid_lock_manager()
    assert manager.ttl == 300
    await manager.close()


async def test_init_bid_lock_manager_needs_redis(redis_locks: Any) -> None:
    with pytest.raises(RuntimeError, match="not reachable"):
        await redis_locks.init_bid_lock_manager(redis_url=nobody_listens())
    with pytest.raises(RuntimeError):
        await redis_locks.init_bid_lock_manager(nobody_listens(), ttl=60)


# Bad input


@pytest.mark.parametrize("url", ["sqlite:///locks.db", "127.0.0.1:6379", "redis://host:port"])
def test_a_url_that_makes_no_sense(redis_locks: Any, url: str) -> None:
    with pytest.raises(ValueError):
        redis_locks.RedisBidLockManager(url)
