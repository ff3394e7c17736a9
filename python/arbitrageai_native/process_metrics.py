"""All that the process has counted, in one dict: `arbitrageai_native.metrics()`."""

from __future__ import annotations

import sys
from typing import Any

from arbitrageai_native import _native
from arbitrageai_native._secrets import without_secrets

__all__ = ["metrics"]

_STATES = ("closed", "half_open", "open")


def metrics() -> dict[str, Any]:
    """All that this process has counted since it began; of plain values, ready for JSON.

    From any thread; nothing is waited for. Counts only grow: those of services, managers and monitors that
    are gone are in them. A forked child begins at zero; circuits go on there as they were. A histogram is
    `bounds` (upper bounds, in seconds), `counts` (up to each bound and above the last; each value counts
    once) and `sum`.

    - `llm`: `models`: by the name of the model that was asked for (the 100 first, others as "other"):
      `calls` by outcome ("success", the kinds of failure, "cancelled"), `in_flight`, `retries`, `tokens`
      ("prompt", "completion"), `response_seconds` (a histogram of successes). `requests_in_flight`: requests
      that have a connection. `blocking_calls_in_loop`: blocking methods called from a running event loop.
    - `circuits`: by endpoint: `state` ("closed", "half_open", "open"), `consecutive_failures`,
      `total_requests`, `total_failures`, `opened_at` (Unix seconds, or None).
    - `locks`: `attempts`, `successes`, `conflicts` (found held), `timeouts`, `hand_offs` (won after a
      conflict), `renewals`, `losses`, `backend_errors` (failures of the database, repeated ones too); what
      was given up: `listener_failures`, `rows_left`, `connections_replaced`, `change_watch_failures` (see
      docs/metrics.md); `held` and `waiting` now; `wait_seconds` and `hold_seconds` (histograms).
    - `loop`: of all `LoopMonitor`s: `monitors` installed now, `current_seconds` and `worst_seconds` (lags),
      `stalls` that have ended, `lag_seconds` (a histogram).
    - `bridge`: `calls_under_way`: awaitables that native code is at work on, of whatever kind.
    """
    return {**_native.process_metrics(), "circuits": _circuits()}


def _circuits() -> dict[str, dict[str, Any]]:
    """The circuits of the process's health checker."""
    found: dict[str, dict[str, Any]] = {}
    for endpoint, native in native_circuits():
        circuit = {
            "state": native.state,
            "consecutive_failures": native.consecutive_failures,
            "total_requests": native.total_requests,
            "total_failures": native.total_failures,
            "opened_at": None if native.opened_at is None else native.opened_at / 1e6,
        }
        shown = without_secrets(endpoint)
        # Of endpoints that differ only in their secrets the worst is shown.
        if shown not in found or _badness(found[shown]) < _badness(circuit):
            found[shown] = circuit
    return found


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


def _badness(circuit: dict[str, Any]) -> int:
    return _STATES.index(circuit["state"])
