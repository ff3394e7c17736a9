"""Which of the originals' methods go through which others, and which work on the class, over both."""

import asyncio
import inspect
import logging
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, MagicMock, patch

import pytest

from arbitrageai_native.testing import ModelServer
from testing_support.keys import KEY
from tests.drop_in.support import rows


@pytest.fixture
def service(llm_service: Any, server: ModelServer) -> Any:
    """A service of `server`, without a breaker."""
    return llm_service.LLMService(base_url=server.base_url, api_key=KEY, enable_circuit_breaker=False)


# --- locks ---

REPLACED = {"marketplace_id": "upwork", "posting_id": "p1"}


@pytest.mark.parametrize("where", ["object", "class", "subclass"])
async def test_a_block_goes_through_a_replaced_acquire_lock(locks: Any, where: str) -> None:
    asked: list[dict[str, Any]] = []

    class Refusing(locks.BidLockManager):  # type: ignore[name-defined,misc]
        async def acquire_lock(self, **arguments: Any) -> bool:
            asked.append(arguments)
            return False

    manager = (Refusing if where == "subclass" else locks.BidLockManager)()
    targets = {"object": manager, "class": locks.BidLockManager, "subclass": Refusing}
    replacement = AsyncMock(return_value=False)
    with (
        patch.object(targets[where], "acquire_lock", replacement),
        pytest.raises(TimeoutError, match=r"^Failed to acquire lock for upwork:p1 within 2\.5s"),
    ):
        async with manager.with_lock("upwork", "p1", 2.5, "me"):
            pytest.fail("entered")
    replacement.assert_awaited_once_with(**REPLACED, timeout=2.5, holder_id="me")
    assert locks.BidLockManager().get_metrics()["active_locks"] == 0


async def test_a_block_goes_through_an_overridden_acquire_lock(locks: Any, lock_file: Path) -> None:
    class Counting(locks.BidLockManager):  # type: ignore[name-defined,misc]
        calls: list[str]

        async def acquire_lock(self, *args: Any, **kwargs: Any) -> bool:
            self.calls.append("acquire")
            acquired: bool = await super().acquire_lock(*args, **kwargs)
            return acquired

    manager = Counting()
    manager.calls = []
    async with manager.with_lock("upwork", "p1", holder_id="me"):
        assert [row["holder_id"] for row in rows(lock_file)] == ["me"]
    assert manager.calls == ["acquire"]
    assert rows(lock_file) == []


async def test_a_block_goes_through_a_replaced_release_lock(locks: Any, lock_file: Path) -> None:
    manager = locks.BidLockManager()
    with patch.object(manager, "release_lock", AsyncMock(return_value=True)) as release_lock:
        with pytest.raises(KeyError):
            async with manager.with_lock("upwork", "p1", holder_id="me"):
                raise KeyError
        release_lock.assert_awaited_once_with(**REPLACED, holder_id="me")
    assert len(rows(lock_file)) == 1


async def test_a_decorated_function_goes_through_replaced_methods(locks: Any) -> None:
    manager = locks.BidLockManager()
    manager.acquire_lock = AsyncMock(return_value=True)
    manager.release_lock = AsyncMock(return_value=True)

    @manager.with_lock("upwork", "p1")  # type: ignore[untyped-decorator]
    async def bid() -> str:
        return "placed"

    assert [await bid(), await bid()] == ["placed", "placed"]
    assert (manager.acquire_lock.await_count, manager.release_lock.await_count) == (2, 2)


async def test_a_block_in_redis_goes_through_replaced_methods(redis_locks: Any) -> None:
    manager = redis_locks.RedisBidLockManager()
    manager.acquire_lock = AsyncMock(return_value=True)
    manager.release_lock = AsyncMock(return_value=True)
    async with manager.with_lock("upwork", "p1", 2.5, "me"):
        manager.release_lock.assert_not_awaited()
    manager.acquire_lock.assert_awaited_once_with(**REPLACED, timeout=2.5, holder_id="me")
    manager.release_lock.assert_awaited_once_with(**REPLACED, holder_id="me")
    await manager.close()


async def test_release_lock_and_cleanup_all_work_on_the_class(locks: Any, lock_file: Path) -> None:
    manager_class = locks.BidLockManager
    for name in ("release_lock", "cleanup_all"):
        assert inspect.iscoroutinefunction(getattr(manager_class, name))
        assert inspect.iscoroutinefunction(getattr(manager_class(), name))
    assert await manager_class().acquire_lock("upwork", "p1", holder_id="me")
    assert await manager_class.release_lock("upwork", "p1", "other") is False
    assert await manager_class.release_lock("upwork", "p1", "me") is True
    assert await manager_class().acquire_lock("upwork", "p1", holder_id="me")
    assert await manager_class.cleanup_all() is None
    assert rows(lock_file) == []
    assert manager_class._make_lock_key("upwork", "p1") == "bid:lock:upwork:p1"


