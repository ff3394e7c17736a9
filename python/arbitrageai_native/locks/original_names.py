"""What code written for the originals does with a lock manager beside calling its methods.

It sets the counters, calls methods on the class, and replaces `acquire_lock` and `release_lock`, through
which `with_lock` then has to go.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from functools import partial, wraps
from types import MethodType, TracebackType
from typing import Any

from arbitrageai_native.exceptions import LockTimeoutError
from arbitrageai_native.locks import keys
from arbitrageai_native.locks.blocks import LockContext
from arbitrageai_native.utils.replaced import is_replaced

__all__ = ["OriginalNames", "ReplacedLockContext", "callable_on_class", "replaced_context"]


class Counter:
    """A count of the manager's databases, which may be set: tests set it to 0."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, manager: Any, owner: type) -> Any:
        return self if manager is None else manager._databases.counters()[self._name]

    def __set__(self, manager: Any, count: int) -> None:
        manager._databases.set_counter(self._name, count)


class OriginalNames:
    """Attributes of the original that only tests use."""

    _lock_attempts = Counter("attempts")
    _lock_successes = Counter("successes")
    _lock_conflicts = Counter("conflicts")
    _lock_timeouts = Counter("timeouts")

    @staticmethod
    def _cleanup_expired_locks(db: Any) -> int:
        """Delete the expired rows through a SQLAlchemy session, and return their number.

        No method calls it: an acquisition takes over an expired row itself.
        """
        import time

        from sqlalchemy import text

        statement = text("DELETE FROM distributed_locks WHERE expires_at < :now")
        deleted: int = db.execute(statement, {"now": time.time()}).rowcount
        if deleted:
            db.commit()
        return deleted


class _OnClassToo:
    """A coroutine method that also works on the class: it is static in the newest original."""

    def __init__(self, function: Callable[..., Awaitable[Any]], process_wide: Callable[[], Any]) -> None:
        self._function = function

        @wraps(function)
        async def on_class(*args: Any, **kwargs: Any) -> Any:
            first, *others = args or (None,)
            if isinstance(first, OriginalNames):  # called with a manager, as a method of a class
                return await function(first, *others, **kwargs)
            return await function(process_wide(), *args, **kwargs)

        own = inspect.signature(function)
        without_self = list(own.parameters.values())[1:]
        on_class.__signature__ = own.replace(parameters=without_self)  # type: ignore[attr-defined]
        self._on_class = on_class

    def __get__(self, manager: Any, owner: type) -> Any:
        return self._on_class if manager is None else MethodType(self._function, manager)


def callable_on_class(manager_class: type, process_wide: Callable[[], Any], *names: str) -> None:
    """Let coroutine methods be called on the class, too: they then work on the process-wide manager."""
    for name in names:
        setattr(manager_class, name, _OnClassToo(vars(manager_class)[name], process_wide))


def replaced_context(
    manager: Any, own: Mapping[str, object], lock: tuple[Any, Any, float, Any]
) -> LockContext | None:
    """Return the block of a manager with a replaced `acquire_lock` or `release_lock`; None if neither is."""
    return ReplacedLockContext(manager, *lock) if is_replaced(manager, own) else None


class ReplacedLockContext(LockContext):
    """A block that goes through `acquire_lock` and `release_lock`, as the original's does.

    The lock is not renewed meanwhile: nothing here knows what the replacement acquired.
    """

    def __init__(
        self, manager: Any, marketplace_id: Any, posting_id: Any, timeout: float, holder_id: Any
    ) -> None:
        message = partial(keys.timeout_message, marketplace_id, posting_id, timeout)
        super().__init__(self._no_lease, "log", message)
        self._manager = manager
        self._lock = {"marketplace_id": marketplace_id, "posting_id": posting_id}
        self._timeout = timeout
        self._holder_id = holder_id
        self._is_inside = False

    @staticmethod
    async def _no_lease() -> Any:
        return None

    def _anew(self) -> LockContext:
        lock = (*self._lock.values(), self._timeout, self._holder_id)
        return ReplacedLockContext(self._manager, *lock)

    async def __aenter__(self) -> Any:
        """Acquire the lock; there is no lease to return.

        Raises:
            LockTimeoutError: `acquire_lock` returned False.
        """
        if self._is_inside:
            raise RuntimeError("this lock context has been entered already")
        terms = {"timeout": self._timeout, "holder_id": self._holder_id}
        if not await self._manager.acquire_lock(**self._lock, **terms):
            raise LockTimeoutError(self._timeout_message())
        self._is_inside = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        if self._is_inside:
            self._is_inside = False
            await self._manager.release_lock(**self._lock, holder_id=self._holder_id)
