"""Locks as rows of a table, as in the original.

A session works in the event loop, is polled every 0.1 s, and is kept while its waiter sleeps.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from ..database import DistributedLock, SessionLocal

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1


class BidLockManager:
    """Locks on postings."""

    def __init__(self, ttl: float = 300) -> None:
        self.ttl = ttl
        self._lock_attempts = 0
        self._lock_successes = 0
        self._lock_conflicts = 0
        self._lock_timeouts = 0

    def _get_db(self) -> Session:
        return SessionLocal()

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
        session = None
        try:
            session = self._get_db()
            while not self._try_acquire(session, key, holder_id):
                self._lock_conflicts += 1
                remaining = timeout - (time.monotonic() - start)
                if remaining <= 0:
                    self._lock_timeouts += 1
                    return False
                await asyncio.sleep(min(POLL_SECONDS, remaining))
        except SQLAlchemyError as error:
            logger.error("the lock %s could not be acquired: %s", key, error)
            return False
        finally:
            if session is not None:
                session.close()
        self._lock_successes += 1
        return True

    def _try_acquire(self, session: Session, key: str, holder_id: str) -> bool:
        now = time.time()
        found = session.execute(
            select(DistributedLock.id, DistributedLock.expires_at).where(DistributedLock.lock_key == key)
        ).first()
        if found is not None and found.expires_at > now:
            session.commit()
            return False
        if found is not None:
            session.execute(delete(DistributedLock).where(DistributedLock.id == found.id))
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
            return False
        return True

    async def release_lock(self, marketplace_id: str, posting_id: str, holder_id: str = "default") -> bool:
        """Whether the lock was this holder's, and is free now."""
        key = self._make_lock_key(marketplace_id, posting_id)
        session = None
        try:
            session = self._get_db()
            released = session.execute(
                delete(DistributedLock).where(
                    DistributedLock.lock_key == key, DistributedLock.holder_id == holder_id
                )
            )
            session.commit()
        except SQLAlchemyError as error:
            logger.error("the lock %s could not be released: %s", key, error)
            return False
        finally:
            if session is not None:
                session.close()
        if not released.rowcount:  # type: ignore[attr-defined]
            logger.warning("the lock %s is not held by %s", key, holder_id)
            return False
        return True

    @asynccontextmanager
    async def with_lock(
        self, marketplace_id: str, posting_id: str, timeout: float = 10.0, holder_id: str = "default"
    ) -> AsyncIterator[None]:
        """Hold the lock during the body."""
        if not await self.acquire_lock(marketplace_id, posting_id, timeout, holder_id):
            raise TimeoutError(f"Failed to acquire lock for {marketplace_id}:{posting_id} within {timeout}s")
        try:
            yield
        finally:
            await self.release_lock(marketplace_id, posting_id, holder_id)

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
            logger.error("the locks could not be counted: %s", error)
        finally:
            session.close()
        return {
            "lock_attempts": self._lock_attempts,
            "lock_successes": self._lock_successes,
            "lock_conflicts": self._lock_conflicts,
            "lock_timeouts": self._lock_timeouts,
            "active_locks": active,
        }

    async def cleanup_all(self) -> None:
        """Delete every lock."""
        session = self._get_db()
        try:
            session.execute(delete(DistributedLock))
            session.commit()
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
