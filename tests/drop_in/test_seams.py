"""What may be patched in the originals' modules: every row of `drop_in.SEAMS`, under both of its names."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock, patch
from uuid import UUID

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from arbitrageai_native import drop_in
from arbitrageai_native.agent_execution import bid_lock_manager_factory
from arbitrageai_native.drop_in import SEAMS, Seam
from testing_support.keys import KEY
from tests.drop_in.support import ENVIRONMENT, rows

LOCAL = "http://localhost:9/v1"
NO_REDIS = "redis://127.0.0.1:9"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, nothing in the environment, and no objects of the process."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/locks.db")
    for module, name in (
        ("llm_service", "_default_model_config"),
        ("llm_health_check", "_global_health_checker"),
        ("agent_execution.bid_lock_manager", "_bid_lock_manager"),
        ("agent_execution.redis_bid_lock_manager", "_bid_lock_manager"),
        ("agent_execution.bid_lock_manager_factory", "_bid_lock_manager"),
    ):
        monkeypatch.setattr(f"arbitrageai_native.{module}.{name}", None)


@pytest.fixture(params=["arbitrageai_native", "src"])
def prefix(request: pytest.FixtureRequest) -> Iterator[str]:
    """The package under which a module is patched; under `src` the drop-in modules are installed."""
    name: str = request.param
    if name == "src":
        drop_in.install()
    yield name
    drop_in.uninstall()


def service(**arguments: Any) -> Any:
    """A service whose client answers without a network."""
    from arbitrageai_native import LLMService

    found = LLMService(base_url=LOCAL, api_key=KEY, **arguments)
    found.client = MagicMock()
    found.client.chat.completions.create.return_value = SimpleNamespace(
        choices=[SimpleNamespace(message=SimpleNamespace(content="answer"))],
        model="m",
        usage=SimpleNamespace(prompt_tokens=1, completion_tokens=1, total_tokens=2),
    )
    return found


# Each effect gets the module, what it patches (the whole name), and patches and asserts itself.
Effect = Callable[[Any, str, Path], Awaitable[None] | None]
EFFECTS: dict[tuple[str, str], Effect] = {}


def effect_of(module: str, *names: str) -> Callable[[Effect], Effect]:
    """Register what shows that a patch of the names has an effect."""

    def register(effect: Effect) -> Effect:
        EFFECTS.update({(module, name): effect for name in names})
        return effect

    return register


async def in_thread(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call a blocking method where no event loop runs."""
    return await asyncio.to_thread(function, *arguments, **keywords)


# --- llm_service and llm_health_check ---

LLM, HEALTH = "llm_service", "llm_health_check"


@effect_of(LLM, "OpenAI")
def a_service_has_the_patched_client(module: Any, target: str, _: Path) -> None:
    with patch(target) as client:
        assert module.LLMService(base_url=LOCAL, api_key=KEY).client is client.return_value
    client.assert_called_once_with(base_url=LOCAL, api_key=KEY)


@effect_of(LLM, "get_health_checker")
def a_service_has_the_patched_checker(module: Any, target: str, _: Path) -> None:
    with patch(target) as get_health_checker:
        found = module.LLMService(base_url=LOCAL, api_key=KEY)
    assert found._health_checker is get_health_checker.return_value


@effect_of(LLM, "os.getenv")
def the_patched_environment_is_read(module: Any, target: str, _: Path) -> None:
    def getenv(name: str, default: str | None = None) -> str | None:
        return {"BASE_URL": "http://patched/v1", "CLOUD_MODEL": "patched"}.get(name, default)

    with patch(target, getenv):
        assert module.LLMService(api_key=KEY).base_url == "http://patched/v1"
        assert module.ModelConfig.from_env().cloud_model == "patched"


