"""Circuit breaker and health of endpoints, as in the original.

Half-open lets everything through, and a failure then changes nothing.
"""

import random
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any

import httpx

from .utils.async_helpers import safe_sleep


class CircuitBreakerError(Exception):
    """The circuit is open."""


class CircuitState(Enum):
    """Whether calls get through."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


def _now() -> datetime:
    return datetime.now(timezone.utc)


@dataclass
class HealthMetrics:
    """What is known of an endpoint."""

    endpoint: str
    state: CircuitState = CircuitState.CLOSED
    last_health_check_at: datetime | None = None
    last_healthy_at: datetime | None = None
    consecutive_failures: int = 0
    total_requests: int = 0
    total_failures: int = 0
    opened_at: datetime | None = None
    failure_threshold: int = 3
    recovery_timeout_seconds: float = 60
    response_times: Any = field(default_factory=lambda: deque(maxlen=100))


class ExponentialBackoff:
    """Growing waits."""

    def __init__(
        self,
        initial_delay_ms: int = 100,
        max_delay_ms: int = 10000,
        base: float = 2.0,
        jitter_factor: float = 0.1,
    ) -> None:
        self.initial_delay_ms = initial_delay_ms
        self.max_delay_ms = max_delay_ms
        self.base = base
        self.jitter_factor = jitter_factor

    def get_delay_ms(self, attempt: int) -> int:
        """The wait after an attempt."""
        if attempt < 0:
            return 0
        delay = min(self.initial_delay_ms * self.base**attempt, self.max_delay_ms)
        jitter = delay * self.jitter_factor
        return max(1, int(delay + random.uniform(-jitter, jitter)))

    async def wait(self, attempt: int) -> None:
        """Wait as long."""
        await safe_sleep(self.get_delay_ms(attempt) / 1000)


class LLMHealthChecker:
    """The breakers of all endpoints."""

    def __init__(self, check_interval_seconds: float = 30) -> None:
        self.check_interval_seconds = check_interval_seconds
        self.health_status: dict[str, HealthMetrics] = {}

    def register_endpoint(
        self, endpoint: str, failure_threshold: int = 3, recovery_timeout_seconds: float = 60
    ) -> None:
        """Give an endpoint a breaker."""
        if endpoint not in self.health_status:
            self.health_status[endpoint] = HealthMetrics(
                endpoint,
                failure_threshold=failure_threshold,
                recovery_timeout_seconds=recovery_timeout_seconds,
            )

    def get_health_status(self, endpoint: str) -> HealthMetrics | None:
        """What is known of it."""
        return self.health_status.get(endpoint)

    def record_success(self, endpoint: str, response_time_ms: float = 0) -> None:
        """Count a success."""
        metrics = self.health_status.get(endpoint)
        if metrics is None:
            return
        metrics.total_requests += 1
        metrics.consecutive_failures = 0
        metrics.last_healthy_at = _now()
        metrics.response_times.append(response_time_ms)
        metrics.state = CircuitState.CLOSED
        metrics.opened_at = None

    def record_failure(self, endpoint: str, error: str = "") -> None:
        """Count a failure."""
        metrics = self.health_status.get(endpoint)
        if metrics is None:
            return
        metrics.total_requests += 1
        metrics.total_failures += 1
        metrics.consecutive_failures += 1
        if metrics.state is CircuitState.CLOSED and metrics.consecutive_failures >= metrics.failure_threshold:
            metrics.state = CircuitState.OPEN
            metrics.opened_at = _now()

    def should_allow_request(self, endpoint: str) -> bool:
        """Whether a call may be made."""
        metrics = self.health_status.get(endpoint)
        if metrics is None or metrics.state is not CircuitState.OPEN:
            return True
        opened_at = metrics.opened_at
        if opened_at is None or (_now() - opened_at).total_seconds() >= metrics.recovery_timeout_seconds:
            metrics.state = CircuitState.HALF_OPEN
            return True
        return False

    def get_metrics_summary(self, endpoint: str) -> dict[str, Any]:
        """The figures of an endpoint."""
        metrics = self.health_status.get(endpoint)
        if metrics is None:
            return {}
        times = metrics.response_times
        checked, healthy = metrics.last_health_check_at, metrics.last_healthy_at
        return {
            "endpoint": endpoint,
            "state": metrics.state.value,
            "consecutive_failures": metrics.consecutive_failures,
            "total_requests": metrics.total_requests,
            "total_failures": metrics.total_failures,
            "failure_rate": metrics.total_failures / metrics.total_requests
            if metrics.total_requests
            else 0.0,
            "avg_response_time_ms": round(sum(times) / len(times), 2) if times else 0.0,
            "last_health_check": checked.isoformat() if checked else None,
            "last_healthy_at": healthy.isoformat() if healthy else None,
        }

    async def health_check(self, endpoint: str, timeout_seconds: float = 5) -> bool:
        """Ask the server."""
        healthy = False
        try:
            async with httpx.AsyncClient(timeout=timeout_seconds) as client:
                answer = await client.get(f"{endpoint.rstrip('/').removesuffix('/v1')}/api/health")
            healthy = answer.status_code == 200
        except Exception:
            healthy = False
        metrics = self.health_status.get(endpoint)
        if metrics is not None:
            metrics.last_health_check_at = _now()
            if healthy:
                metrics.last_healthy_at = metrics.last_health_check_at
        return healthy


_global_health_checker: LLMHealthChecker | None = None


def get_health_checker() -> LLMHealthChecker:
    """The process's checker."""
    global _global_health_checker
    if _global_health_checker is None:
        _global_health_checker = LLMHealthChecker()
    return _global_health_checker
