"""The call with fallback: the attempts, their order, what is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock, call, patch

import pytest

from arbitrageai_native import LLMService, exceptions, llm_health_check, llm_service
from arbitrageai_native.llm_service import CircuitBreakerError, ModelConfig
from testing_support.keys import KEY
from testing_support.machine import Stopwatch
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import FaultyServer

Serve = Callable[..., FaultyServer]


@pytest.fixture(autouse=True)
def fresh_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_health_check, "_global_health_checker", None)


def asynchronous(mock: Mock) -> Callable[..., Any]:
    async def call_mock(*arguments: Any, **keywords: Any) -> Any:
        return mock(*arguments, **keywords)

    return call_mock


class Attempts:
    """A service whose attempts are mocks, in both kinds of method."""

    def __init__(self, outcomes: list[Any], **settings: Any) -> None:
        self.service = LLMService(base_url="http://cloud/v1", api_key=KEY, **settings)
        # Plain mocks: one with magic methods, or of a coroutine, keeps the loop of the test for milliseconds.
        self.local = Mock()
        self.attempts = Mock(side_effect=outcomes)
        self.local_attempts = Mock(return_value={"content": "local"})
        self.service.complete = self.attempts  # type: ignore[method-assign]
        self.service.complete_async = asynchronous(self.attempts)  # type: ignore[method-assign]
        self.local.complete = self.local_attempts
        self.local.complete_async = asynchronous(self.local_attempts)

    async def run(self, kind: str, **arguments: Any) -> tuple[dict[str, Any], list[float]]:
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        with (
            patch.object(LLMService, "with_local", Mock(return_value=self.local)) as self.with_local,
            patch("arbitrageai_native.llm_service.time.sleep", waits.append),
            patch("arbitrageai_native._native.sleep", sleep),
        ):
            if kind == "blocking":
                return self.service.complete_with_fallback("hi", **arguments), waits
            return await self.service.complete_with_fallback_async("hi", **arguments), waits


@pytest.fixture(params=["blocking", "asynchronous"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def arguments_of(kind: str, timeout: float) -> dict[str, Any]:
    """What an attempt is given: a `complete` that replaces ours need not know the attempt's timeout."""
    arguments = {"prompt": "hi", "temperature": None, "max_tokens": None, "system_prompt": None}
    return arguments if kind == "blocking" else {**arguments, "timeout": timeout}


async def test_the_first_attempt_may_do(kind: str) -> None:
    attempts = Attempts([{"content": "x"}])
    result, waits = await attempts.run(kind, top_p=1)
    assert result == {"content": "x", "fallback_used": False, "attempt": 0}
    assert waits == []
    attempts.attempts.assert_called_once_with(**arguments_of(kind, timeout=10), top_p=1)


async def test_the_second_comes_two_seconds_later_and_has_twice_the_time(kind: str) -> None:
    attempts = Attempts([RuntimeError("one"), {"content": "x"}])
    result, waits = await attempts.run(kind)
    assert result == {"content": "x", "fallback_used": False, "attempt": 1}
    assert waits == [2]
    assert attempts.attempts.call_args_list[1] == call(**arguments_of(kind, timeout=20))


async def test_then_the_local_model_answers(kind: str) -> None:
    attempts = Attempts([RuntimeError("one"), RuntimeError("two")], enable_circuit_breaker=False)
    result, waits = await attempts.run(kind)
    assert result == {"content": "local", "fallback_used": True, "attempt": 2, "original_error": "two"}
    assert waits == [2, 5]
    attempts.with_local.assert_called_once_with(enable_circuit_breaker=False)
    attempts.local_attempts.assert_called_once_with(**arguments_of(kind, timeout=30))


@pytest.mark.parametrize("opens_at", [0, 1])
async def test_an_open_circuit_skips_straight_to_the_local_model(kind: str, opens_at: int) -> None:
    outcomes: list[Exception] = [RuntimeError("one")] * opens_at
    attempts = Attempts([*outcomes, CircuitBreakerError("open")])
    result, waits = await attempts.run(kind)
    assert (result["attempt"], result["original_error"]) == (2, "open")
    assert waits == [2] * opens_at


