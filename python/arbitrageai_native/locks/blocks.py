"""Blocks that hold a lock: the context managers and decorators of `with_lock` and `with_lock_sync`."""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from threading import Lock
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from arbitrageai_native import _native
from arbitrageai_native._safe_text import in_one_line, printable
from arbitrageai_native.exceptions import LockTimeoutError, lock_timeout_error
from arbitrageai_native.locks.leases import (
    Block,
    Lease,
    OnLost,
    SyncLease,
    act_on_loss,
    call_on_lost,
    check_on_lost,
)
from arbitrageai_native.locks.log_lines import LogLines

__all__ = ["BlockLog", "LockContext", "SyncLockContext"]

logger = logging.getLogger(__name__)
logger.addFilter(in_one_line)

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _timeout(error: LockTimeoutError, message: str) -> LockTimeoutError:
    """Return the error with the timeout as the caller gave it, and not what was left of it natively."""
    return lock_timeout_error(message, error.holder_id, error.held_since, printable(error.holder_id))


class BlockLog:
    """What a block logs of its lock: a marketplace, a posting, and the holder's name."""

    __slots__ = ("_lines", "_lock", "_timeout", "_ttl")

    def __init__(
        self, lines: LogLines, lock: tuple[object, object, object], ttl: float, timeout: float
    ) -> None:
        self._lines, self._lock, self._ttl, self._timeout = lines, lock, ttl, timeout

    def acquired(self) -> None:
        self._lines.acquired(*self._lock, self._ttl)

    def not_acquired(self, error: Exception) -> None:
        self._lines.not_acquired(*self._lock, self._timeout, error)

    def released(self) -> None:
        self._lines.released(*self._lock)


class LockContext:
    """`async with` over a lock: acquired on entry, kept meanwhile, released on exit.

    As a decorator of a coroutine function it acquires the lock for each call.
    """

    def __init__(
        self,
        acquire: Callable[[], Awaitable[_native.Lease]],
        on_lost: OnLost,
        timeout_message: Callable[[], str],
        log: BlockLog | None = None,
    ) -> None:
        check_on_lost(on_lost)
        self._acquire = acquire
        self._on_lost = on_lost
        self._timeout_message = timeout_message
        self._log = log
        self._block: Block | None = None

    def __bool__(self) -> bool:
        raise TypeError("with_lock acquires nothing by itself: write `async with locks.with_lock(...):`")

    def __call__(
        self, function: Callable[_Parameters, Coroutine[Any, Any, _Result]]
    ) -> Callable[_Parameters, Coroutine[Any, Any, _Result]]:
        """Hold the lock during each call of `function`.

        Raises:
            TypeError: `function` is no coroutine function.
        """
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"with_lock decorates coroutine functions, not {function!r}: see with_lock_sync")

        @wraps(function)
        async def locked(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            async with self._anew():
                return await function(*args, **kwargs)

        return locked

    def _anew(self) -> LockContext:
        return LockContext(self._acquire, self._on_lost, self._timeout_message, self._log)

    async def __aenter__(self) -> Lease:
        """Acquire the lock.

        Raises:
            LockTimeoutError: it was still held when the time was up.
            LockBackendError: the database could not be reached in that time.
        """
        if self._block is not None:
            raise RuntimeError("this lock context has been entered already")
        try:
            lease = Lease(await self._acquire(), self._on_lost)
        except LockTimeoutError as error:
            if self._log is not None:
                self._log.not_acquired(error)
            raise _timeout(error, self._timeout_message()) from None
        if self._log is not None:
            self._log.acquired()
        self._block = Block(lease, self._on_lost)
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Release the lock, and report its loss if it was lost."""
        block, self._block = self._block, None
        if block is not None:
            await block.end(kind, error)
            if self._log is not None and block.has_released:
                self._log.released()


class SyncLockContext:
    """`with` over a lock, for threads. Kept natively meanwhile, as the asynchronous one is.

    As a decorator of a function it acquires the lock for each call.
    """

    def __init__(
        self, acquire: Callable[[], _native.Lease], on_lost: OnLost, timeout_message: Callable[[], str]
    ) -> None:
        check_on_lost(on_lost)
        self._acquire = acquire
        self._on_lost = on_lost
        self._timeout_message = timeout_message
        self._lease: SyncLease | None = None
        self._call: _CallOnce | None = None

    def __bool__(self) -> bool:
        raise TypeError("with_lock_sync acquires nothing by itself: write `with locks.with_lock_sync(...):`")

    def __call__(self, function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        """Hold the lock during each call of `function`.

        Raises:
            TypeError: `function` is a coroutine function, whose body would run after the release.
        """
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"with_lock_sync decorates plain functions, not {function!r}: see with_lock")

        @wraps(function)
        def locked(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            with SyncLockContext(self._acquire, self._on_lost, self._timeout_message):
                return function(*args, **kwargs)

        return locked

    def __enter__(self) -> SyncLease:
        """Acquire the lock, waiting in this thread.

        Raises:
            LockTimeoutError: it was still held when the time was up.
            LockBackendError: the database could not be reached in that time.
        """
        if self._lease is not None:
            raise RuntimeError("this lock context has been entered already")
        try:
            native = self._acquire()
        except LockTimeoutError as error:
            raise _timeout(error, self._timeout_message()) from None
        self._lease = SyncLease(native, self._on_lost)
        if not isinstance(self._on_lost, str):
            self._call = _CallOnce(self._on_lost, self._lease)
            native.call_when_lost(self._call)
        return self._lease

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Release the lock, and report its loss if it was lost."""
        lease, self._lease = self._lease, None
        call, self._call = self._call, None
        if lease is None:
            return
        try:
            lease.release_sync()
        except Exception as failure:
            logger.warning("Failed to release lock %s, it goes on in the background: %s", lease.key, failure)
        if call is not None and lease.loss is not None:
            call()
        act_on_loss(lease, self._on_lost, error, called=True)


class _CallOnce:
    """Calls `on_lost` for a lease once, from whichever thread comes first; the other one waits for it."""

    def __init__(self, on_lost: Callable[[Lease], object], lease: Lease) -> None:
        self._on_lost = on_lost
        self._lease = weakref.ref(lease)  # the lease has this object
        self._has_called = False
        self._calling = Lock()

    def __call__(self) -> None:
        with self._calling:
            lease = self._lease()
            if lease is None or self._has_called:
                return
            self._has_called = True
            call_on_lost(self._on_lost, lease)
