"""Leases: what a holder has of a lock, and the context managers that give one.

A lease is kept by the native side: renewed at a third of its time to live while it is held, released when the
block is left. If it is lost nevertheless (the process was stopped for too long, the row was deleted, the
database stayed away), the holder can always find out: `lease.is_held`, `await lease.lost()`, and what the
manager's `on_lost` says.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ._printable import in_one_line, printable
from .exceptions import LockLostError, LockTimeoutError

if TYPE_CHECKING:
    from . import _native

__all__ = ["Lease", "LockContext", "OnLost", "SyncLease", "SyncLockContext"]

logger = logging.getLogger(__name__)
logger.addFilter(in_one_line)

OnLost = Literal["log", "raise", "cancel"] | Callable[["Lease"], object]
"""What a block does when its lease is lost.

`"log"` warns when the block is left. `"raise"` raises `LockLostError` there. `"cancel"` cancels the block at
once, and `LockLostError` comes out of it, as `asyncio.timeout` does it. A callable is called with the lease
at once, on the loop.
"""


def check_on_lost(on_lost: object) -> None:
    """Raise `ValueError` for anything that is no `OnLost`."""
    if not (on_lost in ("log", "raise", "cancel") if isinstance(on_lost, str) else callable(on_lost)):
        raise ValueError(f'on_lost must be "log", "raise", "cancel" or a callable, not {on_lost!r}')


class Lease:
    """A lock that is held. Dropping it releases the lock in the background."""

    __slots__ = ("__weakref__", "_native")

    def __init__(self, native: _native.Lease) -> None:
        self._native = native

    @property
    def key(self) -> str:
        """The value of the table's `lock_key`: `bid:lock:{marketplace}:{posting}`."""
        return self._native.key

    @property
    def holder_id(self) -> str:
        """The name under which it is held."""
        return self._native.holder_id

    @property
    def fencing_token(self) -> int:
        """A number that grows with every acquisition of the key, across holders, processes and restarts.

        Write it with what the lock protects, and refuse to write over a greater one: then a holder that was
        stopped and wakes up late does no harm.

            UPDATE bids SET status = 'placed', fence = :token WHERE posting_id = :posting AND fence < :token
        """
        return self._native.fencing_token

    @property
    def acquired_at(self) -> float:
        """When it was acquired: Unix seconds by the database's clock.

        It is an estimate, to a fiftieth of a second, if the lock was handed over in memory.
        """
        return self._native.acquired_at

    @property
    def expires_at(self) -> float:
        """When it expires unless it is renewed: Unix seconds by the database's clock."""
        return self._native.expires_at

    @property
    def remaining(self) -> float:
        """Seconds for which the holder may still believe in it without renewal; 0 when it has ended.

        Measured on a clock that nobody sets and that counts while the machine sleeps, from before the lock
        was asked for.
        """
        return self._native.remaining

    @property
    def is_held(self) -> bool:
        """Whether the holder may believe in it now."""
        return self._native.is_held

    @property
    def loss(self) -> str | None:
        """Why it was lost; None while it is held, and when it was released."""
        return self._native.loss

    async def renew(self, ttl: float | None = None) -> float:
        """Move the expiry to `ttl` seconds from now (the manager's, when None), and return it.

        Raises:
            LockLostError: it is not held any more.
            ValueError: `ttl` is not a finite number above 0.
        """
        return await self._native.renew(ttl)

    async def release(self) -> bool:
        """Release the lock; False if it was not ours any more. Carried through even when cancelled.

        Raises:
            LockBackendError: the database did not answer; the release goes on in the background.
        """
        return await self._native.release()

    async def lost(self) -> str | None:
        """Wait until the lease ends: the reason when it was lost, None when it was released."""
        return await self._native.lost()

    def __repr__(self) -> str:
        """Tell the key, the holder and how long it lasts."""
        state = f"{self.remaining:.1f}s left" if self.is_held else (self.loss or "released")
        return f"<Lease {printable(self.key)} held by {self.holder_id!r}, {state}>"


class LeaseSource(Protocol):
    """Acquires native leases, for one set of arguments."""

    def __call__(self) -> Awaitable[_native.Lease]:
        """Acquire one."""