def test_expired_rows_are_deleted_through_a_session(locks: Any, lock_file: Path) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    manager = locks.BidLockManager(ttl=0.05)
    assert asyncio.run(manager.acquire_lock("upwork", "p1"))
    engine = create_engine(f"sqlite:///{lock_file}")
    with Session(engine) as session:
        assert _eventually(lambda: locks.BidLockManager._cleanup_expired_locks(session)) == 1
    engine.dispose()
    assert rows(lock_file) == []


def _eventually(count: Any) -> int:
    for _ in range(200):
        if found := count():
            return int(found)
        time.sleep(0.01)
    return 0


async def test_counters_can_be_set(locks: Any) -> None:
    manager = locks.BidLockManager()
    assert await manager.acquire_lock("upwork", "p1")
    manager._lock_attempts = manager._lock_successes = 0
    manager._lock_conflicts = 5
    assert await manager.acquire_lock("upwork", "p2")
    metrics = manager.get_metrics()
    assert (metrics["lock_attempts"], metrics["lock_successes"], metrics["lock_conflicts"]) == (1, 1, 5)
    assert (manager._lock_attempts, manager._lock_conflicts, manager._lock_timeouts) == (1, 5, 0)


async def test_counters_in_redis_can_be_set(redis_locks: Any) -> None:
    manager = redis_locks.RedisBidLockManager()
    assert await manager.acquire_lock("upwork", "p1")
    manager._lock_attempts = manager._lock_successes = 0
    manager._redis_errors = 3
    metrics = manager.get_metrics()
    assert (metrics["lock_attempts"], metrics["lock_successes"], metrics["redis_errors"]) == (0, 0, 3)
    await manager.close()


async def test_locks_are_logged(locks: Any, caplog: pytest.LogCaptureFixture) -> None:
    manager, key = locks.BidLockManager(ttl=60), "bid:lock:upwork:p1"
    with caplog.at_level(logging.INFO):
        async with manager.with_lock("upwork", "p1", holder_id="me"):
            assert await manager.acquire_lock("upwork", "p1", timeout=0, holder_id="you") is False
            assert await manager.release_lock("upwork", "p1", "you") is False
        assert await manager.release_lock("upwork", "p1", "me") is False
        await manager.cleanup_all()
    found = [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name == locks.__name__
    ]
    # The original logs a conflict at each of its polls.
    conflict = ("WARNING", f"Lock conflict: you tried to acquire {key} but it's held by me")
    found = [line for number, line in enumerate(found) if line != conflict or conflict not in found[:number]]
    assert [(*line[:1], line[1].rsplit(" after ")[0]) for line in found[:-1]] == [
        ("INFO", f"Lock acquired: me locked {key} (TTL: 60s)"),
        conflict,
        ("ERROR", f"Lock timeout for {key}"),
        ("WARNING", f"Holder mismatch for {key}: you tried to release but held by me"),
        ("INFO", f"Lock released: me released {key}"),
        ("WARNING", f"No lock found for {key} (holder: me)"),
    ]
    assert found[-1][0] == "INFO"
    assert found[-1][1].startswith("All distributed locks cleared")


async def test_locks_in_redis_are_logged(redis_locks: Any, caplog: pytest.LogCaptureFixture) -> None:
    manager, key = redis_locks.RedisBidLockManager(ttl=60), "bid_lock:upwork:p1"
    with caplog.at_level(logging.INFO):
        async with manager.with_lock("upwork", "p1", holder_id="me"):
            assert await manager.acquire_lock("upwork", "p1", timeout=0, holder_id="you") is False
            assert await manager.release_lock("upwork", "p1", "you") is False
        await manager.cleanup_all()
        await manager.close()
    name = redis_locks.__name__
    found = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == name]
    assert [(*line[:1], line[1].rsplit(" after ")[0]) for line in found][:5] == [
        ("INFO", f"Lock acquired: me locked {key} (TTL: 60s)"),
        ("WARNING", f"Lock timeout: you could not acquire {key}"),
        ("WARNING", f"Holder mismatch for {key}: you tried to release but held by me"),
        ("INFO", f"Lock released: me released {key}"),
        ("INFO", "Cleaned up 0 distributed locks"),
    ]