@effect_of(LLM, "time.sleep")
async def the_patched_sleep_is_called(module: Any, target: str, _: Path) -> None:
    fails_once = service(enable_circuit_breaker=False, enable_fallback=False)
    create = fails_once.client.chat.completions.create
    create.side_effect = [RuntimeError("once"), create.return_value]
    with patch(target) as sleep:
        await in_thread(service(enable_circuit_breaker=False).complete, "p", stealth_mode=True)
        await in_thread(fails_once.complete_with_fallback, "p")
    stealth, fallback = (call.args[0] for call in sleep.call_args_list)
    assert 2 <= stealth <= 5
    assert fallback == 2.0


@effect_of(LLM, "random.uniform")
async def the_patched_chance_decides(module: Any, target: str, _: Path) -> None:
    with patch(target, return_value=0.001) as uniform:
        await service(enable_circuit_breaker=False).complete_async("p", stealth_mode=True)
        await in_thread(service(enable_circuit_breaker=False).complete, "p", stealth_mode=True)
    assert [call.args for call in uniform.call_args_list] == [(2.0, 5.0)] * 2


@effect_of(LLM, "LLMService.complete")
async def the_patched_method_is_called(module: Any, target: str, _: Path) -> None:
    with patch(target, return_value={"content": "patched"}) as complete:
        found = module.LLMService(base_url=LOCAL, api_key=KEY)
        assert (await in_thread(found.complete_with_fallback, "p"))["content"] == "patched"
        assert (await found.complete_async("p", seed=1))["content"] == "patched"
    nothing = {"temperature": None, "max_tokens": None, "system_prompt": None}
    assert complete.call_args.kwargs == {"prompt": "p", "seed": 1, "stealth_mode": False, **nothing}


@effect_of(LLM, "LLMService.with_local")
async def the_patched_local_model_answers(module: Any, target: str, _: Path) -> None:
    found = service(enable_circuit_breaker=False)
    found._is_local = False
    found.client.chat.completions.create.side_effect = RuntimeError("down")
    with patch(target) as with_local, patch(f"{module.__name__}.time.sleep"):
        with_local.return_value.complete.return_value = {"content": "local"}
        assert (await in_thread(found.complete_with_fallback, "p"))["content"] == "local"
    with_local.assert_called_once_with(enable_circuit_breaker=False)


@effect_of(LLM, "asyncio.sleep")
async def the_patched_asynchronous_sleep_is_awaited(module: Any, target: str, _: Path) -> None:
    with patch(target, new_callable=AsyncMock) as sleep:
        result = await service(enable_circuit_breaker=False).complete_async("p", stealth_mode=True)
    assert result["stealth_mode_used"]
    assert 2 <= sleep.await_args.args[0] <= 5


@effect_of(LLM, "logger")
async def the_patched_logger_logs_the_fallback(module: Any, target: str, _: Path) -> None:
    found = service(enable_circuit_breaker=False)
    found._is_local = False
    found.client.chat.completions.create.side_effect = RuntimeError("down")
    with patch(target) as logger, patch.object(found, "with_local"), patch(f"{module.__name__}.time.sleep"):
        await in_thread(found.complete_with_fallback, "p")
    assert "Cloud inference failed: %s" in [call.args[0] for call in logger.info.call_args_list]


@effect_of(LLM, "MIN_CLOUD_REVENUE")
def the_patched_threshold_decides(module: Any, target: str, _: Path) -> None:
    with patch(target, 10):
        services = [module.LLMService.get_optimized_service(cents) for cents in (9, 10)]
    assert [found.is_local() for found in services] == [True, False]


@effect_of(LLM, "_default_model_config")
def the_patched_configuration_is_the_default(module: Any, target: str, _: Path) -> None:
    config = module.ModelConfig(cloud_model="patched")
    with patch(target, config):
        assert module.get_default_model_config() is config


@effect_of(HEALTH, "_global_health_checker")
def the_patched_checker_is_the_process_s(module: Any, target: str, _: Path) -> None:
    with patch(target) as checker:
        assert module.get_health_checker() is checker


@effect_of(HEALTH, "LLMHealthChecker")
def a_checker_is_made_of_the_patched_class(module: Any, target: str, _: Path) -> None:
    with patch(target) as checker_class:
        assert module.get_health_checker() is checker_class.return_value


