"""Any sequence of calls on a circuit breaker, against a plain model of it; time is what the test says."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arbitrageai_native.llm_health_check import CircuitState, HealthMetrics, LLMHealthChecker
from tests.properties import examples

ENDPOINTS = ("http://a.test/v1", "http://b.test/v1")
KEPT = 100


class Circuit:
    """What the documentation says."""

    def __init__(self, threshold: int, recovery: int) -> None:
        self.threshold = threshold
        self.recovery = recovery
        self.state = "closed"
        self.in_a_row = self.requests = self.failures = 0
        self.open_for = 0
        self.probe_for: int | None = None
        self.times: list[float] = []

    def pass_seconds(self, seconds: int) -> None:
        self.open_for += seconds
        if self.probe_for is not None:
            self.probe_for += seconds

    def ask(self) -> bool:
        if self.state == "closed":
            return True
        if self.state == "open":
            if self.open_for < self.recovery:
                return False
            self.state, self.probe_for, self.in_a_row = "half_open", None, 0
        # A probe that never told its outcome gives up its place after the recovery time.
        if self.probe_for is not None and self.probe_for < self.recovery:
            return False
        self.probe_for = 0
        return True

    def succeed(self, milliseconds: float) -> None:
        self.requests += 1
        self.in_a_row = 0
        if self.state != "open":  # no call was let through
            self.state, self.probe_for = "closed", None
        self.times = [*self.times, milliseconds][-KEPT:]

    def fail(self) -> None:
        self.requests += 1
        self.failures += 1
        self.in_a_row += 1
        if self.state == "half_open" or (self.state == "closed" and self.in_a_row >= self.threshold):
            self.state, self.open_for, self.probe_for = "open", 0, None


class BreakerMachine(RuleBasedStateMachine):
    """Two endpoints of one checker, which must not affect each other."""

    def __init__(self) -> None:
        super().__init__()
        self.checker = LLMHealthChecker()
        self.circuits: dict[str, Circuit] = {}

    @initialize(
        settings=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 60)), min_size=2, max_size=2),
    )
    def register(self, settings: list[tuple[int, int]]) -> None:
        for endpoint, (threshold, recovery) in zip(ENDPOINTS, settings, strict=True):
            self.checker.register_endpoint(endpoint, threshold, recovery)
            self.checker.register_endpoint(endpoint, threshold + 1, recovery + 1)  # changes nothing
            self.circuits[endpoint] = Circuit(threshold, recovery)

    def metrics(self, endpoint: str) -> HealthMetrics:
        return self.checker.get_health_status(endpoint)

    @rule(endpoint=st.sampled_from(ENDPOINTS))
    def ask(self, endpoint: str) -> None:
        assert self.checker.should_allow_request(endpoint) == self.circuits[endpoint].ask()

    @rule(endpoint=st.sampled_from(ENDPOINTS), milliseconds=st.floats(0.001, 1e6))
    def succeed(self, endpoint: str, milliseconds: float) -> None:
        self.checker.record_success(endpoint, milliseconds)
        self.circuits[endpoint].succeed(milliseconds)

    @rule(endpoint=st.sampled_from(ENDPOINTS), error=st.text(max_size=3))
    def fail(self, endpoint: str, error: str) -> None:
        self.checker.record_failure(endpoint, error)
        self.circuits[endpoint].fail()

    @precondition(lambda self: all(circuit.probe_for is None for circuit in self.circuits.values()))
    @rule(seconds=st.integers(1, 40))
    def let_time_pass(self, seconds: int) -> None:
        for endpoint, circuit in self.circuits.items():
            circuit.pass_seconds(seconds)
            metrics = self.metrics(endpoint)
            if circuit.state == "open" and metrics.opened_at is not None:
                metrics.opened_at -= timedelta(seconds=seconds)

    @invariant()
    def it_does_what_the_model_does(self) -> None:
        for endpoint, circuit in self.circuits.items():
            metrics = self.metrics(endpoint)
            assert metrics.state == CircuitState(circuit.state)
            assert (metrics.total_requests, metrics.total_failures) == (circuit.requests, circuit.failures)
            assert list(metrics.response_times) == circuit.times
            if circuit.state != "half_open":
                assert metrics.consecutive_failures == circuit.in_a_row
            assert (metrics.opened_at is None) or circuit.state != "closed"
            summary = self.checker.get_metrics_summary(endpoint)
            assert summary["state"] == circuit.state
            assert summary["failure_rate"] == (circuit.failures / circuit.requests if circuit.requests else 0)


class TestBreaker(BreakerMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = examples(30, steps=30)
