"""What is exported of `arbitrageai_native.metrics()`, to whatever system: names, labels, meanings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal["", "seconds"]
Figures = Mapping[str, Any]
Sample = tuple[tuple[str, ...], Any]
"""The labels' values, and a number, or a histogram as `metrics()` has it."""


class Metric(NamedTuple):
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
    kind: Kind
    labels: tuple[str, ...]
    meaning: str
    read: Callable[[Figures], Iterable[Sample]]
    unit: Unit = ""


def _process(kind: Kind, name: str, meaning: str, figure: str = "", unit: Unit = "") -> Metric:
    """A metric of the whole process; `figure` is its name in `metrics()`, if that is another one."""
    group, _, own = name.partition(".")
    group = {"lock": "locks"}.get(group, group)
    return Metric(name, kind, (), meaning, lambda figures: [((), figures[group][figure or own])], unit)


_counter = partial(_process, "counter")
_gauge = partial(_process, "gauge")
_gauge_of_seconds = partial(_process, "gauge", unit="seconds")
_histogram_of_seconds = partial(_process, "histogram", unit="seconds")


def _of_models(kind: Kind, name: str, meaning: str, figure: str, label: str = "", unit: Unit = "") -> Metric:
    """A metric of each model; with a `label` the figure is a dict, and its keys are the label's values."""

    def read(figures: Figures) -> Iterable[Sample]:
        for model, counted in figures["llm"]["models"].items():
            for key, value in counted[figure].items() if label else [("", counted[figure])]:
                yield ((model, key) if label else (model,)), value

    return Metric(name, kind, ("model", label) if label else ("model",), meaning, read, unit)


def _circuit_states(figures: Figures) -> Iterable[Sample]:
    for endpoint, circuit in figures["circuits"].items():
        for state in ("closed", "half_open", "open"):
            yield (endpoint, state), int(circuit["state"] == state)


def _circuit_failures(figures: Figures) -> Iterable[Sample]:
    for endpoint, circuit in figures["circuits"].items():
        yield (endpoint,), circuit["consecutive_failures"]


METRICS = (
    _of_models(
        "counter",
        "llm.calls",
        "Calls that have ended, by the model that was asked for and by how they ended.",
        *("calls", "outcome"),
    ),
    _of_models(
        "gauge",
        "llm.calls_in_flight",
        "Calls that have begun and not ended; those that wait to be tried again, too.",
        "in_flight",
    ),
    _of_models(
        "histogram",
        "llm.response",
        "Response times of successful calls, from the first try to the whole answer.",
        "response_seconds",
        unit="seconds",
    ),
    _of_models(
        "counter",
        "llm.tokens",
        "Tokens of successful calls, as far as the server says: those of the prompt, and of the completion.",
        *("tokens", "type"),
    ),
    _of_models("counter", "llm.retries", "Tries after the first.", "retries"),
    _gauge("llm.requests_in_flight", "HTTP requests that have a connection."),
    _counter("llm.blocking_calls_in_loop", "Blocking methods that were called from a running event loop."),
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
    _counter("lock.attempts", "Calls that wanted a lock."),
    _counter("lock.successes", "Calls that got it."),
    _counter("lock.conflicts", "Calls that found it held, or others waiting for it."),
    _counter("lock.timeouts", "Calls whose time ran out."),
    _counter("lock.hand_offs", "Calls that got it after a conflict."),
    _counter("lock.renewals", "Successful renewals of leases."),
    _counter("lock.losses", "Leases that were lost before they were released."),
    _counter(
        "lock.backend_errors", "Failures of the database in acquisitions and renewals, repeated ones too."
    ),
    _counter(
        "lock.listener_failures",
        "Failed attempts to listen for released locks, after half a second of failures.",
    ),
    _counter("lock.rows_left", "Locks that nobody held any more and that could not be deleted."),
    _counter(
        "lock.connections_replaced",
        "Connections to the database that did not answer in time and were replaced.",
    ),
    _counter(
        "lock.change_watch_failures",
        "Times that the kernel could not report changes of a SQLite file, which is then read repeatedly.",
    ),
    _gauge("lock.held", "Locks that this process holds."),
    _gauge("lock.waiting", "Callers in this process that wait for a lock."),
    _histogram_of_seconds(
        "lock.wait", "How long calls waited for a lock, the failed ones too.", "wait_seconds"
    ),
    _histogram_of_seconds("lock.hold", "How long locks were held until their release.", "hold_seconds"),
    _gauge("loop.monitors", "Event loops that a LoopMonitor watches."),
    _gauge_of_seconds(
        "loop.lag_current",
        "The lag that grows now, or was the last; of several loops the greatest.",
        "current_seconds",
    ),
    _gauge_of_seconds("loop.lag_worst", "The longest lag since the process began.", "worst_seconds"),
    _counter("loop.stalls", "Lags that reached their monitor's threshold and have ended."),
    _histogram_of_seconds(
        "loop.lag", "Lags: for how long a loop ran without looking for what else is ready.", "lag_seconds"
    ),
    _gauge(
        "bridge.calls_under_way", "Awaitables that native code is at work on, or waits in, of whatever kind."
    ),
)
