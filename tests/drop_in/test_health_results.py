"""`llm_health_check`: what its methods return, keep and log, over both."""

import asyncio
import copy
import dataclasses
import json
import logging
import pickle
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest.mock import patch

import pytest

from arbitrageai_native.testing import Failure, ModelServer
from testing_support.keys import KEY

URL = "http://localhost:9/v1"


@pytest.fixture
def checker(health: Any) -> Any:
    """A checker that knows nothing."""
    return health.LLMHealthChecker()


def lines(caplog: pytest.LogCaptureFixture, mark: str) -> list[tuple[int, str]]:
    """Level and text of the records that begin with a mark."""
    found = [(record.levelno, record.getMessage()) for record in caplog.records]
    return [(level, text) for level, text in found if text.startswith(mark)]


def test_register_endpoint_returns_the_metrics_and_keeps_those_that_are_there(checker: Any) -> None:
    metrics = checker.register_endpoint(URL, failure_threshold=2, recovery_timeout_seconds=7)
    assert (metrics.endpoint, metrics.failure_threshold, metrics.recovery_timeout_seconds) == (URL, 2, 7)
    assert checker.register_endpoint(URL, 9, 9) is metrics
    assert metrics.failure_threshold == 2


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_health_status", ()),
        ("record_success", (5,)),
        ("record_failure", ("down",)),
        ("should_allow_request", ()),
        ("get_metrics_summary", ()),
    ],
)
def test_every_method_registers_an_unknown_endpoint(checker: Any, method: str, arguments: tuple[Any]) -> None:
    getattr(checker, method)(URL, *arguments)
    assert checker.health_status[URL].failure_threshold == 3


def test_get_health_status_makes_the_metrics(checker: Any) -> None:
    metrics = checker.get_health_status(URL)
    assert metrics.endpoint == URL
    assert checker.get_health_status(URL) is metrics


def test_the_circuit_of_an_endpoint_of_ones_own_opens(checker: Any) -> None:
    for _ in range(3):
        checker.record_failure(URL, "down")
    assert checker.should_allow_request(URL) is False


def test_the_summary_of_an_unknown_endpoint_has_all_members(checker: Any) -> None:
    assert checker.get_metrics_summary(URL) == {
        "endpoint": URL,
        "state": "closed",
        "consecutive_failures": 0,
        "total_requests": 0,
        "total_failures": 0,
        "failure_rate": 0,
        "avg_response_time_ms": 0,
        "last_health_check": None,
        "last_healthy_at": None,
    }


def test_a_success_without_a_time_keeps_none(checker: Any) -> None:
    checker.record_success(URL)
    checker.record_success(URL, 0)
    checker.record_success(URL, 10)
    assert checker.get_health_status(URL).response_times == [10]
    assert checker.get_metrics_summary(URL)["avg_response_time_ms"] == 10


def test_response_times_are_a_list_of_what_was_given(checker: Any) -> None:
    for milliseconds in (100, 1.5):
        checker.record_success(URL, milliseconds)
    times = checker.get_health_status(URL).response_times
    assert type(times) is list
    assert [type(value) for value in times] == [int, float]
    assert json.dumps([*times, 3]) == "[100, 1.5, 3]"
    assert times + [2] == [100, 1.5, 2]  # noqa: RUF005, that it works is the subject


def test_the_length_of_the_history_may_be_set_on_one_object(checker: Any, health: Any) -> None:
    assert health.HealthMetrics.max_response_time_history == 100
    metrics = checker.register_endpoint(URL)
    metrics.max_response_time_history = 2
    for milliseconds in (1, 2, 3):
        checker.record_success(URL, milliseconds)
    assert metrics.response_times == [2, 3]
    assert health.HealthMetrics("other").max_response_time_history == 100


def test_calls_keep_their_response_times(llm_service: Any, server: ModelServer) -> None:
    service = llm_service.LLMService(base_url=server.base_url, api_key=KEY)
    metrics = service._health_checker.get_health_status(service.base_url)
    metrics.max_response_time_history = 2
    for _ in range(3):
        service.complete("p")
    assert len(metrics.response_times) == 2
    assert all(milliseconds > 0 for milliseconds in metrics.response_times)


