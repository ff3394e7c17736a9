"""`agent_execution.bid_lock_manager_factory`, sentence by sentence."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from testing_support.servers.redis import RedisServer
from tests.drop_in.support import module

Create = Callable[..., Coroutine[Any, Any, Any]]


@pytest.fixture
async def create(lock_factory: Any) -> AsyncIterator[Create]:
    """The factory's function; closes what it made in the end."""
    made: list[Any] = []

    async def create(*arguments: Any, **keywords: Any) -> Any:
        made.append(await lock_factory.create_bid_lock_manager(*arguments, **keywords))
        return made[-1]

    yield create
    for manager in made:
        if hasattr(manager, "health_check"):
            await manager.close()


@pytest.fixture
def kinds(implementation: str) -> dict[str, type]:
    """The two kinds of managers."""
    return {
        "redis": module(implementation, "agent_execution.redis_bid_lock_manager").RedisBidLockManager,
        "database": module(implementation, "agent_execution.bid_lock_manager").BidLockManager,
    }


def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no Redis be reachable where it would be looked for by default."""
    monkeypatch.setenv("REDIS_DB", "not-a-database")


def test_the_functions_are_coroutines(lock_factory: Any) -> None:
    for verb in ("create", "get", "init", "reset"):
        assert inspect.iscoroutinefunction(getattr(lock_factory, f"{verb}_bid_lock_manager"))


async def test_use_redis_decides(
    create: Create, kinds: dict[str, type], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("USE_REDIS_LOCKS", "false")
    assert isinstance(await create(use_redis=True), kinds["redis"])
    monkeypatch.setenv("USE_REDIS_LOCKS", "true")
    assert isinstance(await create(use_redis=False), kinds["database"])
    assert isinstance(await create(False), kinds["database"])


@pytest.mark.parametrize(
    ("switch", "kind"),
    [("true", "redis"), ("1", "redis"), ("yes", "redis"), ("false", "database"), ("0", "database")],
)
async def test_the_environments_switch_decides_if_set(
    create: Create,
    kinds: dict[str, type],
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    switch: str,
    kind: str,
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("ENV", "production")
    monkeypatch.setenv("USE_REDIS_LOCKS", switch)
    assert isinstance(await create(), kinds[kind])


async def test_else_redis_if_its_url_is_set(
    create: Create, kinds: dict[str, type], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    assert isinstance(await create(), kinds["redis"])


@pytest.mark.parametrize("variable", ["REDIS_HOST", "REDIS_PORT"])
async def test_else_redis_if_its_place_is_set(
    create: Create,
    kinds: dict[str, type],
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if variable == "REDIS_PORT":
        monkeypatch.setenv("REDIS_PORT", str(redis_server.port))
        assert isinstance(await create(), kinds["redis"])
    else:
        # That it was wanted shows in the warning.
        monkeypatch.setenv("REDIS_HOST", "127.0.0.1")
        nowhere(monkeypatch)
        assert isinstance(await create(), kinds["database"])
        assert [record.levelno for record in caplog.records][-1] == logging.WARNING


@pytest.mark.parametrize(
    ("environment", "wanted"), [(None, False), ("development", False), ("production", True)]
)
async def test_else_redis_unless_in_development(
    create: Create,
    monkeypatch: pytest.MonkeyPatch,
    environment: str | None,
    wanted: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nowhere(monkeypatch)
    if environment is not None:
        monkeypatch.setenv("ENV", environment)
    await create()
    assert any(record.levelno == logging.WARNING for record in caplog.records) == wanted


SWITCHES = [
    *((value, "redis") for value in ("true", "TRUE", "True", "1", "yes", "Yes")),
    *((value, "database") for value in ("", " ", " true", "true ", "on", "y", "t", "2", "false", "no", "0")),
]
PLACES = [
    ({}, None),
    ({"REDIS_URL": ""}, None),
    ({"REDIS_HOST": "", "REDIS_PORT": ""}, None),
    ({"REDIS_URL": "redis://h"}, "redis"),
    ({"REDIS_HOST": "h"}, "redis"),
    ({"REDIS_PORT": "1"}, "redis"),
    ({"REDIS_DB": "1", "REDIS_PASSWORD": "word"}, None),
]
ENVIRONMENTS = [
    *((value, "database") for value in (None, "development", "Development", "DEVELOPMENT")),
    *((value, "redis") for value in ("", "production", "dev", "development ", "Staging")),
]


async def chosen(
    lock_factory: Any, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None], **keywords: Any
) -> str:
    """Return the choice of the factory, according to whether it tries to reach Redis."""
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    tried = []

    class NoRedis:
        def __init__(self, **_keywords: Any) -> None:
            tried.append(self)

        async def health_check(self) -> bool:
            return False

        async def close(self) -> None:
            pass

    defined_in = lock_factory.__name__.replace("bid_lock_manager_factory", "redis_bid_lock_manager")
    monkeypatch.setattr(f"{defined_in}.RedisBidLockManager", NoRedis)
    await lock_factory.create_bid_lock_manager(**keywords)
    return "redis" if tried else "database"


@pytest.mark.parametrize(("switch", "kind"), SWITCHES)
async def test_the_switch_decides_if_it_is_there_at_all(
    lock_factory: Any, monkeypatch: pytest.MonkeyPatch, switch: str, kind: str
) -> None:
    for place, _ in PLACES:
        for environment, _ in ENVIRONMENTS:
            variables = {**place, "ENV": environment, "USE_REDIS_LOCKS": switch}
            with monkeypatch.context() as patches:
                assert await chosen(lock_factory, patches, variables) == kind, variables


@pytest.mark.parametrize(("environment", "kind"), ENVIRONMENTS)
async def test_without_the_switch_a_place_decides_and_then_the_environment(
    lock_factory: Any,
    monkeypatch: pytest.MonkeyPatch,
    environment: str | None,
    kind: str,
) -> None:
    for place, kind_by_place in PLACES:
        variables = {**place, "ENV": environment}
        with monkeypatch.context() as patches:
            assert await chosen(lock_factory, patches, variables) == (kind_by_place or kind), variables


@pytest.mark.parametrize("use_redis", [True, False])
async def test_the_argument_goes_before_everything(
    lock_factory: Any, monkeypatch: pytest.MonkeyPatch, use_redis: bool
) -> None:
    variables: dict[str, str | None] = {"USE_REDIS_LOCKS": str(not use_redis), "ENV": "production"}
    found = await chosen(lock_factory, monkeypatch, variables, use_redis=use_redis)
    assert found == ("redis" if use_redis else "database")


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1", "redis://host:port", "redis://:secret-word@127.0.0.1:1"]
)
async def test_without_redis_it_is_the_database_and_a_warning(
    create: Create,
    kinds: dict[str, type],
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    manager = await create(use_redis=True)
    assert isinstance(manager, kinds["database"])
    assert any(record.levelno == logging.WARNING for record in caplog.records)
    assert "secret-word" not in caplog.text
    assert await manager.acquire_lock("upwork", "p1")


@pytest.mark.parametrize("use_redis", [True, False])
async def test_the_ttl_is_300_by_default(
    create: Create, redis_url: str, monkeypatch: pytest.MonkeyPatch, use_redis: bool
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    assert (await create(use_redis)).ttl == 300
    assert (await create(use_redis, 60)).ttl == 60
    assert (await create(use_redis=use_redis, ttl=17)).ttl == 17


async def test_get_bid_lock_manager_is_process_wide(lock_factory: Any, kinds: dict[str, type]) -> None:
    manager = await lock_factory.get_bid_lock_manager()
    assert isinstance(manager, kinds["database"])
    assert manager.ttl == 300
    assert await lock_factory.get_bid_lock_manager() is manager


async def test_init_bid_lock_manager_makes_the_process_wide_one(
    lock_factory: Any, kinds: dict[str, type], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    manager = await lock_factory.init_bid_lock_manager(use_redis=True, ttl=60)
    assert isinstance(manager, kinds["redis"])
    assert manager.ttl == 60
    assert await lock_factory.get_bid_lock_manager() is manager
    other = await lock_factory.init_bid_lock_manager(False, 17)
    assert (type(other), other.ttl) == (kinds["database"], 17)
    assert await lock_factory.get_bid_lock_manager() is other
    await manager.close()


@pytest.mark.parametrize("use_redis", [True, False])
async def test_reset_bid_lock_manager_forgets_it(
    lock_factory: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch, use_redis: bool
) -> None:
    await lock_factory.reset_bid_lock_manager()  # there is none yet
    monkeypatch.setenv("REDIS_URL", redis_url)
    manager = await lock_factory.init_bid_lock_manager(use_redis)
    await lock_factory.reset_bid_lock_manager()
    monkeypatch.delenv("REDIS_URL")
    assert await lock_factory.get_bid_lock_manager() is not manager


@pytest.mark.better
async def test_reset_bid_lock_manager_leaves_the_locks_of_others(lock_factory: Any, locks: Any) -> None:
    await lock_factory.init_bid_lock_manager(use_redis=False)
    assert await locks.BidLockManager().acquire_lock("upwork", "p1")
    await lock_factory.reset_bid_lock_manager()
    assert locks.BidLockManager().get_metrics()["active_locks"] == 1


@pytest.mark.better
async def test_tasks_that_ask_at_once_get_the_same(
    lock_factory: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    managers = await asyncio.gather(*(lock_factory.get_bid_lock_manager() for _ in range(5)))
    for manager in {id(manager): manager for manager in managers}.values():
        await manager.close()
    assert len(set(map(id, managers))) == 1