class LockContext:
    """`async with` over a lock: acquired on entry, kept meanwhile, released on exit."""

    def __init__(self, acquire: LeaseSource, on_lost: OnLost, timeout_message: str) -> None:
        self._acquire = acquire
        self._on_lost = on_lost
        self._timeout_message = timeout_message
        self._lease: Lease | None = None
        self._guard: _Guard | None = None

    async def __aenter__(self) -> Lease:
        """Acquire the lock.

        Raises:
            LockTimeoutError: it was still held when the time was up.
            LockBackendError: the database could not be reached in that time.
        """
        if self._lease is not None:
            raise RuntimeError("this lock context has been entered already")
        try:
            lease = Lease(await self._acquire())
        except LockTimeoutError:
            raise LockTimeoutError(self._timeout_message) from None
        self._lease = lease
        if self._on_lost != "log" and self._on_lost != "raise":
            self._guard = _Guard(lease, self._on_lost)
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Release the lock, and report its loss if it was lost."""
        lease, self._lease = self._lease, None
        guard, self._guard = self._guard, None
        if lease is None:
            return
        cancelled_here = guard is not None and guard.stop()
        loss = lease.loss
        try:
            await lease.release()
        except asyncio.CancelledError:
            # Carried through natively; our own cancellation, arriving late, is no reason to cancel what is
            # around us.
            if not cancelled_here or error is not None:
                raise
        except Exception as failure:
            logger.warning("Failed to release lock %s, it goes on in the background: %s", lease.key, failure)
        if loss is None:
            return
        if cancelled_here and (kind is None or kind is asyncio.CancelledError):
            raise LockLostError(f"the lock {printable(lease.key)} was lost: {printable(loss)}") from error
        if self._on_lost == "raise" and error is None:
            raise LockLostError(f"the lock {printable(lease.key)} was lost: {printable(loss)}")
        logger.warning("Lock %s was lost before it was released: %s", lease.key, loss)


class _Guard:
    """Waits for a lease's loss beside the body, and acts on it."""

    def __init__(self, lease: Lease, on_lost: Literal["cancel"] | Callable[[Lease], object] | Any) -> None:
        self._lease = lease
        self._on_lost = on_lost
        self._body = asyncio.current_task()
        self._cancelled = False
        self._watch = asyncio.create_task(self._run())

    async def _run(self) -> None:
        if await self._lease.lost() is None:
            return
        if self._on_lost == "cancel":
            if self._body is not None:
                self._cancelled = True
                self._body.cancel()
            return
        try:
            self._on_lost(self._lease)
        except Exception:
            logger.exception("on_lost failed for %s", self._lease.key)

    def stop(self) -> bool:
        """Stop waiting; whether the body was cancelled from here, and by nobody else."""
        self._watch.cancel()
        if not self._cancelled or self._body is None:
            return False
        # Python 3.10 does not count cancellations: there, a second one at the same moment is taken for ours.
        uncancel = getattr(self._body, "uncancel", None)
        return uncancel is None or uncancel() == 0


class SyncLockContext:
    """`with` over a lock, for threads. Kept natively meanwhile, as the asynchronous one is."""

    def __init__(self, acquire: Callable[[], _native.Lease], on_lost: OnLost, timeout_message: str) -> None:
        if on_lost == "cancel":
            on_lost = "raise"  # a thread can't be cancelled; it learns of the loss when it leaves the block
        self._acquire = acquire
        self._on_lost = on_lost
        self._timeout_message = timeout_message
        self._lease: SyncLease | None = None

    def __enter__(self) -> SyncLease:
        """Acquire the lock, waiting in this thread.

        Raises:
            LockTimeoutError: it was still held when the time was up.
            LockBackendError: the database could not be reached in that time.
        """
        if self._lease is not None:
            raise RuntimeError("this lock context has been entered already")
        try:
            self._lease = SyncLease(self._acquire())
        except LockTimeoutError:
            raise LockTimeoutError(self._timeout_message) from None
        return self._lease

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Release the lock, and report its loss if it was lost."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        loss = lease.loss
        try:
            lease.release_sync()
        except Exception as failure:
            logger.warning("Failed to release lock %s, it goes on in the background: %s", lease.key, failure)
        if loss is None:
            return
        if self._on_lost == "raise" and error is None:
            raise LockLostError(f"the lock {printable(lease.key)} was lost: {printable(loss)}")
        logger.warning("Lock %s was lost before it was released: %s", lease.key, loss)
        if callable(self._on_lost):
            self._on_lost(lease)


class SyncLease(Lease):
    """A lease in a thread without an event loop."""

    __slots__ = ()

    def renew_sync(self, ttl: float | None = None) -> float:
        """As `renew`, waiting in this thread."""
        return self._native.renew_blocking(ttl)

    def release_sync(self) -> bool:
        """As `release`, waiting in this thread."""
        return self._native.release_blocking()
