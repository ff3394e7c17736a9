"""What is exported of `arbitrageai_native.metrics()`, to whatever system: names, labels, meanings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["METRICS", "Metric", "Sample"]

Figures = Mapping[str, Any]
Sample = tuple[tuple[str, ...], Any]
"""The labels' values, and a number, or a histogram as `metrics()` has it."""


@dataclass(frozen=True)
class Metric:
    """One exported metric.

    Attributes:
        name: its parts, separated by dots, without unit.
        kind: how its values are to be read.
        labels: the labels' names.
        meaning: what it counts or measures, in a sentence.
        read: takes its samples out of `metrics()`.
        unit: the unit of its values; empty for plain counts.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    read: Callable[[Figures], Iterable[Sample]]
    unit: Literal["", "seconds"] = ""


def _one(group: str, name: str) -> Callable[[Figures], Iterable[Sample]]:
    return lambda figures: [((), figures[group][name])]


def _by_model(name: str) -> Callable[[Figures], Iterable[Sample]]:
    return lambda figures: [((model,), counted[name]) for model, counted in figures["llm"]["models"].items()]


def _by_model_and(name: str) -> Callable[[Figures], Iterable[Sample]]:
    return lambda figures: [
        ((model, key), value)
        for model, counted in figures["llm"]["models"].items()
        for key, value in counted[name].items()
    ]


def _circuit_states(figures: Figures) -> Iterable[Sample]:
    for endpoint, circuit in figures["circuits"].items():
        for state in ("closed", "half_open", "open"):
            yield (endpoint, state), int(circuit["state"] == state)


def _circuit_failures(figures: Figures) -> Iterable[Sample]:
    for endpoint, circuit in figures["circuits"].items():
        yield (endpoint,), circuit["consecutive_failures"]


METRICS = (
    Metric(
        "llm.calls",
        "counter",
        ("model", "outcome"),
        "Calls that have ended, by the model that was asked for and by how they ended.",
        _by_model_and("calls"),
    ),
    Metric(
        "llm.calls_in_flight",
        "gauge",
        ("model",),
        "Calls that have begun and not ended; those that wait to be tried again, too.",
        _by_model("in_flight"),
    ),
    Metric(
        "llm.response",
        "histogram",
        ("model",),
        "Response times of successful calls, from the first try to the whole answer.",
        _by_model("response_seconds"),
        "seconds",
    ),
    Metric(
        "llm.tokens",
        "counter",
        ("model", "type"),
        "Tokens of successful calls, as far as the server says: those of the prompt, and of the completion.",
        _by_model_and("tokens"),
    ),
    Metric("llm.retries", "counter", ("model",), "Tries after the first.", _by_model("retries")),
    Metric(
        "llm.requests_in_flight",
        "gauge",
        (),
        "HTTP requests that have a connection.",
        _one("llm", "requests_in_flight"),
    ),
    Metric(
        "llm.blocking_calls_in_loop",
        "counter",
        (),
        "Blocking methods that were called from a running event loop.",
        _one("llm", "blocking_calls_in_loop"),
    ),
    Metric(
        "circuit.state",
        "gauge",
        ("endpoint", "state"),
        "Whether the endpoint's circuit is in this state: 1 or 0.",
        _circuit_states,
    ),
    Metric(
        "circuit.consecutive_failures",
        "gauge",
        ("endpoint",),
        "Failures since the endpoint last answered.",
        _circuit_failures,
    ),
    Metric("lock.attempts", "counter", (), "Calls that wanted a lock.", _one("locks", "attempts")),
    Metric("lock.successes", "counter", (), "Calls that got it.", _one("locks", "successes")),
    Metric(
        "lock.conflicts",
        "counter",
        (),
        "Calls that found it held, or others waiting for it.",
        _one("locks", "conflicts"),
    ),
    Metric("lock.timeouts", "counter", (), "Calls whose time ran out.", _one("locks", "timeouts")),
    Metric(
        "lock.hand_offs", "counter", (), "Calls that got it after a conflict.", _one("locks", "hand_offs")
    ),
    Metric("lock.renewals", "counter", (), "Successful renewals of leases.", _one("locks", "renewals")),
    Metric(
        "lock.losses",
        "counter",
        (),
        "Leases that were lost before they were released.",
        _one("locks", "losses"),
    ),
    Metric(
        "lock.backend_errors",
        "counter",
        (),
        "Failures of the database in acquisitions and renewals, repeated ones too.",
        _one("locks", "backend_errors"),
    ),
    Metric(
        "lock.listener_failures",
        "counter",
        (),
        "Failed attempts to listen for released locks, after half a second of failures.",
        _one("locks", "listener_failures"),
    ),
    Metric(
        "lock.rows_left",
        "counter",
        (),
        "Locks that nobody held any more and that could not be deleted.",
        _one("locks", "rows_left"),
    ),
    Metric(
        "lock.connections_replaced",
        "counter",
        (),
        "Connections to the database that did not answer in time and were replaced.",
        _one("locks", "connections_replaced"),
    ),
    Metric(
        "lock.change_watch_failures",
        "counter",
        (),
        "Times that the kernel could not report changes of a SQLite file, which is then read every 3 ms.",
        _one("locks", "change_watch_failures"),
    ),
    Metric("lock.held", "gauge", (), "Locks that this process holds.", _one("locks", "held")),
    Metric(
        "lock.waiting", "gauge", (), "Callers in this process that wait for a lock.", _one("locks", "waiting")
    ),
    Metric(
        "lock.wait",
        "histogram",
        (),
        "How long calls waited for a lock, the failed ones too.",
        _one("locks", "wait_seconds"),
        "seconds",
    ),
    Metric(
        "lock.hold",
        "histogram",
        (),
        "How long locks were held until their release.",
        _one("locks", "hold_seconds"),
        "seconds",
    ),
    Metric("loop.monitors", "gauge", (), "Event loops that a LoopMonitor watches.", _one("loop", "monitors")),
    Metric(
        "loop.lag_current",
        "gauge",
        (),
        "The lag that grows now, or was the last; of several loops the greatest.",
        _one("loop", "current_seconds"),
        "seconds",
    ),
    Metric(
        "loop.lag_worst",
        "gauge",
        (),
        "The longest lag since the process began.",
        _one("loop", "worst_seconds"),
        "seconds",
    ),
    Metric(
        "loop.stalls",
        "counter",
        (),
        "Lags that reached their monitor's threshold and have ended.",
        _one("loop", "stalls"),
    ),
    Metric(
        "loop.lag",
        "histogram",
        (),
        "Lags: for how long a loop ran without looking for what else is ready.",
        _one("loop", "lag_seconds"),
        "seconds",
    ),
    Metric(
        "bridge.calls_under_way",
        "gauge",
        (),
        "Awaitables that native code is at work on, or waits in, of whatever kind.",
        _one("bridge", "calls_under_way"),
    ),
)
