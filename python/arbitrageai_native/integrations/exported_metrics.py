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


def _process(
    kind: Literal["counter", "gauge", "histogram"],
    name: str,
    meaning: str,
    figure: str = "",
    unit: Literal["", "seconds"] = "",
) -> Metric:
    """A metric of the whole process; `figure` is its name in `metrics()`, if that is another one."""
    group, _, own = name.partition(".")
    group = {"lock": "locks"}.get(group, group)
    return Metric(name, kind, (), meaning, lambda figures: [((), figures[group][figure or own])], unit)


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
    _process("gauge", "llm.requests_in_flight", "HTTP requests that have a connection."),
    _process(
        "counter",
        "llm.blocking_calls_in_loop",
        "Blocking methods that were called from a running event loop.",
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
    _process("counter", "lock.attempts", "Calls that wanted a lock."),
    _process("counter", "lock.successes", "Calls that got it."),
    _process("counter", "lock.conflicts", "Calls that found it held, or others waiting for it."),
    _process("counter", "lock.timeouts", "Calls whose time ran out."),
    _process("counter", "lock.hand_offs", "Calls that got it after a conflict."),
    _process("counter", "lock.renewals", "Successful renewals of leases."),
    _process("counter", "lock.losses", "Leases that were lost before they were released."),
    _process(
        "counter",
        "lock.backend_errors",
        "Failures of the database in acquisitions and renewals, repeated ones too.",
    ),
    _process(
        "counter",
        "lock.listener_failures",
        "Failed attempts to listen for released locks, after half a second of failures.",
    ),
    _process(
        "counter",
        "lock.rows_left",
        "Locks that nobody held any more and that could not be deleted.",
    ),
    _process(
        "counter",
        "lock.connections_replaced",
        "Connections to the database that did not answer in time and were replaced.",
    ),
    _process(
        "counter",
        "lock.change_watch_failures",
        "Times that the kernel could not report changes of a SQLite file, which is then read repeatedly.",
    ),
    _process("gauge", "lock.held", "Locks that this process holds."),
    _process("gauge", "lock.waiting", "Callers in this process that wait for a lock."),
    _process(
        "histogram",
        "lock.wait",
        "How long calls waited for a lock, the failed ones too.",
        "wait_seconds",
        "seconds",
    ),
    _process(
        "histogram", "lock.hold", "How long locks were held until their release.", "hold_seconds", "seconds"
    ),
    _process("gauge", "loop.monitors", "Event loops that a LoopMonitor watches."),
    _process(
        "gauge",
        "loop.lag_current",
        "The lag that grows now, or was the last; of several loops the greatest.",
        "current_seconds",
        "seconds",
    ),
    _process(
        "gauge", "loop.lag_worst", "The longest lag since the process began.", "worst_seconds", "seconds"
    ),
    _process("counter", "loop.stalls", "Lags that reached their monitor's threshold and have ended."),
    _process(
        "histogram",
        "loop.lag",
        "Lags: for how long a loop ran without looking for what else is ready.",
        "lag_seconds",
        "seconds",
    ),
    _process(
        "gauge",
        "bridge.calls_under_way",
        "Awaitables that native code is at work on, or waits in, of whatever kind.",
    ),
)
