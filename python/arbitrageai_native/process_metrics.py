"""All that the process has counted, in one dict: `arbitrageai_native.metrics()`."""

from __future__ import annotations

import sys
from typing import TypedDict, cast

from arbitrageai_native import _native
from arbitrageai_native._safe_text import without_secrets
from arbitrageai_native.llm.results import TokenCounts
from arbitrageai_native.locks.overview import Histogram

__all__ = [
    "BridgeMetrics",
    "CallsMetrics",
    "CircuitMetrics",
    "Histogram",
    "LocksMetrics",
    "LoopMetrics",
    "ModelMetrics",
    "ProcessMetrics",
    "metrics",
]

_STATES = ("closed", "half_open", "open")


class ModelMetrics(TypedDict):
    """Calls of one model.

    calls: by outcome ("success", the kinds of failure, "cancelled"). in_flight: calls under way. retries:
    tries after the first. tokens: of all answered calls. response_seconds: of successes.
    """

    calls: dict[str, int]
    in_flight: int
    retries: int
    tokens: TokenCounts
    response_seconds: Histogram


class CallsMetrics(TypedDict):
    """Model calls.

    models: by the name of the model that was asked for (the 100 first, others as "other").
    requests_in_flight: requests that have a connection. blocking_calls_in_loop: blocking methods called
    from a running event loop.
    """

    models: dict[str, ModelMetrics]
    requests_in_flight: int
    blocking_calls_in_loop: int


class CircuitMetrics(TypedDict):
    """The circuit of one endpoint.

    state: "closed", "half_open" or "open". consecutive_failures: since the last answer. total_requests:
    calls that ended. total_failures: calls that failed. opened_at: Unix seconds, or None.
    """

    state: str
    consecutive_failures: int
    total_requests: int
    total_failures: int
    opened_at: float | None


class LocksMetrics(TypedDict):
    """Locks of all managers.

    attempts: acquisitions that began. successes: locks that were won. conflicts: acquisitions that found the
    lock held. timeouts: acquisitions that ended without the lock. hand_offs: locks won after a conflict.
    renewals: renewed leases. losses: leases that ended before their release. backend_errors: failures of the
    database, repeated ones too. listener_failures: rows_left: connections_replaced: change_watch_failures:
    what was given up, see docs/metrics.md. held: locks now. waiting: waiters now. wait_seconds: how long
    acquisitions waited. hold_seconds: how long locks were held.
    """

    attempts: int
    successes: int
    conflicts: int
    timeouts: int
    hand_offs: int
    renewals: int
    losses: int
    backend_errors: int
    held: int
    waiting: int
    listener_failures: int
    rows_left: int
    connections_replaced: int
    change_watch_failures: int
    wait_seconds: Histogram
    hold_seconds: Histogram


class LoopMetrics(TypedDict):
    """All `LoopMonitor`s.

    monitors: those installed now. current_seconds: the lag now. worst_seconds: the worst lag. stalls: those
    that have ended. lag_seconds: the distribution of lags.
    """

    monitors: int
    current_seconds: float
    worst_seconds: float
    stalls: int
    lag_seconds: Histogram


class BridgeMetrics(TypedDict):
    """Native code.

    calls_under_way: awaitables that native code works on, of all kinds.
    """

    calls_under_way: int


class ProcessMetrics(TypedDict):
    """All that this process has counted.

    llm: model calls. circuits: by endpoint. locks: locks of all managers. loop: all `LoopMonitor`s.
    bridge: native code.
    """

    llm: CallsMetrics
    circuits: dict[str, CircuitMetrics]
    locks: LocksMetrics
    loop: LoopMetrics
    bridge: BridgeMetrics


def metrics() -> ProcessMetrics:
    """All that this process has counted since it began; plain dicts, ready for JSON.

    From any thread; the call does not wait. Counts only grow: those of services, managers and monitors that
    are gone are in them. A forked child begins at zero; circuits go on there as they were.
    """
    return cast("ProcessMetrics", {**_native.process_metrics(), "circuits": _circuits()})


def _circuits() -> dict[str, CircuitMetrics]:
    """The circuits of the process's health checker."""
    found: dict[str, CircuitMetrics] = {}
    for endpoint, native in native_circuits():
        circuit = circuit_metrics(native)
        shown = without_secrets(endpoint)
        # Of endpoints that differ only in their secrets the worst is shown.
        found[shown] = max(found.get(shown, circuit), circuit, key=lambda one: _STATES.index(one["state"]))
    return found


def circuit_metrics(native: _native.EndpointHealth) -> CircuitMetrics:
    """What is known of one circuit."""
    return {
        "state": native.state,
        "consecutive_failures": native.consecutive_failures,
        "total_requests": native.total_requests,
        "total_failures": native.total_failures,
        "opened_at": None if native.opened_at is None else native.opened_at / 1e6,
    }


def native_circuits() -> list[tuple[str, _native.EndpointHealth]]:
    """The endpoints of the process's health checker, as they were registered, and what is known of them."""
    # Where nobody has imported it there is no circuit.
    health = sys.modules.get("arbitrageai_native.llm_health_check")
    checker = None if health is None else health._global_health_checker
    status = getattr(checker, "health_status", None)
    entries = list(status.items()) if isinstance(status, dict) else []
    natives = [(str(endpoint), getattr(known, "_native", None)) for endpoint, known in entries]
    # Code and tests may put something of their own there.
    return [(endpoint, native) for endpoint, native in natives if isinstance(native, _native.EndpointHealth)]
