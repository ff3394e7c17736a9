"""What `BidLockManager.locks` tells."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HeldLock", "LockOverview", "Waiter"]


@dataclass(frozen=True)
class HeldLock:
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


@dataclass(frozen=True)
class Waiter:
    """Someone in this process who waits for a lock.

    Attributes:
        key: The lock's key.
        holder_id: The name under which it will be held.
        seconds: For how long so far.
    """

    key: str
    holder_id: str
    seconds: float


@dataclass(frozen=True)
class LockOverview:
    """The whole table, and this process's waiters.

    Attributes:
        held: Every row.
        waiting: Who waits, in this process.
    """

    held: list[HeldLock]
    waiting: list[Waiter]
