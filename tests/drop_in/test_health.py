"""`llm_health_check`, sentence by sentence."""

import asyncio
import inspect
import time
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest.mock import patch

import pytest

from arbitrageai_native.testing import Failure, ModelServer
from testing_support.keys import KEY
from testing_support.machine import Stopwatch

URL = "http://localhost:9/v1"
FAST = {"retry-after-ms": "1"}


@pytest.fixture
def checker(health: Any) -> Any:
    """A checker that knows one endpoint."""
    checker = health.LLMHealthChecker()
    checker.register_endpoint(URL)
    return checker


@pytest.fixture
def guarded(llm_service: Any, server: ModelServer) -> Any:
    """A service of `server`, with the breaker that a local endpoint has."""
    return llm_service.LLMService(base_url=server.base_url, api_key=KEY)


def metrics_of(guarded: Any) -> Any:
    return guarded._health_checker.get_health_status(guarded.base_url)


def open_circuit(guarded: Any) -> Any:
    """Open the service's circuit, and let its recovery time be over."""
    for _ in range(3):
        guarded._health_checker.record_failure(guarded.base_url)
    metrics = metrics_of(guarded)
    metrics.opened_at = datetime.now(timezone.utc) - timedelta(seconds=61)
    return metrics


def test_circuit_states(health: Any) -> None:
    assert {state.name: state.value for state in health.CircuitState} == {
        "CLOSED": "closed",
        "OPEN": "open",
        "HALF_OPEN": "half_open",
    }


def test_circuit_breaker_error_is_an_exception_shared_with_llm_service(health: Any, llm_service: Any) -> None:
    assert issubclass(health.CircuitBreakerError, Exception)
    assert llm_service.CircuitBreakerError is health.CircuitBreakerError


def test_the_global_checker_is_made_once(health: Any) -> None:
    checker = health.get_health_checker()
    assert isinstance(checker, health.LLMHealthChecker)
    assert health.get_health_checker() is checker
    assert health._global_health_checker is checker


def test_setting_the_global_checker_to_none_resets_it(health: Any) -> None:
    checker = health.get_health_checker()
    health._global_health_checker = None
    assert health.get_health_checker() is not checker


def test_a_replaced_global_checker_is_used_by_new_services(health: Any, llm_service: Any) -> None:
    health._global_health_checker = health.LLMHealthChecker()
    service = llm_service.LLMService(base_url=URL)
    assert service._health_checker is health._global_health_checker
    assert URL in health._global_health_checker.health_status


# HealthMetrics


def test_health_metrics_defaults(health: Any) -> None:
    metrics = health.HealthMetrics(URL)
    assert metrics.endpoint == URL
    assert metrics.state is health.CircuitState.CLOSED
    assert (metrics.consecutive_failures, metrics.total_requests, metrics.total_failures) == (0, 0, 0)
    assert (metrics.last_health_check_at, metrics.last_healthy_at, metrics.opened_at) == (None, None, None)
    assert (metrics.failure_threshold, metrics.recovery_timeout_seconds) == (3, 60)
    assert list(metrics.response_times) == []


def test_health_metrics_take_keywords(health: Any) -> None:
    metrics = health.HealthMetrics(endpoint=URL, failure_threshold=5, recovery_timeout_seconds=10)
    assert (metrics.failure_threshold, metrics.recovery_timeout_seconds) == (5, 10)


def test_health_metrics_are_writable(health: Any) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
    metrics = health.HealthMetrics(URL)
    for name, value in {
        "endpoint": "http://other/v1",
        "state": health.CircuitState.OPEN,
        "last_health_check_at": moment,
        "last_healthy_at": moment,
        "consecutive_failures": 2,
        "total_requests": 10,
        "total_failures": 4,
        "opened_at": moment,
        "failure_threshold": 7,
        "recovery_timeout_seconds": 8,
    }.items():
        setattr(metrics, name, value)
        assert getattr(metrics, name) == value
    metrics.response_times.append(3.5)
    assert list(metrics.response_times) == [3.5]