@effect_of(HEALTH, "logger")
def the_patched_logger_warns_of_an_open_circuit(module: Any, target: str, _: Path) -> None:
    checker = module.LLMHealthChecker()
    with patch(target) as logger:
        checker.register_endpoint(LOCAL, failure_threshold=1)
        checker.record_failure(LOCAL, "down")
    logger.info.assert_called_once()
    logger.warning.assert_called_once()


@effect_of(HEALTH, "ExponentialBackoff._calculate_jitter")
def the_patched_jitter_is_added(module: Any, target: str, _: Path) -> None:
    with patch(target, return_value=7) as jitter:
        assert module.ExponentialBackoff().get_delay_ms(1) == 7
    jitter.assert_called_once_with(200)


@effect_of(HEALTH, "ExponentialBackoff.get_delay_ms")
async def the_patched_delay_is_waited(module: Any, target: str, _: Path) -> None:
    with patch(target, return_value=1) as delay:
        await module.ExponentialBackoff(initial_delay_ms=100_000, max_delay_ms=100_000).wait(3)
    delay.assert_called_once_with(3)


# --- locks ---

LOCKS = "agent_execution.bid_lock_manager"
REDIS = "agent_execution.redis_bid_lock_manager"
FACTORY = "agent_execution.bid_lock_manager_factory"


@effect_of(LOCKS, "SessionLocal", "BidLockManager._get_db")
async def locks_are_in_the_database_of_the_patched_session(module: Any, target: str, folder: Path) -> None:
    engine = create_engine(f"sqlite:///{folder}/patched.db")
    with patch(target, lambda: Session(engine)):
        manager = module.BidLockManager()
        assert await manager.acquire_lock("upwork", "p1", holder_id="me")
        assert manager.get_metrics()["active_locks"] == 1
        assert [row["holder_id"] for row in rows(folder / "patched.db")] == ["me"]
        await manager.aclose()
    engine.dispose()
    assert not (folder / "locks.db").exists()


@effect_of(LOCKS, "BidLockManager.acquire_lock", "BidLockManager.release_lock")
@effect_of(REDIS, "RedisBidLockManager.acquire_lock", "RedisBidLockManager.release_lock")
async def blocks_go_through_the_patched_methods(module: Any, target: str, _: Path) -> None:
    manager_class = target.split(".")[-2]
    manager = getattr(module, manager_class)(*[NO_REDIS][: manager_class.startswith("Redis")])
    lock = {"marketplace_id": "upwork", "posting_id": "p1", "holder_id": "me"}
    with (
        patch.object(manager, "acquire_lock", AsyncMock(return_value=True)) as acquire_lock,
        patch(target, AsyncMock(return_value=True)) as patched,
        patch.object(manager, "release_lock", AsyncMock(return_value=True)) as release_lock,
    ):
        async with manager.with_lock("upwork", "p1", 2.0, "me"):
            release_lock.assert_not_awaited()
    acquire_lock.assert_awaited_once_with(**lock, timeout=2.0)
    release_lock.assert_awaited_once_with(**lock)
    assert not patched.called, "an object's own attribute comes before its class's"
    with (
        patch(target, AsyncMock(return_value=True)) as patched,
        patch.object(manager, "acquire_lock", patched),
    ):
        async with manager.with_lock("upwork", "p1", 2.0, "me"):
            pass
    assert patched.await_count >= 1


@effect_of(LOCKS, "logger")
async def the_patched_logger_warns(module: Any, target: str, _: Path) -> None:
    async with module.BidLockManager() as manager:
        with patch(target) as logger:
            assert not await manager.release_lock("upwork", "p1")
    logger.warning.assert_called_once()


@effect_of(LOCKS, "BidLockManager")
def the_patched_class_makes_the_manager(module: Any, target: str, _: Path) -> None:
    with patch(target) as manager_class:
        assert module.get_bid_lock_manager() is manager_class.return_value
        assert module.init_bid_lock_manager(60) is manager_class.return_value
    assert [call.kwargs for call in manager_class.call_args_list] == [{"ttl": 300}, {"ttl": 60}]


