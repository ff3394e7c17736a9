"""Circuit breakers and health of model endpoints.

The state is in native code, where calls use it without the interpreter; the objects here read and write
that same state.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from enum import Enum
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar

from arbitrageai_native import defaults
from arbitrageai_native._native import EndpointHealth, ask_for_health
from arbitrageai_native._safe_text import in_one_line, without_credentials, without_secrets
from arbitrageai_native.exceptions import CircuitBreakerError, OpenAIError
from arbitrageai_native.llm.backoff import ExponentialBackoff
from arbitrageai_native.llm.lazy_fields import LazyFields
from arbitrageai_native.utils.foreign import foreign_names

if TYPE_CHECKING:
    from dataclasses import Field

__all__ = [
    "CircuitBreakerError",
    "CircuitState",
    "ExponentialBackoff",
    "HealthMetrics",
    "LLMHealthChecker",
    "get_health_checker",
]

logger = logging.getLogger(__name__)
logger.addFilter(in_one_line)

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_LARGEST_COUNT = 2**63
_LONGEST_ERROR = 100
_HEALTHY = 200

if not TYPE_CHECKING:  # type checkers report names that do not exist
    __getattr__ = foreign_names(__name__)


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


class HealthMetrics:
    """What is known of an endpoint. Times are aware UTC datetimes or None.

    Calls and the checker's methods change it, and obey what is assigned to it.

    Attributes:
        endpoint: The endpoint's base URL.
        state: The circuit's state. Open becomes half-open when it is next asked after the recovery time.
        last_health_check_at: When the endpoint last answered a `health_check`.
        last_healthy_at: When a call last succeeded.
        consecutive_failures: Failures since the last success.
        total_requests: Calls that ended.
        total_failures: Calls that failed.
        opened_at: Since when the circuit has been open.
        failure_threshold: Failures in a row that open the circuit.
        recovery_timeout_seconds: Seconds that the circuit stays open.
        response_times: The latest response times in milliseconds. Reading the attribute brings the list up to
            date with the calls that have ended.
        max_response_time_history: How many response times are kept.
    """

    endpoint: str
    state: CircuitState
    last_health_check_at: datetime | None
    last_healthy_at: datetime | None
    consecutive_failures: int
    total_requests: int
    total_failures: int
    opened_at: datetime | None
    failure_threshold: int
    recovery_timeout_seconds: float
    response_times: list[float]
    max_response_time_history: int = defaults.RESPONSE_TIMES_KEPT

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    else:
        __dataclass_fields__ = LazyFields(response_times=list)

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
        response_times: list[float] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.state = state
        self.last_health_check_at = last_health_check_at
        self.last_healthy_at = last_healthy_at
        self.consecutive_failures = consecutive_failures
        self.total_requests = total_requests
        self.total_failures = total_failures
        self.opened_at = opened_at
        self.failure_threshold = failure_threshold
        self.recovery_timeout_seconds = recovery_timeout_seconds
        self.response_times = [] if response_times is None else response_times

    @property
    def _native(self) -> EndpointHealth:
        # Made at the first use, since a subclass that is a dataclass has an `__init__` of its own.
        health: EndpointHealth | None = self.__dict__.get("_health")
        if health is None:
            made = EndpointHealth("", defaults.FAILURE_THRESHOLD, defaults.RECOVERY_TIMEOUT)
            health = self.__dict__.setdefault("_health", made)
        return health

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FIELDS}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HealthMetrics) or type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = self._values()
        shown["endpoint"] = without_secrets(str(self.endpoint))
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def __reduce__(self) -> Any:
        # A copy has a native state of its own.
        values = self._values()
        others = {name: value for name, value in vars(self).items() if name not in (*values, "_health")}
        return type(self), tuple(values.values()), others or None

    def __setstate__(self, others: dict[str, Any]) -> None:
        for name, value in others.items():
            setattr(self, name, value)

    def _keep(self, milliseconds: float) -> None:
        """Add a response time as it is given, and drop the oldest if there are too many."""
        _append(self.response_times, milliseconds, self.max_response_time_history)


_FIELDS = HealthMetrics.__init__.__code__.co_varnames[1 : HealthMetrics.__init__.__code__.co_argcount]


def _append(times: list[float], milliseconds: float, most: int) -> None:
    times.append(milliseconds)
    if len(times) > most:
        times.pop(0)


def _microseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return (moment - _EPOCH) // _MICROSECOND


def _datetime(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def _count(number: float) -> int:
    return math.ceil(min(max(number, 0), _LARGEST_COUNT))


class _Shared:
    """A field that native code keeps in a form of its own; the value that was given is returned as it was."""

    def __init__(
        self,
        name: str,
        to_native: Callable[[Any], Any],
        from_native: Callable[[Any], Any] = lambda value: value,
        default: Any = None,
    ) -> None:
        self._name = name
        self._to_native = to_native
        self._from_native = from_native
        self._default = default

    def __get__(self, metrics: HealthMetrics | None, owner: type) -> Any:
        if metrics is None:
            if self._name == "endpoint":  # the field without a default
                raise AttributeError(self._name)
            return self._default
        native = getattr(metrics._native, self._name)
        given, as_native = metrics.__dict__.get(self._name, (None, None))
        return given if as_native == native and as_native is not None else self._from_native(native)

    def __set__(self, metrics: HealthMetrics, value: Any) -> None:
        try:
            as_native = self._to_native(value)
            setattr(metrics._native, self._name, as_native)
        except (TypeError, ValueError, AttributeError) as error:
            kind = TypeError if not isinstance(error, ValueError) else ValueError
            raise kind(f"{self._name}: {value!r} is no such value") from error
        metrics.__dict__[self._name] = (value, as_native)


class _ResponseTimes:
    """The list of a circuit's response times, to which those of native calls are added when it is read."""

    def __get__(self, metrics: HealthMetrics | None, owner: type) -> Any:
        if metrics is None:
            raise AttributeError("response_times")
        times: list[float] = metrics.__dict__["response_times"]
        for milliseconds in metrics._native.take_response_times():
            _append(times, milliseconds, metrics.max_response_time_history)
        return times

    def __set__(self, metrics: HealthMetrics, times: list[float]) -> None:
        metrics._native.take_response_times()  # those of calls that ended before
        metrics.__dict__["response_times"] = times


