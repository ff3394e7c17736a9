"""Circuit breakers and health of model endpoints.

The state lives in native code, where calls use it without the interpreter; the objects here read and write
that same state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, MutableSequence
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, Generic, TypeVar, overload

from arbitrageai_native import _native, defaults
from arbitrageai_native._safe_text import without_secrets
from arbitrageai_native.exceptions import CircuitBreakerError
from arbitrageai_native.utils.async_helpers import safe_sleep

__all__ = [
    "CircuitBreakerError",
    "CircuitState",
    "ExponentialBackoff",
    "HealthMetrics",
    "LLMHealthChecker",
    "get_health_checker",
]

Value = TypeVar("Value")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


class CircuitState(Enum):
    """Whether calls get through.

    Attributes:
        CLOSED: All of them.
        OPEN: None.
        HALF_OPEN: One at a time, to try.
    """

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


def _to_datetime(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def _to_microseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - _EPOCH) // _MICROSECOND


class ResponseTimes(MutableSequence[float]):
    """The last 100 response times in milliseconds: a view of the native list, changeable like any other."""

    def __init__(self, native: _native.EndpointHealth) -> None:
        self._native = native

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> list[float]: ...
    def __getitem__(self, index: int | slice) -> float | list[float]:
        return self._native.response_times[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        times = self._native.response_times
        times[index] = value
        self._native.response_times = times

    def __delitem__(self, index: int | slice) -> None:
        times = self._native.response_times
        del times[index]
        self._native.response_times = times

    def __len__(self) -> int:
        return len(self._native.response_times)

    def insert(self, index: int, value: float) -> None:
        """Insert a response time; the oldest above 100 are dropped."""
        times = self._native.response_times
        times.insert(index, value)
        self._native.response_times = times

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Iterable):
            return self._native.response_times == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._native.response_times)


def _unchanged(value: Any) -> Any:
    return value


class _Field(Generic[Value]):
    """An attribute that native code keeps under the same name, in a form of its own."""

    def __init__(
        self, read: Callable[[Any], Value] = _unchanged, write: Callable[[Value], Any] = _unchanged
    ) -> None:
        self._read = read
        self._write = write

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, metrics: HealthMetrics | None, owner: type) -> Value:
        if metrics is None:
            return self  # type: ignore[return-value]
        return self._read(getattr(metrics._native, self._name))

    def __set__(self, metrics: HealthMetrics, value: Value) -> None:
        try:
            setattr(metrics._native, self._name, self._write(value))
        except OverflowError:
            raise ValueError(f"{self._name} is negative or too large: {value!r}") from None


class HealthMetrics:
    """What is known of an endpoint. Times are aware UTC datetimes or None."""

    endpoint = _Field[str]()
    """The endpoint's base URL."""
    state = _Field[CircuitState](CircuitState, lambda state: CircuitState(state).value)
    """The circuit's state. Open becomes half-open when it is next asked after the recovery time."""
    last_health_check_at = _Field["datetime | None"](_to_datetime, _to_microseconds)
    """When `health_check` last asked."""
    last_healthy_at = _Field["datetime | None"](_to_datetime, _to_microseconds)
    """When the endpoint last answered well."""
    opened_at = _Field["datetime | None"](_to_datetime, _to_microseconds)
    """Since when the circuit has been open."""
    consecutive_failures = _Field[int]()
    """Failures since the last answer."""
    total_requests = _Field[int]()
    """Calls that ended."""
    total_failures = _Field[int]()
    """Calls that failed."""
    failure_threshold = _Field[int]()
    """Consecutive failures that open the circuit."""
    recovery_timeout_seconds = _Field[float]()
    """Seconds that the circuit stays open."""

    def __init__(
        self,
        endpoint: str,
        state: CircuitState = CircuitState.CLOSED,
        last_health_check_at: datetime | None = None,
        last_healthy_at: datetime | None = None,
        consecutive_failures: int = 0,
        total_requests: int = 0,
        total_failures: int = 0,
        opened_at: datetime | None = None,
        failure_threshold: int = defaults.FAILURE_THRESHOLD,
        recovery_timeout_seconds: float = defaults.RECOVERY_TIMEOUT,
        response_times: Iterable[float] = (),
    ) -> None:
        try:
            self._native = _native.EndpointHealth(endpoint, failure_threshold, recovery_timeout_seconds)
        except OverflowError:
            is_threshold = not 0 <= failure_threshold < 2**64
            name = "failure_threshold" if is_threshold else "recovery_timeout_seconds"
            value = failure_threshold if is_threshold else recovery_timeout_seconds
            raise ValueError(f"{name} is negative or too large: {value!r}") from None
        self.state = state
        self.last_health_check_at = last_health_check_at
        self.last_healthy_at = last_healthy_at
        self.consecutive_failures = consecutive_failures
        self.total_requests = total_requests
        self.total_failures = total_failures
        self.opened_at = opened_at
        self.response_times = response_times

    @property
    def response_times(self) -> ResponseTimes:
        """The last 100 response times in milliseconds."""
        return ResponseTimes(self._native)

    @response_times.setter
    def response_times(self, milliseconds: Iterable[float]) -> None:
        self._native.response_times = list(milliseconds)

    def __repr__(self) -> str:
        return (
            f"HealthMetrics(endpoint={without_secrets(self.endpoint)!r}, state={self.state}, "
            f"requests={self.total_requests})"
        )