def test_times_are_aware_utc(checker: Any) -> None:
    checker.record_success(URL)
    moment = checker.get_health_status(URL).last_healthy_at
    assert moment.utcoffset() == timedelta(0)
    assert abs((datetime.now(timezone.utc) - moment).total_seconds()) < 5


def test_the_last_100_response_times_are_kept(checker: Any) -> None:
    for milliseconds in range(150):
        checker.record_success(URL, milliseconds)
    assert list(checker.get_health_status(URL).response_times) == list(range(50, 150))


def test_written_metrics_are_shared_with_calls(guarded: Any, health: Any, llm_service: Any) -> None:
    metrics = metrics_of(guarded)
    metrics.state = health.CircuitState.OPEN
    metrics.opened_at = datetime.now(timezone.utc)
    with pytest.raises(llm_service.CircuitBreakerError):
        guarded.complete("p")
    metrics.state = health.CircuitState.CLOSED
    assert guarded.complete("p")["content"] == "p"


def test_a_written_threshold_is_obeyed(checker: Any, health: Any) -> None:
    metrics = checker.get_health_status(URL)
    metrics.failure_threshold = 1
    checker.record_failure(URL)
    assert metrics.state is health.CircuitState.OPEN


# LLMHealthChecker


def test_checker_interval(health: Any) -> None:
    assert health.LLMHealthChecker().check_interval_seconds == 30
    assert health.LLMHealthChecker(check_interval_seconds=5).check_interval_seconds == 5


def test_health_status_is_a_dict_of_metrics_by_endpoint(checker: Any, health: Any) -> None:
    assert isinstance(checker.health_status, dict)
    assert list(checker.health_status) == [URL]
    assert isinstance(checker.health_status[URL], health.HealthMetrics)
    assert checker.get_health_status(URL) is checker.health_status[URL]


def test_metrics_put_into_health_status_are_used(health: Any) -> None:
    checker = health.LLMHealthChecker()
    metrics = health.HealthMetrics(URL, failure_threshold=1)
    checker.health_status[URL] = metrics
    checker.record_failure(URL)
    assert checker.should_allow_request(URL) is False


def test_register_endpoint_takes_threshold_and_recovery(checker: Any) -> None:
    checker.register_endpoint("http://other/v1", failure_threshold=5, recovery_timeout_seconds=10)
    metrics = checker.get_health_status("http://other/v1")
    assert (metrics.failure_threshold, metrics.recovery_timeout_seconds) == (5, 10)


def test_record_success_counts(checker: Any, health: Any) -> None:
    checker.record_failure(URL)
    checker.record_success(URL, response_time_ms=12.5)
    metrics = checker.get_health_status(URL)
    assert (metrics.total_requests, metrics.total_failures, metrics.consecutive_failures) == (2, 1, 0)
    assert list(metrics.response_times) == [12.5]
    assert metrics.state is health.CircuitState.CLOSED


def test_record_failure_counts(checker: Any) -> None:
    checker.record_failure(URL, error="connection refused")
    checker.record_failure(URL)
    metrics = checker.get_health_status(URL)
    assert (metrics.total_requests, metrics.total_failures, metrics.consecutive_failures) == (2, 2, 2)
    assert metrics.opened_at is None


def test_metrics_summary(checker: Any) -> None:
    checker.record_success(URL, 10)
    checker.record_success(URL, 10.126)
    checker.record_failure(URL)
    checker.record_failure(URL)
    healthy = checker.get_health_status(URL).last_healthy_at
    assert checker.get_metrics_summary(URL) == {
        "endpoint": URL,
        "state": "closed",
        "consecutive_failures": 2,
        "total_requests": 4,
        "total_failures": 2,
        "failure_rate": 0.5,
        "avg_response_time_ms": 10.06,
        "last_health_check": None,
        "last_healthy_at": healthy.isoformat(),
    }


async def test_health_check_is_true_on_200(health: Any, server: ModelServer) -> None:
    checker = health.LLMHealthChecker()
    checker.register_endpoint(server.base_url)
    assert await checker.health_check(server.base_url) is True
    assert [(request.method, request.path) for request in server.requests] == [("GET", "/api/health")]
    assert checker.get_health_status(server.base_url).last_health_check_at is not None