class _HistoryLength:
    """How many response times are kept: a class attribute that may be set on one object."""

    def __get__(self, metrics: HealthMetrics | None, owner: type) -> int:
        kept: int = defaults.RESPONSE_TIMES_KEPT
        return kept if metrics is None else metrics.__dict__.get("max_response_time_history", kept)

    def __set__(self, metrics: HealthMetrics, most: int) -> None:
        metrics._native.response_times_kept = _count(most)
        metrics.__dict__["max_response_time_history"] = most


for _shared in (
    _Shared("endpoint", str),
    _Shared("state", lambda state: CircuitState(state).value, CircuitState, CircuitState.CLOSED),
    *(
        _Shared(name, _microseconds, _datetime)
        for name in ("last_health_check_at", "last_healthy_at", "opened_at")
    ),
    *(
        _Shared(name, _count, default=0)
        for name in ("consecutive_failures", "total_requests", "total_failures")
    ),
    _Shared("failure_threshold", _count, default=defaults.FAILURE_THRESHOLD),
    _Shared("recovery_timeout_seconds", float, default=defaults.RECOVERY_TIMEOUT),
):
    setattr(HealthMetrics, _shared._name, _shared)
HealthMetrics.response_times = _ResponseTimes()  # type: ignore[assignment]
HealthMetrics.max_response_time_history = _HistoryLength()  # type: ignore[assignment]