async def test_if_all_fail_the_clouds_error_is_told_and_the_local_one_as_its_cause(kind: str) -> None:
    cloud, local = RuntimeError("two"), RuntimeError("local")
    attempts = Attempts([RuntimeError("one"), cloud])
    attempts.local_attempts.side_effect = local
    with pytest.raises(RuntimeError, match="two") as caught:
        await attempts.run(kind)
    assert caught.value is cloud
    assert caught.value.__cause__ is local


@pytest.mark.parametrize("reason", ["switched off", "already local"])
async def test_without_a_fallback_there_are_two_attempts(kind: str, reason: str) -> None:
    attempts = Attempts([RuntimeError("one"), RuntimeError("two")])
    attempts.service.enable_fallback = reason != "switched off"
    attempts.service._is_local = reason == "already local"
    with pytest.raises(RuntimeError, match="two"):
        await attempts.run(kind)
    attempts.local_attempts.assert_not_called()


async def test_a_bad_argument_is_told_at_once(kind: str) -> None:
    attempts = Attempts([exceptions.InvalidArgumentError("top_p")])
    with pytest.raises(ValueError, match="top_p"):
        await attempts.run(kind)
    attempts.attempts.assert_called_once()


async def test_times_are_settings_and_arguments(kind: str) -> None:
    attempts = Attempts(
        [RuntimeError("one"), RuntimeError("two")], fallback_timeouts=(1, 2, 3), fallback_delays=(0.5, 0)
    )
    create = Mock(side_effect=[RuntimeError("one"), RuntimeError("two")])
    if kind == "blocking":
        del attempts.service.complete
        attempts.service.client = Mock(chat=Mock(completions=Mock(create=create)))
    _, waits = await attempts.run(kind)
    assert waits == [0.5]
    made = create if kind == "blocking" else attempts.attempts
    assert [attempt.kwargs["timeout"] for attempt in made.call_args_list] == [1, 2]
    if kind == "asynchronous":
        assert attempts.local_attempts.call_args.kwargs["timeout"] == 3
    attempts = Attempts([{"content": "x"}])
    await attempts.run(kind, timeout=7)
    assert attempts.attempts.call_args.kwargs["timeout"] == 7


async def test_a_deadline_that_is_short_is_the_first_attempts_too(kind: str) -> None:
    attempts = Attempts([{"content": "x"}])
    await attempts.run(kind, deadline=0.5)
    assert 0 <= attempts.attempts.call_args.kwargs["deadline"] <= 0.5


async def test_the_callers_model_is_the_clouds_alone(kind: str) -> None:
    attempts = Attempts([RuntimeError("one"), RuntimeError("two")])
    await attempts.run(kind, model="theirs")
    assert [one.kwargs["model"] for one in attempts.attempts.call_args_list] == ["theirs"] * 2
    assert "model" not in attempts.local_attempts.call_args.kwargs


async def test_a_deadline_limits_all_attempts_together(kind: str) -> None:
    attempts = Attempts([RuntimeError("one"), {"content": "x"}])
    with pytest.raises(RuntimeError, match="one"):
        await attempts.run(kind, deadline=1.5)
    assert attempts.attempts.call_args.kwargs["deadline"] <= 1.5


async def test_it_works_on_real_servers(kind: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, local = serve(faulty.answer(status=503)), serve(faulty.answer())
    monkeypatch.setattr(
        llm_service, "_default_model_config", ModelConfig(local_base_url=local.base_url, local_model="l")
    )
    service = LLMService(base_url=cloud.base_url, api_key=KEY, max_retries=0, fallback_delays=(0.05, 0.05))
    service._is_local = False
    watch = Stopwatch()
    if kind == "blocking":
        result = await asyncio.to_thread(service.complete_with_fallback, "hi")
    else:
        result = await service.complete_with_fallback_async("hi")
    assert watch.seconds < 3 + watch.held_up
    assert (result["content"], result["fallback_used"], result["attempt"]) == ("hello", True, 2)
    assert result["original_error"] == "Error code: 503 - it was 503"
    assert (len(cloud.requests), local.requests[0].json["model"]) == (2, "l")