class ExponentialBackoff:
    """Growing waits: each `base` times the last, at most `max_delay_ms`, give or take the jitter.

    Attributes:
        initial_delay_ms: The first wait.
        max_delay_ms: The longest.
        base: By how much each is longer than the last.
        jitter_factor: The part of a wait that is random, more or less.
    """

    def __init__(
        self,
        initial_delay_ms: int = defaults.BACKOFF_INITIAL_MS,
        max_delay_ms: int = defaults.BACKOFF_MAX_MS,
        base: float = defaults.BACKOFF_BASE,
        jitter_factor: float = defaults.BACKOFF_JITTER,
    ) -> None:
        self.initial_delay_ms = initial_delay_ms
        self.max_delay_ms = max_delay_ms
        self.base = base
        self.jitter_factor = jitter_factor

    def get_delay_ms(self, attempt: int) -> int:
        """The wait after attempt number `attempt` (from 0) in milliseconds; 0 for a negative number."""
        if attempt < 0:
            return 0
        try:
            delay = min(self.initial_delay_ms * self.base**attempt, float(self.max_delay_ms))
        except OverflowError:
            delay = float(self.max_delay_ms)
        spread = delay * self.jitter_factor
        return max(1, int(delay + random.uniform(-spread, spread)))

    async def wait(self, attempt: int) -> None:
        """Wait as long as `get_delay_ms` says."""
        await safe_sleep(self.get_delay_ms(attempt) / 1000)


class LLMHealthChecker:
    """The health of endpoints, and their circuit breakers.

    Attributes:
        check_interval_seconds: Kept for its caller; nothing is asked unless `health_check` is called.
        health_status: Endpoint -> what is known of it.
    """

    def __init__(self, check_interval_seconds: float = defaults.HEALTH_CHECK_INTERVAL) -> None:
        self.check_interval_seconds = check_interval_seconds
        self.health_status: dict[str, HealthMetrics] = {}

    def register_endpoint(
        self,
        endpoint: str,
        failure_threshold: int = defaults.FAILURE_THRESHOLD,
        recovery_timeout_seconds: float = defaults.RECOVERY_TIMEOUT,
    ) -> None:
        """Give an endpoint a circuit breaker; one that it has is kept."""
        if endpoint not in self.health_status:
            self.health_status[endpoint] = HealthMetrics(
                endpoint,
                failure_threshold=failure_threshold,
                recovery_timeout_seconds=recovery_timeout_seconds,
            )

    def get_health_status(self, endpoint: str) -> HealthMetrics | None:
        """What is known of an endpoint; None if it was not registered."""
        return self.health_status.get(endpoint)

    def record_success(self, endpoint: str, response_time_ms: float = 0) -> None:
        """Count an answer: it closes the circuit."""
        metrics = self.health_status.get(endpoint)
        if metrics is not None:
            metrics._native.record_success(response_time_ms)

    def record_failure(self, endpoint: str, error: str = "") -> None:
        """Count a failure: the `failure_threshold`th in a row, or one in a half-open circuit, opens it."""
        metrics = self.health_status.get(endpoint)
        if metrics is not None:
            metrics._native.record_failure()

    def should_allow_request(self, endpoint: str) -> bool:
        """Whether a call may be made. In a half-open circuit a True answer takes the one probe's place."""
        metrics = self.health_status.get(endpoint)
        return metrics is None or metrics._native.admit()

    def get_metrics_summary(self, endpoint: str) -> dict[str, Any]:
        """The figures of an endpoint; empty if it was not registered."""
        metrics = self.health_status.get(endpoint)
        if metrics is None:
            return {}
        times = metrics._native.response_times
        requests = metrics.total_requests
        checked, healthy = metrics.last_health_check_at, metrics.last_healthy_at
        return {
            "endpoint": without_secrets(endpoint),
            "state": metrics.state.value,
            "consecutive_failures": metrics.consecutive_failures,
            "total_requests": requests,
            "total_failures": metrics.total_failures,
            "failure_rate": metrics.total_failures / requests if requests else 0.0,
            "avg_response_time_ms": round(sum(times) / len(times), 2) if times else 0.0,
            "last_health_check": checked.isoformat() if checked else None,
            "last_healthy_at": healthy.isoformat() if healthy else None,
        }

    async def health_check(
        self, endpoint: str, timeout_seconds: float = defaults.HEALTH_CHECK_TIMEOUT
    ) -> bool:
        """Ask the server at `endpoint` whether it is alive; never raises.

        GET `{base without /v1}/api/health`; where that is 404, Ollama's `/api/version`, then `/v1/models`.
        It changes `last_health_check_at` (and `last_healthy_at`), not the circuit.
        """
        try:
            healthy = await _native.is_healthy(endpoint, timeout_seconds)
        except (TypeError, ValueError):
            healthy = False
        metrics = self.health_status.get(endpoint)
        if metrics is not None:
            metrics.last_health_check_at = datetime.now(timezone.utc)
            if healthy:
                metrics.last_healthy_at = metrics.last_health_check_at
        return healthy


_global_health_checker: LLMHealthChecker | None = None


def get_health_checker() -> LLMHealthChecker:
    """The process-wide checker."""
    global _global_health_checker
    if _global_health_checker is None:
        _global_health_checker = LLMHealthChecker()
    return _global_health_checker