class LLMHealthChecker:
    """The health of endpoints, and their circuit breakers.

    Each method registers an endpoint that it does not know, with the default settings.

    Attributes:
        check_interval_seconds: Kept for its caller; nothing is asked unless `health_check` is called.
        health_status: Endpoint -> what is known of it.
    """

    def __init__(self, check_interval_seconds: float = defaults.HEALTH_CHECK_INTERVAL) -> None:
        self.check_interval_seconds = check_interval_seconds
        self.health_status: dict[str, HealthMetrics] = {}
        # Attributes of the original.
        self._check_thread = None
        self._running = False
        self._lock = Lock()

    def register_endpoint(
        self,
        endpoint: str,
        failure_threshold: int = defaults.FAILURE_THRESHOLD,
        recovery_timeout_seconds: float = defaults.RECOVERY_TIMEOUT,
    ) -> HealthMetrics:
        """Give an endpoint a circuit breaker, and return what is known of it; one that it has is kept."""
        with self._lock:
            metrics = self.health_status.get(endpoint)
            if metrics is not None:
                return metrics
            metrics = self.health_status[endpoint] = HealthMetrics(
                endpoint,
                failure_threshold=failure_threshold,
                recovery_timeout_seconds=recovery_timeout_seconds,
            )
        logger.info("[HEALTH] Registered endpoint: %s", without_secrets(endpoint))
        return metrics

    def get_health_status(self, endpoint: str) -> HealthMetrics:
        """What is known of an endpoint."""
        with self._lock:
            metrics = self.health_status.get(endpoint)
            if metrics is None:
                metrics = self.health_status[endpoint] = HealthMetrics(endpoint)
            return metrics

    def record_success(self, endpoint: str, response_time_ms: float = 0) -> None:
        """Count an answer: it closes a half-open circuit. A response time of 0 is not kept."""
        metrics = self.get_health_status(endpoint)
        if response_time_ms > 0:
            metrics._keep(response_time_ms)
        metrics._native.record_success(0)

    def record_failure(self, endpoint: str, error: str = "") -> None:
        """Count a failure: the `failure_threshold`th in a row, or one in a half-open circuit, opens it."""
        self.get_health_status(endpoint)._native.record_failure(str(error))

    def should_allow_request(self, endpoint: str) -> bool:
        """Whether a call may be made. In a half-open circuit a True answer takes the one probe's place."""
        return self.get_health_status(endpoint)._native.admit()

    def get_metrics_summary(self, endpoint: str) -> dict[str, Any]:
        """The figures of an endpoint."""
        metrics = self.get_health_status(endpoint)
        times = metrics.response_times
        requests = metrics.total_requests
        checked, healthy = metrics.last_health_check_at, metrics.last_healthy_at
        return {
            "endpoint": without_secrets(endpoint),
            "state": metrics.state.value,
            "consecutive_failures": metrics.consecutive_failures,
            "total_requests": requests,
            "total_failures": metrics.total_failures,
            "failure_rate": metrics.total_failures / requests if requests > 0 else 0,
            "avg_response_time_ms": round(sum(times) / len(times), 2) if times else 0,
            "last_health_check": checked.isoformat() if checked else None,
            "last_healthy_at": healthy.isoformat() if healthy else None,
        }

    async def health_check(
        self, endpoint: str, timeout_seconds: float = defaults.HEALTH_CHECK_TIMEOUT
    ) -> bool:
        """Ask the server at `endpoint` whether it is alive; never raises.

        GET `{base without /v1}/api/health`; where that is 404, Ollama's `/api/version`, then `/v1/models`.
        An answer changes `last_health_check_at`, nothing the circuit.
        """
        metrics = self.get_health_status(endpoint)
        shown = without_secrets(str(endpoint))
        logger.debug("[HEALTH] Checking %s", shown)
        try:
            status = await ask_for_health(endpoint, timeout_seconds)
        except (OpenAIError, TypeError, ValueError) as error:
            logger.error("[HEALTH] Check failed for %s: %s", shown, without_credentials(str(error)))
            return False
        metrics.last_health_check_at = datetime.now(timezone.utc)
        if status != _HEALTHY:
            logger.warning("[HEALTH] %s returned status %d", shown, status)
            return False
        logger.debug("[HEALTH] %s is healthy", shown)
        return True


def _log_circuit(endpoint: str, state: str, failures: int, error: str) -> None:
    """Log that a circuit changed; native code calls this."""
    shown = without_secrets(endpoint)
    if state == "open":
        logger.warning(
            "[CIRCUIT] %s OPEN after %d failures. Last error: %s",
            *(shown, failures, without_credentials(error)[:_LONGEST_ERROR]),
        )
    elif state == "half_open":
        logger.info("[CIRCUIT] %s HALF_OPEN - testing recovery", shown)
    else:
        logger.info("[CIRCUIT] %s recovered - CLOSED", shown)


_global_health_checker: LLMHealthChecker | None = None


def get_health_checker() -> LLMHealthChecker:
    """The process-wide checker."""
    global _global_health_checker
    if _global_health_checker is None:
        _global_health_checker = LLMHealthChecker(check_interval_seconds=defaults.HEALTH_CHECK_INTERVAL)
    return _global_health_checker