@effect_of(LOCKS, "_bid_lock_manager")
def the_patched_manager_is_given(module: Any, target: str, _: Path) -> None:
    with patch(target) as manager:
        assert module.get_bid_lock_manager() is manager


@effect_of(REDIS, "logger")
async def the_patched_logger_of_redis_warns(module: Any, target: str, _: Path) -> None:
    manager = module.RedisBidLockManager(NO_REDIS)
    with patch(target) as logger:
        assert not await manager.release_lock("upwork", "p1")
    logger.warning.assert_called_once()
    await manager.close()


@effect_of(REDIS, "uuid.uuid4")
async def the_patched_number_is_in_the_holder(module: Any, target: str, _: Path) -> None:
    manager = module.RedisBidLockManager(NO_REDIS)
    number = UUID("12345678-0000-0000-0000-000000000000")
    with patch(target, return_value=number), patch.object(manager._manager, "acquire_lock") as acquire_lock:
        await manager.acquire_lock("upwork", "p1", timeout=0)
    assert acquire_lock.call_args.args[3].endswith(":12345678")


@effect_of(REDIS, "RedisBidLockManager._make_holder_id")
async def the_patched_holder_acquires(module: Any, target: str, _: Path) -> None:
    manager = module.RedisBidLockManager(NO_REDIS)
    with (
        patch(target, return_value="me"),
        patch.object(manager._manager, "acquire_lock") as acquire_lock,
    ):
        await manager.acquire_lock("upwork", "p1", timeout=0)
    assert acquire_lock.call_args.args[3] == "me"


@effect_of(REDIS, "get_redis_url")
def the_patched_url_is_used(module: Any, target: str, _: Path) -> None:
    with patch(target, return_value="redis://patched:1/2"):
        assert module.RedisBidLockManager().redis_url == "redis://patched:1/2"


@effect_of(REDIS, "RedisBidLockManager")
async def the_patched_class_makes_the_manager_of_redis(module: Any, target: str, _: Path) -> None:
    with patch(target) as manager_class:
        manager_class.return_value.health_check = returning(True)
        assert await module.get_bid_lock_manager() is manager_class.return_value
        assert await module.init_bid_lock_manager(NO_REDIS, 60) is manager_class.return_value


@effect_of(REDIS, "_bid_lock_manager")
@effect_of(FACTORY, "_bid_lock_manager")
async def the_patched_manager_is_awaited(module: Any, target: str, _: Path) -> None:
    with patch(target) as manager:
        assert await module.get_bid_lock_manager() is manager


@effect_of(FACTORY, "BidLockManager")
async def the_factory_makes_the_patched_manager(module: Any, target: str, _: Path) -> None:
    with patch(target) as manager_class:
        assert await module.create_bid_lock_manager(use_redis=False) is manager_class.return_value


@effect_of(FACTORY, "RedisBidLockManager")
async def the_factory_makes_the_patched_manager_of_redis(module: Any, target: str, _: Path) -> None:
    with patch(target) as manager_class:
        manager_class.return_value.health_check = returning(True)
        assert await module.create_bid_lock_manager(use_redis=True) is manager_class.return_value


@effect_of(FACTORY, "should_use_redis_locks")
async def the_patched_choice_decides(module: Any, target: str, _: Path) -> None:
    with patch(target, return_value=True), patch(f"{module.__name__}.RedisBidLockManager") as manager_class:
        manager_class.return_value.health_check = returning(True)
        assert await module.create_bid_lock_manager() is manager_class.return_value


@effect_of(FACTORY, "get_redis_url")
async def the_patched_url_reaches_the_manager(module: Any, target: str, _: Path) -> None:
    with (
        patch(target, return_value=NO_REDIS),
        patch(
            "arbitrageai_native.agent_execution.redis_bid_lock_manager.RedisBidLockManager"
        ) as manager_class,
    ):
        manager_class.return_value.health_check = returning(True)
        await module.create_bid_lock_manager(use_redis=True, ttl=9)
    manager_class.assert_called_once_with(redis_url=NO_REDIS, ttl=9)


