"""Where a call goes: its client and its circuit. Every helper of a call takes this, none takes the service.

A service makes an `Endpoint` for each call, since code may replace its client, its checker or its URL at any
time between two calls.
"""

from __future__ import annotations

from typing import Any

from arbitrageai_native._native import CallMetrics, EndpointHealth, circuit_open
from arbitrageai_native.llm.counting import CountedCall
from arbitrageai_native.llm_health_check import HealthMetrics, LLMHealthChecker

# The checker's own methods: native code does what they do, as long as nothing replaces one of them.
_CHECKER_METHODS = {
    name: vars(LLMHealthChecker)[name]
    for name in ("should_allow_request", "record_success", "record_failure", "get_health_status")
}


class Endpoint:
    """Where a call goes.

    Attributes:
        client: This package's client, or an injected one.
        base_url: The URL by which the checker knows the endpoint.
        model: The service's model, which the log names.
        metrics: The service's counters.
        checker: The health checker; None without a circuit breaker.
    """

    __slots__ = ("base_url", "checker", "client", "metrics", "model")

    def __init__(self, client: Any, base_url: str, model: str, metrics: CallMetrics, checker: Any) -> None:
        self.client = client
        self.base_url = base_url
        self.model = model
        self.metrics = metrics
        self.checker = checker

    def circuit(self) -> tuple[EndpointHealth | None, Any]:
        """Return the circuit that native code asks and tells, or a checker that only Python code can ask.

        A checker of another class, or with patched methods, expects to be called.
        """
        checker = self.checker
        if checker is None:
            return None, None
        if type(checker) is not LLMHealthChecker or not _CHECKER_METHODS.keys().isdisjoint(checker.__dict__):
            return None, checker
        if any(vars(LLMHealthChecker)[name] is not own for name, own in _CHECKER_METHODS.items()):
            return None, checker  # patched on the class
        metrics = checker.get_health_status(self.base_url)
        if type(metrics) is not HealthMetrics:
            return None, checker
        return metrics._native, None

    def refuse_if_open(self) -> None:
        """Raise `CircuitBreakerError` if the circuit is open: before a stealth wait, not after it."""
        health, _ = self.circuit()
        if health is not None and health.would_refuse():
            raise circuit_open(self.base_url)

    def counted(self) -> CountedCall:
        """Return the count of a native call whose checker Python code has to ask."""
        return CountedCall(self.checker, self.base_url)

    def counted_injected(self, model: object) -> CountedCall:
        """Return the count of an injected client's call."""
        return CountedCall(self.checker, self.base_url, self.metrics, model)
