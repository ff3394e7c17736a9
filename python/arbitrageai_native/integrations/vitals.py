"""How this process is: what is wrong with it, and what its live page shows.

All of it is asked for on the serving loop, and without holding it up: only databases are waited for, each a
second at most.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict
from typing import Any, Final

from arbitrageai_native import _native
from arbitrageai_native._safe_text import without_secrets
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from arbitrageai_native.exceptions import LockBackendError
from arbitrageai_native.locks.overview import HeldLock
from arbitrageai_native.loop_monitor import LoopMonitor
from arbitrageai_native.process_metrics import circuit_metrics, metrics, native_circuits

LockManager = BidLockManager | RedisBidLockManager
LockManagers = LockManager | Iterable[LockManager] | Mapping[str, LockManager]

DATABASE_SECONDS: Final = 1.0
# What a browser shows at once; rendering more would hold up the loop.
MOST_ROWS: Final = 200


class Vitals:
    """The state of this process, of some lock managers and of the serving loop.

    Args:
        locks: The managers to ask: one, several, or several by name.
        monitor: The monitor to ask. By default that of the serving loop, on which one is installed if it has
            none.

    Raises:
        TypeError: `locks` or `monitor` is something else.
    """

    def __init__(self, locks: LockManagers, monitor: LoopMonitor | None) -> None:
        if monitor is not None and not isinstance(monitor, LoopMonitor):
            raise TypeError(f"monitor must be a LoopMonitor, not {monitor!r}")
        self._managers = _by_name(locks)
        self._monitor = monitor

    def watching(self) -> AbstractAsyncContextManager[object]:
        """A block in which the running loop is watched: by its own monitor, or by one for that time alone."""
        if self._installed_monitor() is not None:
            return nullcontext()
        return self._monitor or LoopMonitor()

    async def problems(self) -> list[str]:
        """What keeps this process from its work, a line each, without secrets. Nothing if all is well."""
        answers = [_problem_of(name, manager) for name, manager in self._managers.items()]
        problems = [problem for problem in await asyncio.gather(*answers) if problem is not None]
        for endpoint, health in native_circuits():
            # Once the time to recover has passed a call is wanted: it is what closes the circuit again.
            if health.state == "open" and health.would_refuse():
                problems.append(f"{without_secrets(endpoint)}: the circuit is open")
        return problems

    async def overview(self) -> dict[str, Any]:
        """What the live page shows. Times are seconds, points in time Unix seconds."""
        managers = [_overview_of(name, manager) for name, manager in self._managers.items()]
        return {
            "process": os.getpid(),
            "loop": self._loop(),
            "calls_in_flight": sum(model["in_flight"] for model in metrics()["llm"]["models"].values()),
            "locks": await asyncio.gather(*managers),
            "circuits": [_circuit(endpoint, health) for endpoint, health in native_circuits()],
        }

    def _installed_monitor(self) -> LoopMonitor | None:
        if self._monitor is not None:
            return self._monitor if self._monitor.is_installed else None
        return LoopMonitor.of_running_loop()

    def _loop(self) -> dict[str, Any]:
        # An application that was mounted in another one is not told of its start.
        monitor = self._installed_monitor() or (self._monitor or LoopMonitor()).install()
        # In this order: a lag that grows meanwhile must not be recent and yet exceed the worst one.
        recent, reading, stall = monitor.recent, monitor.snapshot(), monitor.last_stall
        return {
            "recent": recent,
            "worst": reading["worst"],
            "stalls": reading["stalls"],
            "threshold": monitor.threshold,
            "last_stall": stall and asdict(stall),
        }


def _by_name(locks: LockManagers) -> dict[str, BidLockManager]:
    if isinstance(locks, LockManager):
        named: dict[str, LockManager] = {"locks": locks}
    elif isinstance(locks, Mapping):
        named = dict(locks)
    elif isinstance(locks, Iterable) and not isinstance(locks, str):
        managers = list(locks)
        numbered = (f"locks {number}" for number in range(1, len(managers) + 1))
        named = dict(zip(["locks"] if len(managers) == 1 else numbered, managers, strict=True))
    else:
        raise TypeError(f"locks must be lock managers, not {locks!r}")
    for name, manager in named.items():
        if not isinstance(manager, LockManager):
            raise TypeError(
                f"locks: {name} must be a BidLockManager or a RedisBidLockManager, not {manager!r}"
            )
    return {
        str(name): manager._manager if isinstance(manager, RedisBidLockManager) else manager
        for name, manager in named.items()
    }


async def _problem_of(name: str, manager: BidLockManager) -> str | None:
    try:
        await _locks_of(manager).hear_from_database(DATABASE_SECONDS)
    except LockBackendError as error:
        return f"{name}: {error}"
    return None


async def _overview_of(name: str, manager: BidLockManager) -> dict[str, Any]:
    problem, rows, waiters = None, [], []
    try:
        locks = _locks_of(manager)
        waiters = locks.waiting(MOST_ROWS + 1)
        rows = await asyncio.wait_for(locks.rows(MOST_ROWS + 1), DATABASE_SECONDS)
    except LockBackendError as error:
        problem = str(error)
    except asyncio.TimeoutError:
        problem = "the database did not answer in time"
    return {
        "name": name,
        "problem": problem,
        "held": [_held(HeldLock(*row)) for row in rows[:MOST_ROWS]],
        "waiting": [dict(zip(("key", "holder", "seconds"), one, strict=True)) for one in waiters[:MOST_ROWS]],
        "more_held": len(rows) > MOST_ROWS,
        "more_waiting": len(waiters) > MOST_ROWS,
    }


def _locks_of(manager: BidLockManager) -> _native.LockManager:
    try:
        return manager._locks()
    except Exception as error:
        # The application's own `_get_db` may have raised, and its words may hold a password.
        kind = type(error.__cause__ or error).__name__
        raise LockBackendError(f"where the locks are can't be told: {kind}") from None


def _held(lock: HeldLock) -> dict[str, Any]:
    return {
        "key": lock.key,
        "holder": lock.holder_id,
        "since": _finite(lock.acquired_at),
        "until": _finite(lock.expires_at),
        "remaining": _finite(lock.remaining),
    }


def _circuit(endpoint: str, health: _native.EndpointHealth) -> dict[str, Any]:
    circuit = circuit_metrics(health)
    opened_at, recovers_in = circuit["opened_at"], None
    if health.state == "open" and opened_at is not None:
        recovers_in = _finite(max(0.0, opened_at + health.recovery_timeout_seconds - time.time()))
    return {**circuit, "endpoint": without_secrets(endpoint), "recovers_in": recovers_in}


def _finite(number: float) -> float | None:
    """JSON has no infinity, which a column of floats may hold."""
    return number if math.isfinite(number) else None