def test_an_open_circuit_stays_open_after_a_success(checker: Any, health: Any) -> None:
    for _ in range(3):
        checker.record_failure(URL)
    metrics = checker.get_health_status(URL)
    opened_at = metrics.opened_at
    checker.record_success(URL)
    assert (metrics.state, metrics.opened_at) == (health.CircuitState.OPEN, opened_at)
    assert metrics.consecutive_failures == 0


def test_half_open_begins_without_failures(checker: Any, health: Any) -> None:
    for _ in range(3):
        checker.record_failure(URL)
    metrics = checker.get_health_status(URL)
    metrics.opened_at = datetime.now(timezone.utc) - timedelta(seconds=61)
    assert checker.should_allow_request(URL) is True
    assert (metrics.state, metrics.consecutive_failures) == (health.CircuitState.HALF_OPEN, 0)


def test_health_metrics_are_a_dataclass(health: Any) -> None:
    metrics = health.HealthMetrics(URL, total_failures=2)
    assert [field.name for field in dataclasses.fields(metrics)] == [
        "endpoint",
        "state",
        "last_health_check_at",
        "last_healthy_at",
        "consecutive_failures",
        "total_requests",
        "total_failures",
        "opened_at",
        "failure_threshold",
        "recovery_timeout_seconds",
        "response_times",
    ]
    assert dataclasses.asdict(metrics)["total_failures"] == 2
    assert dataclasses.replace(metrics, total_failures=3).total_failures == 3
    assert metrics == health.HealthMetrics(URL, total_failures=2)
    assert metrics != health.HealthMetrics("http://other/v1", total_failures=2)
    assert repr(metrics).startswith(
        f"HealthMetrics(endpoint={URL!r}, state=<CircuitState.CLOSED: 'closed'>, "
    )
    with pytest.raises(TypeError):
        hash(metrics)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda found: pickle.loads(pickle.dumps(found))]
)
def test_a_copy_of_metrics_has_a_state_of_its_own(health: Any, copied: Any) -> None:
    metrics = health.HealthMetrics(URL, response_times=[1.5])
    metrics.max_response_time_history = 7
    other = copied(metrics)
    assert other == metrics
    assert other.max_response_time_history == 7
    other.total_requests += 1
    assert metrics.total_requests == 0


@pytest.mark.parametrize("threshold", [-1, 0, 1.5, float("inf")])
def test_any_number_is_a_threshold(health: Any, threshold: float) -> None:
    checker = health.LLMHealthChecker()
    metrics = checker.register_endpoint(URL, failure_threshold=threshold)
    assert metrics.failure_threshold == threshold
    checker.record_failure(URL)
    assert checker.should_allow_request(URL) is (threshold > 1)
    checker.record_failure(URL)
    assert checker.should_allow_request(URL) is (threshold > 2)


def test_backoff_is_a_dataclass(health: Any) -> None:
    backoff = health.ExponentialBackoff(base=3.0)
    names = ["initial_delay_ms", "max_delay_ms", "base", "jitter_factor"]
    assert list(dataclasses.asdict(backoff)) == names
    assert backoff == health.ExponentialBackoff(base=3.0)
    assert repr(backoff) == (
        "ExponentialBackoff(initial_delay_ms=100, max_delay_ms=10000, base=3.0, jitter_factor=0.1)"
    )


def test_backoff_goes_through_its_jitter(health: Any) -> None:
    backoff = health.ExponentialBackoff()
    with patch.object(backoff, "_calculate_jitter", return_value=7) as jitter:
        assert backoff.get_delay_ms(2) == 7
    jitter.assert_called_once_with(400)


def test_attributes_of_the_checker(checker: Any) -> None:
    assert (checker._check_thread, checker._running) == (None, False)
    with checker._lock:
        pass