async def test_health_check_is_false_on_another_status(health: Any, server: ModelServer) -> None:
    server.application.healthy = False
    assert await health.LLMHealthChecker().health_check(server.base_url) is False


async def test_health_check_never_raises(health: Any, unused_tcp_port: int) -> None:
    checker = health.LLMHealthChecker()
    for endpoint in (f"http://127.0.0.1:{unused_tcp_port}/v1", "not a url", ""):
        assert await checker.health_check(endpoint, timeout_seconds=1) is False


async def test_health_check_ends_after_its_timeout(health: Any) -> None:
    writers: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        watch = Stopwatch()
        assert await health.LLMHealthChecker().health_check(f"http://127.0.0.1:{port}", 0.2) is False
        assert 0.15 <= watch.seconds < 3 + watch.held_up
        for writer in writers:
            writer.close()
            await writer.wait_closed()


# The breaker


def test_consecutive_failures_open_the_circuit(checker: Any, health: Any) -> None:
    metrics = checker.get_health_status(URL)
    for _ in range(2):
        checker.record_failure(URL)
    assert checker.should_allow_request(URL) is True
    checker.record_success(URL)
    for _ in range(2):
        checker.record_failure(URL)
    assert metrics.state is health.CircuitState.CLOSED
    checker.record_failure(URL)
    assert metrics.state is health.CircuitState.OPEN
    assert metrics.opened_at is not None
    assert checker.should_allow_request(URL) is False


def test_after_the_recovery_time_the_circuit_is_half_open(checker: Any, health: Any) -> None:
    metrics = checker.get_health_status(URL)
    for _ in range(3):
        checker.record_failure(URL)
    metrics.opened_at = datetime.now(timezone.utc) - timedelta(seconds=59)
    assert checker.should_allow_request(URL) is False
    metrics.opened_at = datetime.now(timezone.utc) - timedelta(seconds=61)
    assert checker.should_allow_request(URL) is True
    assert metrics.state is health.CircuitState.HALF_OPEN


def test_a_success_closes_a_half_open_circuit(checker: Any, health: Any) -> None:
    metrics = checker.get_health_status(URL)
    metrics.state = health.CircuitState.HALF_OPEN
    checker.record_success(URL)
    assert metrics.state is health.CircuitState.CLOSED
    assert checker.should_allow_request(URL) is True


def test_a_recovery_time_of_zero_lets_the_next_call_through(health: Any) -> None:
    checker = health.LLMHealthChecker()
    checker.register_endpoint(URL, failure_threshold=1, recovery_timeout_seconds=0)
    checker.record_failure(URL)
    assert checker.should_allow_request(URL) is True


@pytest.mark.better
def test_half_open_lets_one_probe_through_at_a_time(checker: Any, health: Any) -> None:
    metrics = checker.get_health_status(URL)
    metrics.state = health.CircuitState.HALF_OPEN
    assert [checker.should_allow_request(URL) for _ in range(3)] == [True, False, False]


@pytest.mark.better
def test_a_failed_probe_opens_the_circuit_again(checker: Any, health: Any) -> None:
    metrics = checker.get_health_status(URL)
    metrics.state = health.CircuitState.HALF_OPEN
    checker.should_allow_request(URL)
    checker.record_failure(URL)
    assert metrics.state is health.CircuitState.OPEN
    assert checker.should_allow_request(URL) is False


def test_an_unknown_endpoint_is_allowed(checker: Any) -> None:
    assert checker.should_allow_request("http://unknown/v1") is True
    checker.record_failure("http://unknown/v1")
    checker.record_success("http://unknown/v1")


def test_a_call_counts_once_after_its_retries(guarded: Any, server: ModelServer, errors: Any) -> None:
    server.script(*[Failure(500, headers=FAST)] * 3)
    with pytest.raises(errors.InternalServerError):
        guarded.complete("p")
    metrics = metrics_of(guarded)
    assert (metrics.total_requests, metrics.total_failures) == (1, 1)
    server.script(Failure(500, headers=FAST))
    guarded.complete("p")
    assert (metrics.total_requests, metrics.total_failures, metrics.consecutive_failures) == (2, 1, 0)


