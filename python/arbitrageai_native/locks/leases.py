"""Leases: what a holder has of a lock, and what becomes of a block whose lease is lost.

A lease is kept by the native side: renewed at a third of its time to live while it is held, released when the
block is left. If it is lost nevertheless (the process was stopped for too long, the row was deleted, the
database did not answer), the holder can always detect that, by `lease.is_held`, `await lease.lost()` and the
manager's `on_lost`. A loss is detected by the manager's `loss_check`, at the next renewal, at the expiry less
the manager's `margin`, or at the release: whichever comes first.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, NoReturn

from arbitrageai_native import _native
from arbitrageai_native._safe_text import in_one_line, printable
from arbitrageai_native._typing import Self
from arbitrageai_native.exceptions import LockLostError

__all__ = ["Lease", "OnLost", "SyncLease"]

logger = logging.getLogger(__name__)
logger.addFilter(in_one_line)


def check_on_lost(on_lost: object) -> None:
    """Raise `ValueError` for anything that is no `OnLost`."""
    if isinstance(on_lost, str) and on_lost in ("log", "raise", "cancel"):
        return
    call = vars(type(on_lost)).get("__call__")  # an object may be callable by an asynchronous method
    if inspect.iscoroutinefunction(on_lost) or inspect.iscoroutinefunction(call):
        raise ValueError(
            f"on_lost must be a plain function, and {on_lost!r} is a coroutine function, which nobody would "
            "await: start a task in a plain function, or await `lease.lost()`"
        )
    if not callable(on_lost):
        raise ValueError(f'on_lost must be "log", "raise", "cancel" or a callable, not {on_lost!r}')


class Lease:
    """A lock that is held until the lease is released or dropped.

    `async with lease:` releases it at the end of the block, and applies the manager's `on_lost` as
    `with_lock` does.

    When the last reference to the lease is dropped while the lock is held, the lock is released in the
    background, with a `ResourceWarning` and a logged warning, since the code runs on without the lock. So
    `if await locks.try_lock(...):` protects nothing; keep the lease and release it, or use `with_lock`.
    """

    __slots__ = ("__weakref__", "_block", "_native", "_on_lost")

    def __init__(self, native: _native.Lease, on_lost: OnLost = "log") -> None:
        self._native = native
        self._on_lost = on_lost
        self._block: Block | None = None

    def __del__(self) -> None:
        """Release the lock and warn, if the lock is still held."""
        native = self._native
        if not native.is_held:  # it was released or lost, or this is a forked child
            return
        native.release()  # the call itself begins the release, so the result may be dropped
        message = (
            f"the lease of {printable(native.key)} was dropped while it was held, and is released now: "
            "keep it (`lease = await ...`) and release it, or use `async with locks.with_lock(...)`"
        )
        logger.warning("%s", message[0].upper() + message[1:])
        warnings.warn(message, ResourceWarning, stacklevel=2, source=self)

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: the lock would be released when the first copy is dropped.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"the lease of {printable(self.key)} can't be copied or pickled, since the lock is released when "
            "one of the copies is dropped: pass on the lease itself"
        )

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
        """Seconds until its row expires without renewal; 0 when the lease has ended.

        The lease ends the manager's `margin` before the row expires. Measured on a clock that nobody sets and
        that counts while the machine sleeps, from before the lock was asked for.
        """
        return self._native.remaining

    @property
    def is_held(self) -> bool:
        """Whether the holder may believe in it now: until the manager's `margin` before its expiry."""
        return self._native.is_held

    @property
    def loss(self) -> str | None:
        """The reason of the loss; None while the lock is held, and after it was released.

        The reason is known when `release` returns, at the latest: a release that finds no row is a loss.
        """
        return self._native.loss

    async def renew(self, ttl: float | None = None) -> float:
        """Move the expiry to `ttl` seconds from now (the manager's, when None), and return it.

        Raises:
            LockLostError: it is not held any more.
            ValueError: `ttl` is not a finite number above 0.
        """
        return await self._native.renew(ttl)

    async def release(self) -> bool:
        """Release the lock; False if this lease no longer held it. A cancellation does not stop the release.

        False means a loss, and `loss` gives the reason, unless the lock had been released before, or the
        release was repeated because an answer of the database was lost. If the loss is already known, the
        call does not wait for the database.

        Raises:
            LockBackendError: the database did not answer; the release goes on in the background.
        """
        return await self._native.release()

    async def __aenter__(self) -> Self:
        """Begin a block at whose end the lock is released.

        Raises:
            LockLostError: the lease is not held any more.
            RuntimeError: the lease is in another block.
        """
        if self._block is not None:
            raise RuntimeError("this lease is in a block already")
        if not self.is_held:
            why = self.loss or "it has been released"
            raise LockLostError(f"the lock {printable(self.key)} is not held: {printable(why)}")
        self._block = Block(self, self._on_lost)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Release the lock, and report its loss if it was lost."""
        block, self._block = self._block, None
        if block is not None:
            await block.end(kind, error)

    async def lost(self) -> str | None:
        """Wait until the lease ends; return the reason if it was lost, None if it was released.

        The call also waits for a release that is under way, since the release may detect a loss.
        """
        return await self._native.lost()

    def __repr__(self) -> str:
        """Tell the key, the holder and how long it lasts."""
        state = f"{self.remaining:.1f}s left" if self.is_held else (self.loss or "released")
        return f"<Lease {printable(self.key)} held by {self.holder_id!r}, {state}>"


OnLost = Literal["log", "raise", "cancel"] | Callable[[Lease], object]
"""What a block does when its lease is lost.

