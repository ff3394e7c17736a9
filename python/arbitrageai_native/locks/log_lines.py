"""The lines that the lock managers log: operators' alerts look for the originals' words and levels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from arbitrageai_native._native import LockManager
from arbitrageai_native.exceptions import LockBackendError, LockTimeoutError

__all__ = ["LogLines", "RedisLogLines"]


class LogLines:
    """What a manager of locks in a database logs.

    Args:
        logger: returns the manager's logger: code may patch it, and the drop-in gives it another name.
        make_key: makes the lock's key of the marketplace and the posting.
    """

    _error = "Error"

    def __init__(self, logger: Callable[[], logging.Logger], make_key: Callable[[Any, Any], str]) -> None:
        self._logger = logger
        self._make_key = make_key

    def acquired(self, marketplace_id: object, posting_id: object, holder: object, ttl: float) -> None:
        """A lock was acquired."""
        key = self._make_key(marketplace_id, posting_id)
        self._logger().info("Lock acquired: %s locked %s (TTL: %ss)", holder, key, ttl)

    def not_acquired(
        self, marketplace_id: object, posting_id: object, holder: object, timeout: float, error: Exception
    ) -> None:
        """A lock was still held when the time was up, or the database failed."""
        key = self._make_key(marketplace_id, posting_id)
        if isinstance(error, LockTimeoutError):
            self._timed_out(key, holder, timeout, error.holder_id or "unknown")
        else:
            self._logger().error("%s acquiring lock %s: %s", self._error, key, error)

    def _timed_out(self, key: str, holder: object, timeout: float, held_by: str) -> None:
        logger = self._logger()
        logger.warning("Lock conflict: %s tried to acquire %s but it's held by %s", holder, key, held_by)
        logger.error("Lock timeout for %s after %.1fs", key, timeout)

    def released(self, marketplace_id: object, posting_id: object, holder: object) -> None:
        """A lock was released."""
        key = self._make_key(marketplace_id, posting_id)
        self._logger().info("Lock released: %s released %s", holder or "unknown", key)

    async def release_ended(
        self, locks: LockManager, marketplace_id: Any, posting_id: Any, holder: object, released: bool
    ) -> None:
        """A lock was released; or there was nothing to release, since nobody or another holder has it."""
        if released:
            self.released(marketplace_id, posting_id, holder)
            return
        held_by = None
        if holder:
            with suppress(LockBackendError):
                held_by = await locks.holder_of(marketplace_id, posting_id)
        key = self._make_key(marketplace_id, posting_id)
        if held_by is None or held_by == str(holder):
            self._logger().warning("No lock found for %s (holder: %s)", key, holder or "unknown")
        else:
            mismatch = (key, holder, held_by)
            self._logger().warning("Holder mismatch for %s: %s tried to release but held by %s", *mismatch)

    def not_released(self, marketplace_id: object, posting_id: object, error: Exception) -> None:
        """The database failed."""
        key = self._make_key(marketplace_id, posting_id)
        self._logger().error("%s releasing lock %s: %s", self._error, key, error)

    def cleared(self, count: int) -> None:
        """All locks were deleted."""
        self._logger().info("All distributed locks cleared (%d)", count)

    def not_cleared(self, error: Exception) -> None:
        """The database failed."""
        self._logger().error("Error clearing all locks: %s", error)


class RedisLogLines(LogLines):
    """What a manager of locks in Redis logs."""

    _error = "Redis error"

    def _timed_out(self, key: str, holder: object, timeout: float, held_by: str) -> None:
        self._logger().warning("Lock timeout: %s could not acquire %s after %.1fs", holder, key, timeout)

    def cleared(self, count: int) -> None:
        """All locks were deleted."""
        self._logger().info("Cleaned up %d distributed locks", count)

    def not_cleared(self, error: Exception) -> None:
        """Redis failed."""
        self._logger().error("Error cleaning locks: %s", error)