@pytest.mark.parametrize("method", ["complete", "complete_async"])
def test_an_open_circuit_raises_at_once(
    guarded: Any, server: ModelServer, llm_service: Any, method: str
) -> None:
    for _ in range(3):
        guarded._health_checker.record_failure(guarded.base_url)
    calls = {
        "complete": lambda: guarded.complete("p", stealth_mode=True),
        "complete_async": lambda: asyncio.run(guarded.complete_async("p")),
    }
    watch = Stopwatch()
    with pytest.raises(llm_service.CircuitBreakerError):
        calls[method]()
    assert watch.seconds < 1 + watch.held_up
    assert not server.requests


def test_failed_calls_open_the_circuit(
    guarded: Any, server: ModelServer, errors: Any, llm_service: Any
) -> None:
    server.script(*[Failure(500, headers={"x-should-retry": "false"})] * 3)
    for _ in range(3):
        with pytest.raises(errors.InternalServerError):
            guarded.complete("p")
    with pytest.raises(llm_service.CircuitBreakerError):
        guarded.complete("p")
    assert len(server.requests) == 3


def test_a_call_after_the_recovery_time_closes_the_circuit(guarded: Any, health: Any) -> None:
    metrics = open_circuit(guarded)
    guarded.complete("p")
    assert metrics.state is health.CircuitState.CLOSED


@pytest.mark.better
@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_the_callers_own_mistakes_do_not_count(
    guarded: Any, server: ModelServer, errors: Any, status: int
) -> None:
    server.script(Failure(status))
    with pytest.raises(errors.APIStatusError):
        guarded.complete("p")
    assert (metrics_of(guarded).total_failures, metrics_of(guarded).consecutive_failures) == (0, 0)


@pytest.mark.parametrize("status", [408, 409, 429])
def test_these_mistakes_count(guarded: Any, server: ModelServer, errors: Any, status: int) -> None:
    server.script(Failure(status, headers={"x-should-retry": "false"}))
    with pytest.raises(errors.APIStatusError):
        guarded.complete("p")
    assert (metrics_of(guarded).total_failures, metrics_of(guarded).consecutive_failures) == (1, 1)


# ExponentialBackoff


def test_backoff_grows_and_is_capped(health: Any) -> None:
    backoff = health.ExponentialBackoff(jitter_factor=0)
    delays = [backoff.get_delay_ms(attempt) for attempt in range(9)]
    assert delays == [100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000]


def test_backoff_arguments(health: Any) -> None:
    backoff = health.ExponentialBackoff(initial_delay_ms=10, max_delay_ms=50, base=3.0, jitter_factor=0)
    assert [backoff.get_delay_ms(attempt) for attempt in range(3)] == [10, 30, 50]


def test_backoff_of_a_negative_attempt_is_0(health: Any) -> None:
    assert health.ExponentialBackoff().get_delay_ms(-1) == 0


def test_backoff_is_jittered_after_the_cap(health: Any) -> None:
    backoff = health.ExponentialBackoff()
    delays = {backoff.get_delay_ms(20) for _ in range(200)}
    assert all(isinstance(delay, int) and 9000 <= delay <= 11000 for delay in delays)
    assert len(delays) > 10
    assert max(delays) > 10000


def test_backoff_is_at_least_1(health: Any) -> None:
    assert health.ExponentialBackoff(initial_delay_ms=0, jitter_factor=0).get_delay_ms(0) == 1


async def test_backoff_wait(health: Any) -> None:
    backoff = health.ExponentialBackoff(initial_delay_ms=100, jitter_factor=0)
    start = time.monotonic()
    await backoff.wait(0)
    assert 0.09 <= time.monotonic() - start < 30
    with patch.object(backoff, "get_delay_ms", return_value=1) as delay:
        await backoff.wait(5)
    delay.assert_called_once_with(5)


def test_coroutine_functions(health: Any) -> None:
    assert inspect.iscoroutinefunction(health.LLMHealthChecker.health_check)
    assert inspect.iscoroutinefunction(health.ExponentialBackoff.wait)