async def test_the_factory_logs_its_choice(lock_factory: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await lock_factory.create_bid_lock_manager(use_redis=False, ttl=60)
    (line,) = [record for record in caplog.records if record.name == lock_factory.__name__]
    assert line.levelno == logging.INFO
    assert "BidLockManager" in line.getMessage()
    assert line.getMessage().endswith("(TTL: 60s)")


# --- calls ---


@pytest.mark.parametrize("where", ["object", "class", "subclass"])
async def test_complete_async_goes_through_a_replaced_complete(
    llm_service: Any, server: ModelServer, where: str
) -> None:
    class Ours(llm_service.LLMService):  # type: ignore[name-defined,misc]
        def complete(self, prompt: str, **keywords: Any) -> Any:
            return {**super().complete(prompt, **keywords), "cost": 1}

    service = (Ours if where == "subclass" else llm_service.LLMService)(
        base_url=server.base_url, api_key=KEY, enable_circuit_breaker=False
    )
    if where == "subclass":
        answer = await service.complete_async("hello", seed=1)
        assert (answer["content"], answer["cost"]) == ("hello", 1)
        return
    target = service if where == "object" else llm_service.LLMService
    with patch.object(target, "complete", side_effect=KeyError("down")) as complete, pytest.raises(KeyError):
        await service.complete_async("hello", 0.5, system_prompt="s", seed=1)
    assert complete.call_args.kwargs == {
        "prompt": "hello",
        "temperature": 0.5,
        "max_tokens": None,
        "system_prompt": "s",
        "stealth_mode": False,
        "seed": 1,
    }
    assert not server.requests


@pytest.mark.better(raises=AssertionError)
async def test_a_replaced_complete_does_not_stop_the_loop(service: Any) -> None:
    loop, entered, left = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def complete(**_keywords: Any) -> dict[str, Any]:
        loop.call_soon_threadsafe(entered.set)
        return {"content": left.wait(5)}

    service.complete = complete
    call = asyncio.create_task(service.complete_async("p"))
    await entered.wait()
    left.set()
    assert (await call)["content"] is True


def test_the_fallback_calls_a_replaced_complete_by_keywords(service: Any) -> None:
    service.complete = MagicMock(return_value={"content": "x"})
    result = service.complete_with_fallback("hello", max_tokens=7, seed=1)
    service.complete.assert_called_once_with(
        prompt="hello", temperature=None, max_tokens=7, system_prompt=None, seed=1
    )
    assert result == {"content": "x", "fallback_used": False, "attempt": 0}


def test_the_local_model_of_a_subclass_is_of_the_subclass(llm_service: Any, server: ModelServer) -> None:
    class Ours(llm_service.LLMService):  # type: ignore[name-defined,misc]
        def complete(self, prompt: str, **_keywords: Any) -> Any:
            if not self._is_local:
                raise KeyError("cloud")
            return {"content": type(self).__name__}

    cloud = Ours(base_url="http://cloud.test/v1", api_key=KEY)
    with patch(f"{llm_service.__name__}.time.sleep"):
        assert cloud.complete_with_fallback("p")["content"] == "Ours"


def test_the_fallback_to_the_local_model_is_logged(
    llm_service: Any, service: Any, caplog: pytest.LogCaptureFixture
) -> None:
    service._is_local = False
    service.complete = MagicMock(side_effect=KeyError("down"))
    local = MagicMock()
    with (
        patch.object(service, "with_local", return_value=local),
        patch(f"{llm_service.__name__}.time.sleep"),
        caplog.at_level(logging.INFO),
    ):
        service.complete_with_fallback("p")
    texts = [record.getMessage() for record in caplog.records]
    assert "Cloud inference failed: 'down'" in texts
    assert "Attempting fallback to local model..." in texts


def test_a_local_service_registers_its_endpoint_by_keywords(llm_service: Any) -> None:
    with patch(f"{llm_service.__name__}.get_health_checker") as get_health_checker:
        llm_service.LLMService(base_url="http://localhost:9/v1", api_key=KEY)
    get_health_checker.return_value.register_endpoint.assert_called_once_with(
        "http://localhost:9/v1", failure_threshold=3, recovery_timeout_seconds=60
    )


def test_a_prompt_may_be_a_list_of_parts(service: Any, server: ModelServer) -> None:
    parts = [{"type": "text", "text": "what is this?"}]
    service.complete(parts)
    assert server.requests[-1].json["messages"] == [{"role": "user", "content": parts}]


def test_a_stream_of_an_injected_client_has_no_timeout_of_ours(service: Any) -> None:
    service.client = MagicMock()
    list(service.complete_streaming("p"))
    assert "timeout" not in service.client.chat.completions.create.call_args.kwargs


async def test_safe_sleep_of_a_negative_number_returns_at_once(async_helpers: Any) -> None:
    assert await async_helpers.safe_sleep(-1) is None
    assert await async_helpers.safe_sleep(-0.001) is None