@effect_of(FACTORY, "logger")
async def the_patched_logger_of_the_factory_warns(module: Any, target: str, _: Path) -> None:
    no_redis = patch(f"{module.__name__}.RedisBidLockManager", side_effect=ValueError("no Redis"))
    with no_redis, patch(target) as logger:
        await module.create_bid_lock_manager(use_redis=True)
    logger.warning.assert_called_once()


@effect_of("utils.async_helpers", "asyncio.sleep")
async def the_patched_sleep_is_awaited(module: Any, target: str, _: Path) -> None:
    with patch(target, new_callable=AsyncMock) as sleep:
        await module.safe_sleep(100)
    sleep.assert_awaited_once_with(100)


def returning(value: Any) -> Callable[[], Awaitable[Any]]:
    async def answer() -> Any:
        return value

    return answer


# --- the table ---


def named(seam: Seam) -> str:
    return f"{seam.module}.{seam.name}"


def test_every_row_with_a_reader_has_a_test_of_its_effect() -> None:
    assert EFFECTS.keys() == {(seam.module, seam.name) for seam in SEAMS if seam.read_by}
    assert len(set(SEAMS)) == len(SEAMS)


@pytest.mark.parametrize("seam", [seam for seam in SEAMS if seam.read_by], ids=named)
async def test_a_patch_has_an_effect(seam: Seam, prefix: str, tmp_path: Path) -> None:
    module = import_module(f"{prefix}.{seam.module}")
    shown = EFFECTS[seam.module, seam.name](module, f"{prefix}.{named(seam)}", tmp_path)
    if shown is not None:
        await shown


@pytest.mark.parametrize("seam", [seam for seam in SEAMS if not seam.read_by], ids=named)
def test_a_name_without_effect_exists(seam: Seam, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    api, models = ModuleType("src.api"), ModuleType("src.api.models")
    models.DistributedLock = object()  # type: ignore[attr-defined]
    config, manager = ModuleType("src.config"), ModuleType("src.config.config_manager")
    manager.ConfigManager = object()  # type: ignore[attr-defined]
    for made in (api, models, config, manager):
        monkeypatch.setitem(sys.modules, made.__name__, made)
    module = import_module(f"{prefix}.{seam.module}")
    with patch(f"{module.__name__}.{seam.name}") as patched:
        assert getattr(module, seam.name) is patched
    assert getattr(module, seam.name) is not patched


@pytest.mark.parametrize("seam", [seam for seam in SEAMS if seam.read_by], ids=named)
def test_every_reader_exists(seam: Seam) -> None:
    for reader in seam.read_by:
        found: Any = import_module(f"arbitrageai_native.{seam.module}")
        for part in reader.split("."):
            found = getattr(found, part)
        assert callable(found)


def test_a_name_that_is_no_seam_does_not_exist() -> None:
    module: Any = import_module(f"arbitrageai_native.{LOCKS}")
    with pytest.raises(AttributeError, match="has no attribute 'redis'"):
        _ = module.redis


def test_a_foreign_name_that_cannot_be_imported_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    module: Any = import_module(f"arbitrageai_native.{REDIS}")
    with pytest.raises(AttributeError, match=r"redis is redis\.asyncio, which can't be imported"):
        _ = module.redis


def test_names_without_effect_are_in_the_migration_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
    (entry,) = re.findall(r"^- Some names exist, .*?(?=^\S)", guide, re.MULTILINE | re.DOTALL)
    listed = set(re.findall(r"`(\w+)`", entry))
    assert listed == {seam.name for seam in SEAMS if not seam.read_by}


async def test_a_patch_of_the_calls_getenv_does_not_reach_the_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USE_REDIS_LOCKS", "false")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/locks.db")
    monkeypatch.setattr("arbitrageai_native.llm_service.os.getenv", lambda *_: "http://model:1/v1")
    manager = await bid_lock_manager_factory.create_bid_lock_manager()
    assert await manager.acquire_lock("upwork", "p", timeout=5)
