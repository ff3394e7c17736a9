"""Circuit breaker and health of endpoints, as in the original.

Half-open lets everything through, and a failure then changes nothing.
"""

import asyncio
import logging
import random
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any

logger = logging.getLogger(__name__)


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
    recovery_timeout_seconds: int = 60
    response_times: list[float] = field(default_factory=list)
    max_response_time_history = 100


@dataclass
class ExponentialBackoff:
    """Growing waits."""

    initial_delay_ms: int = 100
    max_delay_ms: int = 10000
    base: float = 2.0
    jitter_factor: float = 0.1

    def _calculate_jitter(self, delay_ms: int) -> int:
        share = random.uniform(-self.jitter_factor, self.jitter_factor)
        return max(1, int(delay_ms + delay_ms * share))

    def get_delay_ms(self, attempt: int) -> int:
        """The wait after an attempt."""
        if attempt < 0:
            return 0
        grown = self.initial_delay_ms * self.base**attempt
        return self._calculate_jitter(int(min(grown, self.max_delay_ms)))

    async def wait(self, attempt: int) -> None:
        """Wait as long."""
        milliseconds = self.get_delay_ms(attempt)
        if milliseconds:
            await asyncio.sleep(milliseconds / 1000)


class LLMHealthChecker:
    """The breakers of all endpoints."""

    def __init__(self, check_interval_seconds: int = 30) -> None:
        self.check_interval_seconds = check_interval_seconds
        self.health_status: dict[str, HealthMetrics] = {}
        self._check_thread: threading.Thread | None = None
        self._running = False
        self._lock = threading.Lock()

    def register_endpoint(
        self, endpoint: str, failure_threshold: int = 3, recovery_timeout_seconds: int = 60
    ) -> HealthMetrics:
        """Give an endpoint a breaker, unless it has one."""
        with self._lock:
            known = self.health_status.get(endpoint)
            if known is None:
                known = HealthMetrics(
                    endpoint,
                    failure_threshold=failure_threshold,
                    recovery_timeout_seconds=recovery_timeout_seconds,
                )
                self.health_status[endpoint] = known
                logger.info("[HEALTH] Registered endpoint: %s", endpoint)
            return known

    def get_health_status(self, endpoint: str) -> HealthMetrics:
        """What is known of it."""
        with self._lock:
            return self.health_status.setdefault(endpoint, HealthMetrics(endpoint))

    def record_success(self, endpoint: str, response_time_ms: float = 0) -> None:
        """Count a success."""
        known = self.get_health_status(endpoint)
        with self._lock:
            known.total_requests += 1
            known.consecutive_failures = 0
            known.last_healthy_at = _now()
            if response_time_ms > 0:
                known.response_times.append(response_time_ms)
                if len(known.response_times) > known.max_response_time_history:
                    del known.response_times[0]
            if known.state is CircuitState.HALF_OPEN:
                known.state, known.opened_at = CircuitState.CLOSED, None
                logger.info("[CIRCUIT] %s recovered - CLOSED", endpoint)

    def record_failure(self, endpoint: str, error: str = "") -> None:
        """Count a failure."""
        known = self.get_health_status(endpoint)
        with self._lock:
            known.total_requests += 1
            known.total_failures += 1
            known.consecutive_failures += 1
            reached = known.consecutive_failures >= known.failure_threshold
            if reached and known.state is CircuitState.CLOSED:
                known.state, known.opened_at = CircuitState.OPEN, _now()
                opened = (endpoint, known.consecutive_failures, error[:100])
                logger.warning("[CIRCUIT] %s OPEN after %d failures. Last error: %s", *opened)

    def should_allow_request(self, endpoint: str) -> bool:
        """Whether a call may be made."""
        known = self.get_health_status(endpoint)
        if known.state is not CircuitState.OPEN:
            return True
        if not known.opened_at:
            return False
        if (_now() - known.opened_at).total_seconds() < known.recovery_timeout_seconds:
            return False
        with self._lock:
            known.state, known.consecutive_failures = CircuitState.HALF_OPEN, 0
        logger.info("[CIRCUIT] %s HALF_OPEN - testing recovery", endpoint)
        return True

    def get_metrics_summary(self, endpoint: str) -> dict[str, Any]:
        """The figures of an endpoint."""
        known = self.get_health_status(endpoint)
        times, requests = known.response_times, known.total_requests
        checked, healthy = known.last_health_check_at, known.last_healthy_at
        return {
            "endpoint": endpoint,
            "state": known.state.value,
            "consecutive_failures": known.consecutive_failures,
            "total_requests": requests,
            "total_failures": known.total_failures,
            "failure_rate": known.total_failures / requests if requests > 0 else 0,
            "avg_response_time_ms": round(sum(times) / len(times), 2) if times else 0,
            "last_health_check": checked.isoformat() if checked else None,
            "last_healthy_at": healthy.isoformat() if healthy else None,
        }

    async def health_check(self, endpoint: str, timeout_seconds: float = 5) -> bool:
        """Ask the server."""
        known = self.get_health_status(endpoint)
        try:
            import httpx

            async with httpx.AsyncClient(timeout=timeout_seconds) as client:
                answer = await client.get(f"{endpoint.rsplit('/v1', 1)[0]}/api/health")
            known.last_health_check_at = _now()
            if answer.status_code == 200:
                return True
            logger.warning("[HEALTH] %s returned status %d", endpoint, answer.status_code)
        except Exception as error:
            logger.error("[HEALTH] Check failed for %s: %s", endpoint, error)
        return False


_global_health_checker: LLMHealthChecker | None = None


def get_health_checker() -> LLMHealthChecker:
    """The process's checker."""
    global _global_health_checker
    if _global_health_checker is None:
        _global_health_checker = LLMHealthChecker()
    return _global_health_checker
