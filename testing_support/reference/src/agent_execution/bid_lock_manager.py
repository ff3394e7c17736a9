"""Locks as rows of a table, as in the original.

A session works in the event loop, is polled every 0.1 s, and is kept while its waiter sleeps.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import MethodType
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from ..database import DistributedLock, SessionLocal

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class _OnClassOrObject:
    """A method that newer originals call on the class, and older ones on an object."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __get__(self, instance: Any, owner: type) -> Any:
        return MethodType(self._function, owner if instance is None else instance)


class BidLockManager:
    """Locks on postings."""

    def __init__(self, ttl: float = 300) -> None:
        self.ttl = ttl
        self._lock_attempts = 0
        self._lock_successes = 0
        self._lock_conflicts = 0
        self._lock_timeouts = 0

    @staticmethod
    def _get_db() -> Session:
        return SessionLocal()

    @staticmethod
    def _cleanup_expired_locks(db: Session) -> int:
        now = time.time()
        expired = delete(DistributedLock).where(DistributedLock.expires_at < now)
        count: int = db.execute(expired).rowcount  # type: ignore[attr-defined]
        if count:
            db.commit()
        return count

    @staticmethod
    def _make_lock_key(marketplace_id: str, posting_id: str) -> str:
        return f"bid:lock:{marketplace_id}:{posting_id}"

    async def acquire_lock(
        self, marketplace_id: str, posting_id: str, timeout: float = 10.0, holder_id: str = "default"
    ) -> bool:
        """Whether the lock was acquired within `timeout` seconds."""
        if not marketplace_id or not posting_id:
            raise ValueError("marketplace_id and posting_id must not be empty")
        key = self._make_lock_key(marketplace_id, posting_id)
        self._lock_attempts += 1
        start = time.monotonic()
        session = self._get_db()  # an object's own goes before the class's
        try:
            while True:
                held_by = self._try_acquire(session, key, holder_id)
                if held_by is None:
                    break
                self._lock_conflicts += 1
                conflict = (holder_id, key, held_by)
                logger.warning("Lock conflict: %s tried to acquire %s but it's held by %s", *conflict)
                waited = time.monotonic() - start
                if waited > timeout:
                    self._lock_timeouts += 1
                    logger.error("Lock timeout for %s after %.1fs", key, waited)
                    return False
                await asyncio.sleep(POLL_SECONDS)
        except SQLAlchemyError as error:
            logger.error("Error acquiring lock %s: %s", key, error)
            return False
        finally:
            session.close()
        self._lock_successes += 1
        logger.info("Lock acquired: %s locked %s (TTL: %ss)", holder_id, key, self.ttl)
        return True

    def _try_acquire(self, session: Session, key: str, holder_id: str) -> str | None:
        """Return who holds the lock; None if it was acquired."""
        self._cleanup_expired_locks(session)
        now = time.time()
        try:
            session.add(
                DistributedLock(
                    id=str(uuid.uuid4()),
                    lock_key=key,
                    holder_id=holder_id,
                    acquired_at=now,
                    expires_at=now + self.ttl,
                )
            )
            session.commit()
        except IntegrityError:
            session.rollback()
            held_by = session.scalar(select(DistributedLock.holder_id).where(DistributedLock.lock_key == key))
            return held_by or "unknown"
        return None

    @_OnClassOrObject
    async def release_lock(self, marketplace_id: str, posting_id: str, holder_id: str = "default") -> bool:
        """Whether the lock was this holder's, and is free now."""
        key = self._make_lock_key(marketplace_id, posting_id)
        session = self._get_db()
        try:
            held_by = session.scalar(select(DistributedLock.holder_id).where(DistributedLock.lock_key == key))
            if held_by is None:
                logger.warning("No lock found for %s (holder: %s)", key, holder_id)
                return False
            if held_by != holder_id:
                mismatch = (key, holder_id, held_by)
                logger.warning("Holder mismatch for %s: %s tried to release but held by %s", *mismatch)
                return False
            session.execute(delete(DistributedLock).where(DistributedLock.lock_key == key))
            session.commit()
            logger.info("Lock released: %s released %s", holder_id, key)
        except SQLAlchemyError as error:
            session.rollback()
            logger.error("Error releasing lock %s: %s", key, error)
            return False
        finally:
            session.close()
        return True

    @asynccontextmanager
    async def with_lock(
        self, marketplace_id: str, posting_id: str, timeout: float = 10.0, holder_id: str = "default"
    ) -> AsyncIterator[None]:
        """Hold the lock during the body."""
        lock = {"marketplace_id": marketplace_id, "posting_id": posting_id, "holder_id": holder_id}
        if not await self.acquire_lock(**lock, timeout=timeout):
            raise TimeoutError(f"Failed to acquire lock for {marketplace_id}:{posting_id} within {timeout}s")
        try:
            yield
        finally:
            await self.release_lock(**lock)

    def get_metrics(self) -> dict[str, Any]:
        """The counts."""
        active = 0
        session = self._get_db()
        try:
            active = session.scalar(
                select(func.count())
                .select_from(DistributedLock)
                .where(DistributedLock.expires_at > time.time())
            )
        except SQLAlchemyError as error:
            logger.debug("Failed to count active locks: %s", error)
        finally:
            session.close()
        return {
            "lock_attempts": self._lock_attempts,
            "lock_successes": self._lock_successes,
            "lock_conflicts": self._lock_conflicts,
            "lock_timeouts": self._lock_timeouts,
            "active_locks": active,
        }

    @_OnClassOrObject
    async def cleanup_all(self) -> None:
        """Delete every lock."""
        session = self._get_db()
        try:
            session.execute(delete(DistributedLock))
            session.commit()
            logger.info("All distributed locks cleared")
        except SQLAlchemyError as error:
            session.rollback()
            logger.error("Error clearing all locks: %s", error)
        finally:
            session.close()


_bid_lock_manager: BidLockManager | None = None


def get_bid_lock_manager() -> BidLockManager:
    """The process's manager."""
    global _bid_lock_manager
    if _bid_lock_manager is None:
        _bid_lock_manager = BidLockManager(ttl=300)
    return _bid_lock_manager


def init_bid_lock_manager(ttl: float = 300) -> BidLockManager:
    """Make the process's manager anew."""
    global _bid_lock_manager
    _bid_lock_manager = BidLockManager(ttl=ttl)
    return _bid_lock_manager
