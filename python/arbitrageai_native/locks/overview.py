"""What a lock manager reports: who holds and who waits, and what was counted."""

from collections.abc import Mapping
from typing import NamedTuple, TypedDict

from arbitrageai_native import _native

__all__ = ["HeldLock", "Histogram", "LockCounts", "LockMetrics", "LockOverview", "Waiter"]


class HeldLock(NamedTuple):
    """A row of the table. Times are Unix seconds by the database's clock.

    Attributes:
        key: `bid:lock:{marketplace}:{posting}`.
        holder_id: The name under which it is held.
        acquired_at: Since when.
        expires_at: When it expires, unless it is renewed; infinite if it never expires or can't be read.
        remaining: Seconds until it expires; negative when it has, and nobody has taken it over.
    """

    key: str
    holder_id: str
    acquired_at: float
    expires_at: float
    remaining: float

    @property
    def is_expired(self) -> bool:
        """Whether anyone may take it over."""
        return self.remaining <= 0


class Waiter(NamedTuple):
    """Someone in this process who waits for a lock.

    Attributes:
        key: The lock's key.
        holder_id: The name under which it will be held.
        seconds: For how long so far.
    """

    key: str
    holder_id: str
    seconds: float


class LockOverview(NamedTuple):
    """The whole table, and this process's waiters.

    Attributes:
        held: Every row.
        waiting: Who waits, in this process.
    """

    held: list[HeldLock]
    waiting: list[Waiter]


class LockCounts(TypedDict):
    """What `BidLockManager.get_metrics` returns: the counters of the manager, and of the whole table.

    lock_attempts: acquisitions asked for. lock_successes: those that got the lock. lock_conflicts: those that
    found it held. lock_timeouts: those that gave up. active_locks: unexpired locks in the table.
    """

    lock_attempts: int
    lock_successes: int
    lock_conflicts: int
    lock_timeouts: int
    active_locks: int


class Histogram(TypedDict):
    """Durations in seconds.

    bounds: the upper bounds. counts: how many lie between them; one more than bounds. sum: of all durations.
    """

    bounds: list[float]
    counts: list[int]
    sum: float


class LockMetrics(LockCounts):
    """What `BidLockManager.get_metrics_async` returns: `LockCounts`, and more.

    lock_renewals: renewals of leases. lock_losses: leases that were lost. backend_errors: failures of the
    database, repeated tries included. waiters: those who wait in this process now. wait_seconds: how long
    acquisitions waited. hold_seconds: how long locks were held.
    """

    lock_renewals: int
    lock_losses: int
    backend_errors: int
    waiters: int
    wait_seconds: Histogram
    hold_seconds: Histogram


def lock_counts(counters: Mapping[str, int], active_locks: int) -> LockCounts:
    """Name a manager's counters as the original does."""
    return {
        "lock_attempts": counters["attempts"],
        "lock_successes": counters["successes"],
        "lock_conflicts": counters["conflicts"],
        "lock_timeouts": counters["timeouts"],
        "active_locks": active_locks,
    }


def lock_metrics(counters: Mapping[str, int], active_locks: int, locks: _native.LockManager) -> LockMetrics:
    """Return the counters of a manager, and the figures of the database that it uses now."""
    bounds, (waits, waited), (holds, held) = locks.histograms()
    return {
        **lock_counts(counters, active_locks),
        "lock_renewals": counters["renewals"],
        "lock_losses": counters["losses"],
        "backend_errors": counters["backend_errors"],
        "waiters": len(locks.waiting()),
        "wait_seconds": {"bounds": bounds, "counts": waits, "sum": waited},
        "hold_seconds": {"bounds": bounds, "counts": holds, "sum": held},
    }