`"log"` logs a warning at the end of the block. `"raise"` raises `LockLostError` at the end of the block.
`"cancel"` cancels the block as soon as the loss is detected, and the block raises `LockLostError`, as
`asyncio.timeout` turns a cancellation into `TimeoutError`. A callable is called with the lease as soon as the
loss is detected, on the event loop, and exactly once; an exception that it raises is logged.

If the loss is detected only at the release, or if the body never let the loop run, the end of the block acts
instead: `"cancel"` raises `LockLostError` there, and the callable is called there. For `with_lock_sync` a
callable is called from another thread at once, and `"cancel"` means `"raise"`, as a thread can't be cancelled
or interrupted. When the body itself raised an exception, the block raises that exception, and the loss is
logged.
"""


class Block:
    """A body that runs while a lease is held, in the task that makes this object."""

    def __init__(self, lease: Lease, on_lost: OnLost) -> None:
        self._lease = lease
        self._on_lost = on_lost
        acts_at_once = on_lost != "log" and on_lost != "raise"
        self._guard = _Guard(lease, on_lost) if acts_at_once else None
        self.has_released = False

    async def end(self, kind: type[BaseException] | None, error: BaseException | None) -> None:
        """Release the lock, and act on its loss if it was lost.

        Raises:
            LockLostError: `on_lost` says so.
        """
        lease, guard = self._lease, self._guard
        cancelled_here = guard is not None and guard.stop()
        called = guard is not None and guard.has_acted
        try:
            self.has_released = await lease.release()
        except asyncio.CancelledError as cancellation:
            # Carried through natively; our own cancellation, arriving late, is no reason to cancel what is
            # around us.
            if not cancelled_here or error is not None:
                act_on_loss(lease, self._on_lost, error or cancellation, called=called)
                raise
        except Exception as failure:
            logger.warning("Failed to release lock %s, it goes on in the background: %s", lease.key, failure)
        ours = cancelled_here and kind is asyncio.CancelledError
        act_on_loss(lease, self._on_lost, error, called=called, replaces_error=ours)


def act_on_loss(
    lease: Lease,
    on_lost: OnLost,
    error: BaseException | None,
    *,
    called: bool = False,
    replaces_error: bool = False,
) -> None:
    """Apply `on_lost` at the end of a block, if the lease was lost.

    Args:
        lease: the lease of the block, which has been released.
        on_lost: the action of the block.
        error: the exception of the body. The block raises it, whatever `on_lost` is, unless `replaces_error`.
        called: whether a callable has been called already.
        replaces_error: whether the error is the cancellation that reported the loss to the body.

    Raises:
        LockLostError: `on_lost` is "raise" or "cancel", and the body raised no exception itself.
    """
    loss = lease.loss
    if loss is None:
        return
    if on_lost in ("raise", "cancel") and (error is None or replaces_error):
        raise LockLostError(f"the lock {printable(lease.key)} was lost: {printable(loss)}") from error
    logger.warning("Lock %s was lost before it was released: %s", lease.key, loss)
    if not isinstance(on_lost, str) and not called:
        call_on_lost(on_lost, lease)


def call_on_lost(on_lost: Callable[[Lease], object], lease: Lease) -> None:
    try:
        on_lost(lease)
    except Exception:
        logger.exception("on_lost failed for %s", lease.key)


class _Guard:
    """Waits for a lease's loss beside the body, and acts on it."""

    def __init__(self, lease: Lease, on_lost: Literal["cancel"] | Callable[[Lease], object] | Any) -> None:
        self._lease = lease
        self._on_lost = on_lost
        self._body = asyncio.current_task()
        self._cancelled = False
        self.has_acted = False
        self._watch = asyncio.create_task(self._run())

    async def _run(self) -> None:
        if await self._lease.lost() is None:
            return
        self.has_acted = True
        if self._on_lost != "cancel":
            call_on_lost(self._on_lost, self._lease)
        elif self._body is not None:
            self._cancelled = True
            self._body.cancel()

    def stop(self) -> bool:
        """Stop waiting; whether the body was cancelled from here, and by nobody else."""
        self._watch.cancel()
        if not self._cancelled or self._body is None:
            return False
        # Python 3.10 does not count cancellations: there, a second one at the same moment is taken for ours.
        uncancel = getattr(self._body, "uncancel", None)
        return uncancel is None or uncancel() == 0


class SyncLease(Lease):
    """A lease in a thread without an event loop."""

    __slots__ = ()

    def renew_sync(self, ttl: float | None = None) -> float:
        """As `renew`, waiting in this thread."""
        return self._native.renew_blocking(ttl)

    def release_sync(self) -> bool:
        """As `release`, waiting in this thread."""
        return self._native.release_blocking()
