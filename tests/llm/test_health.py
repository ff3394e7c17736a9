"""The health checker and the circuit breakers, as code that was written for the originals uses them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest.mock import MagicMock

import pytest

from arbitrageai_native import LLMService, exceptions, llm_health_check, llm_service
from arbitrageai_native.llm_health_check import (
    CircuitBreakerError,
    CircuitState,
    ExponentialBackoff,
    HealthMetrics,
    LLMHealthChecker,
    get_health_checker,
)
from testing_support.keys import KEY
from testing_support.machine import Stopwatch
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import Connection, FaultyServer

Serve = Callable[..., FaultyServer]
ENDPOINT = "http://localhost:11434/v1"


@pytest.fixture(autouse=True)
def fresh_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_health_check, "_global_health_checker", None)


@pytest.fixture
def checker() -> LLMHealthChecker:
    checker = LLMHealthChecker()
    checker.register_endpoint(ENDPOINT)
    return checker


def test_metrics_are_readable_and_writable() -> None:
    metrics = HealthMetrics(ENDPOINT)
    assert (metrics.endpoint, metrics.state) == (ENDPOINT, CircuitState.CLOSED)
    assert (metrics.failure_threshold, metrics.recovery_timeout_seconds) == (3, 60)
    assert metrics.response_times == []
    when = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc)
    for name in ("last_health_check_at", "last_healthy_at", "opened_at"):
        assert getattr(metrics, name) is None
        setattr(metrics, name, when)
        assert getattr(metrics, name) == when
    for name in ("consecutive_failures", "total_requests", "total_failures"):
        assert getattr(metrics, name) == 0
        setattr(metrics, name, getattr(metrics, name) + 2)
        assert getattr(metrics, name) == 2
    metrics.state = CircuitState.OPEN
    assert metrics.state is CircuitState.OPEN
    metrics.response_times.append(1.5)
    metrics.response_times.extend(float(i) for i in range(150))
    assert len(metrics.response_times) == 151, "only a call drops the oldest"
    del metrics.response_times[1:]
    metrics.response_times[0] = 7
    assert metrics.response_times == [7]
    assert HealthMetrics(ENDPOINT, total_failures=4, response_times=[1, 2]).response_times == [1, 2]


def test_failures_in_a_row_open_and_a_success_closes(checker: LLMHealthChecker) -> None:
    metrics = checker.health_status[ENDPOINT]
    for _ in range(2):
        checker.record_failure(ENDPOINT, "timeout")
    checker.record_success(ENDPOINT, 5)
    for _ in range(3):
        assert checker.should_allow_request(ENDPOINT)
        checker.record_failure(ENDPOINT)
    assert metrics.state is CircuitState.OPEN
    assert abs(metrics.opened_at - datetime.now(timezone.utc)) < timedelta(seconds=5)  # type: ignore[operator]
    assert not checker.should_allow_request(ENDPOINT)
    metrics.opened_at -= timedelta(seconds=61)  # type: ignore[operator]
    assert checker.should_allow_request(ENDPOINT)
    assert metrics.state is CircuitState.HALF_OPEN
    assert not checker.should_allow_request(ENDPOINT), "one probe at a time"
    checker.record_success(ENDPOINT)
    assert metrics.state is CircuitState.CLOSED
    assert checker.should_allow_request(ENDPOINT)


def test_a_failed_probe_opens_again(checker: LLMHealthChecker) -> None:
    metrics = checker.health_status[ENDPOINT]
    metrics.state = CircuitState.OPEN
    metrics.opened_at = datetime.now(timezone.utc) - timedelta(seconds=61)
    assert checker.should_allow_request(ENDPOINT)
    checker.record_failure(ENDPOINT)
    assert metrics.state is CircuitState.OPEN
    assert not checker.should_allow_request(ENDPOINT)


def test_an_endpoint_that_is_not_registered_gets_a_breaker(checker: LLMHealthChecker) -> None:
    assert checker.should_allow_request("http://other")
    for _ in range(3):
        checker.record_failure("http://other")
    assert not checker.should_allow_request("http://other")
    assert checker.get_metrics_summary("http://other")["total_failures"] == 3


def test_the_summary(checker: LLMHealthChecker) -> None:
    checker.record_success(ENDPOINT, 10)
    checker.record_success(ENDPOINT, 10.555)
    checker.record_failure(ENDPOINT)
    summary = checker.get_metrics_summary(ENDPOINT)
    healthy = checker.health_status[ENDPOINT].last_healthy_at
    assert healthy is not None
    assert summary == {
        "endpoint": ENDPOINT,
        "state": "closed",
        "consecutive_failures": 1,
        "total_requests": 3,
        "total_failures": 1,
        "failure_rate": 1 / 3,
        "avg_response_time_ms": 10.28,
        "last_health_check": None,
        "last_healthy_at": healthy.isoformat(),
    }


def test_registering_again_changes_nothing(checker: LLMHealthChecker) -> None:
    checker.record_failure(ENDPOINT)
    checker.register_endpoint(ENDPOINT, failure_threshold=9)
    assert checker.health_status[ENDPOINT].failure_threshold == 3
    assert checker.health_status[ENDPOINT].consecutive_failures == 1


def test_there_is_one_checker_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    first = get_health_checker()
    assert get_health_checker() is first
    monkeypatch.setattr(llm_health_check, "_global_health_checker", None)
    assert get_health_checker() is not first
    assert llm_service.CircuitBreakerError is CircuitBreakerError


# In a service


def service(server: FaultyServer, **settings: Any) -> LLMService:
    return LLMService(base_url=server.base_url, api_key=KEY, **{"max_retries": 0, **settings})


async def test_a_service_counts_in_the_shared_metrics_and_refuses_when_open(serve: Serve) -> None:
    server = serve(faulty.answer(status=500))
    client = service(server, max_retries=1, retry_base=0.01)
    metrics = get_health_checker().health_status[server.base_url]
    for count in (1, 2, 3):
        with pytest.raises(exceptions.InternalServerError):
            await client.complete_async("hi")
        assert metrics.consecutive_failures == count
    assert len(server.requests) == 6, "each call with its retries counts once"
    watch = Stopwatch()
    with pytest.raises(CircuitBreakerError):
        await client.complete_async("hi", stealth_mode=True)
    assert watch.seconds < 1.5 + watch.held_up, "an open circuit is told at once"
    assert len(server.requests) == 6


def test_an_open_circuit_is_told_before_a_blocking_stealth_wait(serve: Serve) -> None:
    server = serve(faulty.answer())
    client = service(server)
    get_health_checker().health_status[server.base_url].state = CircuitState.OPEN
    watch = Stopwatch()
    with pytest.raises(CircuitBreakerError):
        client.complete("hi", stealth_mode=True)
    assert watch.seconds < 1.5 + watch.held_up


async def test_a_circuit_that_was_opened_from_python_is_open_for_the_native_side(serve: Serve) -> None:
    server = serve(faulty.answer())
    client = service(server)
    metrics = client._health_checker.get_health_status(server.base_url)  # type: ignore[union-attr]
    assert metrics is not None
    metrics.state = CircuitState.OPEN
    with pytest.raises(CircuitBreakerError):
        await client.complete_async("hi")
    metrics.opened_at = datetime.now(timezone.utc) - timedelta(seconds=60)
    assert (await client.complete_async("hi"))["content"] == "hello"
    assert metrics.state is CircuitState.CLOSED
    assert len(metrics.response_times) == 1


async def test_the_callers_mistakes_do_not_count(serve: Serve) -> None:
    client = service(serve(faulty.answer(status=401)))
    for _ in range(5):
        with pytest.raises(exceptions.AuthenticationError):
            await client.complete_async("hi")


async def test_one_probe_at_a_time_and_a_cancelled_one_gives_its_place_back(serve: Serve) -> None:
    came = asyncio.Event()
    loop = asyncio.get_running_loop()

    def silent(connection: Connection) -> bool:
        loop.call_soon_threadsafe(came.set)
        return connection.hang()

    server = serve(silent, faulty.answer())
    client = service(server)
    metrics = get_health_checker().health_status[server.base_url]
    metrics.state = CircuitState.HALF_OPEN
    probe = asyncio.create_task(client.complete_async("hi"))
    await came.wait()
    with pytest.raises(CircuitBreakerError):
        await client.complete_async("hi")
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    for _ in range(200):
        try:
            assert (await client.complete_async("hi"))["content"] == "hello"
            break
        except CircuitBreakerError:
            await asyncio.sleep(0.01)
    assert metrics.state is CircuitState.CLOSED


def test_who_has_a_breaker() -> None:
    local, cloud = "http://localhost:1/v1", "http://cloud/v1"
    assert LLMService(base_url=local)._health_checker is get_health_checker()
    assert LLMService(base_url=local, enable_circuit_breaker=False)._health_checker is None
    assert LLMService(base_url=cloud)._health_checker is None
    assert LLMService(base_url=cloud, enable_circuit_breaker="always")._health_checker is get_health_checker()


async def test_another_checker_in_its_place_is_asked_and_told(serve: Serve) -> None:
    server = serve(faulty.answer(), faulty.answer(), faulty.answer(status=500), faulty.answer(status=400))
    client = service(server)
    checker = client._health_checker = MagicMock()
    client.complete("hi")
    await client.complete_async("hi")
    checker.should_allow_request.assert_called_with(server.base_url)
    assert checker.record_success.call_count == 2
    assert checker.record_success.call_args.args[0] == server.base_url
    for _ in range(2):
        with pytest.raises(exceptions.APIStatusError):
            await client.complete_async("hi")
    checker.record_failure.assert_called_once()
    checker.should_allow_request.return_value = False
    with pytest.raises(CircuitBreakerError):
        await client.complete_async("hi")
    assert len(server.requests) == 4


async def test_a_replaced_method_of_the_checker_is_called(serve: Serve) -> None:
    client = service(serve(faulty.answer()))
    client._health_checker.record_success = MagicMock()  # type: ignore[union-attr,method-assign]
    await client.complete_async("hi")
    client._health_checker.record_success.assert_called_once()  # type: ignore[union-attr]


# Health checks


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([200], True),
        ([404, 200], True),
        ([404, 404, 200], True),
        ([404, 404, 404], False),
        ([404, 500], False),
        ([503], False),
    ],
)
async def test_a_health_check_asks_until_one_path_is_known(
    statuses: list[int], expected: bool, serve: Serve, checker: LLMHealthChecker
) -> None:
    server = serve(*(faulty.answer(status=status) for status in statuses))
    checker.register_endpoint(server.base_url)
    assert await checker.health_check(server.base_url) is expected
    paths = [request.target for request in server.requests]
    assert paths == ["/api/health", "/api/version", "/v1/models"][: len(statuses)]
    assert all(request.method == "GET" for request in server.requests)
    metrics = checker.health_status[server.base_url]
    assert metrics.last_health_check_at is not None
    assert metrics.last_healthy_at is None, "no call has succeeded"


async def test_a_health_check_never_raises(serve: Serve, checker: LLMHealthChecker) -> None:
    watch = Stopwatch()
    assert await checker.health_check(serve(faulty.hang).base_url, timeout_seconds=0.1) is False
    assert watch.seconds < 4 + watch.held_up
    for endpoint in (faulty.refusing(), "nonsense", "", serve(faulty.reset).base_url):
        assert await checker.health_check(endpoint) is False
        assert checker.get_health_status(endpoint).last_health_check_at is None, "nothing answered"


# Waiting


async def test_backoff() -> None:
    backoff = ExponentialBackoff()
    assert backoff.get_delay_ms(-1) == 0
    for attempt, middle in ((0, 100), (1, 200), (3, 800), (10, 10_000), (10_000, 10_000)):
        assert middle * 0.9 - 1 <= backoff.get_delay_ms(attempt) <= middle * 1.1
    assert isinstance(backoff.get_delay_ms(0), int)
    assert ExponentialBackoff(initial_delay_ms=0).get_delay_ms(0) == 1
    started = time.monotonic()
    await ExponentialBackoff(initial_delay_ms=50, jitter_factor=0).wait(0)
    assert 0.05 <= time.monotonic() - started < 30