@pytest.mark.parametrize("where", ["class", "object", "subclass"])
@pytest.mark.parametrize("call", ["complete", "complete_async"])
def test_a_replaced_method_of_the_checker_is_asked(
    llm_service: Any, health: Any, server: ModelServer, where: str, call: str
) -> None:
    service = llm_service.LLMService(base_url=server.base_url, api_key=KEY)

    class Never(health.LLMHealthChecker):  # type: ignore[name-defined,misc]
        def should_allow_request(self, _endpoint: str) -> bool:
            return False

    if where == "subclass":
        service._health_checker = Never()
    target = {"class": health.LLMHealthChecker, "object": service._health_checker, "subclass": Never}[where]
    with (
        patch.object(target, "should_allow_request", return_value=False),
        pytest.raises(
            llm_service.CircuitBreakerError, match=f"^Circuit breaker is OPEN for {server.base_url}"
        ),
    ):
        asyncio.run(service.complete_async("p")) if call == "complete_async" else service.complete("p")
    assert not server.requests


# What is logged


def test_registering_is_logged(checker: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        checker.register_endpoint(URL)
        checker.register_endpoint(URL)
        checker.get_health_status("http://other/v1")
    assert lines(caplog, "[HEALTH]") == [(logging.INFO, f"[HEALTH] Registered endpoint: {URL}")]


def test_each_change_of_a_circuit_is_logged(checker: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(4):
            checker.record_failure(URL, "no route" + 200 * "x")
        checker.get_health_status(URL).opened_at -= timedelta(seconds=61)
        checker.should_allow_request(URL)
        checker.record_success(URL)
    last = ("no route" + 200 * "x")[:100]
    assert lines(caplog, "[CIRCUIT]") == [
        (logging.WARNING, f"[CIRCUIT] {URL} OPEN after 3 failures. Last error: {last}"),
        (logging.INFO, f"[CIRCUIT] {URL} HALF_OPEN - testing recovery"),
        (logging.INFO, f"[CIRCUIT] {URL} recovered - CLOSED"),
    ]


@pytest.mark.parametrize("call", ["complete", "complete_async"])
def test_what_calls_change_is_logged(
    llm_service: Any, server: ModelServer, errors: Any, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    service = llm_service.LLMService(base_url=server.base_url, api_key=KEY)

    def made() -> None:
        asyncio.run(service.complete_async("p")) if call == "complete_async" else service.complete("p")

    server.script(*[Failure(500, "out of memory", headers={"x-should-retry": "false"})] * 3)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            with pytest.raises(errors.InternalServerError):
                made()
        service._health_checker.get_health_status(service.base_url).opened_at -= timedelta(seconds=61)
        made()
    (opened, half_open, closed) = lines(caplog, "[CIRCUIT]")
    assert opened[0] == logging.WARNING
    assert opened[1].startswith(
        f"[CIRCUIT] {server.base_url} OPEN after 3 failures. Last error: Error code: 500"
    )
    assert half_open == (logging.INFO, f"[CIRCUIT] {server.base_url} HALF_OPEN - testing recovery")
    assert closed == (logging.INFO, f"[CIRCUIT] {server.base_url} recovered - CLOSED")


async def test_health_checks_are_logged(
    health: Any, server: ModelServer, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    checker = health.LLMHealthChecker()
    nowhere = f"http://127.0.0.1:{unused_tcp_port}/v1"
    server.application.healthy = False
    with caplog.at_level(logging.INFO):
        assert await checker.health_check(server.base_url) is False
        assert await checker.health_check(nowhere) is False
    ((level, text), failed) = lines(caplog, "[HEALTH]")
    assert (level, text.startswith(f"[HEALTH] {server.base_url} returned status ")) == (logging.WARNING, True)
    assert (failed[0], failed[1].startswith(f"[HEALTH] Check failed for {nowhere}: ")) == (
        logging.ERROR,
        True,
    )


async def test_a_health_check_keeps_when_it_was_answered(
    health: Any, server: ModelServer, unused_tcp_port: int
) -> None:
    checker = health.LLMHealthChecker()
    nowhere = f"http://127.0.0.1:{unused_tcp_port}/v1"
    await checker.health_check(nowhere)
    assert checker.get_health_status(nowhere).last_health_check_at is None
    await checker.health_check(server.base_url)
    assert checker.get_health_status(server.base_url).last_health_check_at is not None
    assert checker.get_health_status(server.base_url).last_healthy_at is None
