"""The original's lock: a SQLAlchemy session on the event loop, the application's clock, a poll each 0.1 s."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone

from sqlalchemy import DateTime, Float, String, create_engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    """Declares the tables."""


class DistributedLock(Base):
    """The table that old and new processes share."""

    __tablename__ = "distributed_locks"

    id: Mapped[str] = mapped_column(String, primary_key=True, default=lambda: str(uuid.uuid4()))
    lock_key: Mapped[str] = mapped_column(String, unique=True, index=True, nullable=False)
    holder_id: Mapped[str] = mapped_column(String, nullable=False)
    acquired_at: Mapped[float] = mapped_column(Float, nullable=False)
    expires_at: Mapped[float] = mapped_column(Float, nullable=False)
    created_at: Mapped[datetime] = mapped_column(DateTime, default=lambda: datetime.now(timezone.utc))


class PollingLockManager:
    """Excludes by a unique row, as every process did before."""

    def __init__(self, database_url: str, ttl: float = 300) -> None:
        # SQLAlchemy's own choice of a driver for `postgresql://` differs between its versions.
        self.engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg2://"))
        self.ttl = ttl
        Base.metadata.create_all(self.engine)

    async def acquire_lock(
        self, marketplace_id: str, posting_id: str, timeout: float = 10.0, holder_id: str = "default"
    ) -> bool:
        """Poll until the row is ours."""
        key = f"bid:lock:{marketplace_id}:{posting_id}"
        deadline = time.time() + timeout
        while True:
            if self._try(key, holder_id):
                return True
            if time.time() >= deadline:
                return False
            await asyncio.sleep(0.1)

    def _try(self, key: str, holder_id: str) -> bool:
        with Session(self.engine) as session:
            try:
                now = time.time()
                session.query(DistributedLock).filter(
                    DistributedLock.lock_key == key, DistributedLock.expires_at < now
                ).delete()
                session.add(
                    DistributedLock(
                        lock_key=key, holder_id=holder_id, acquired_at=now, expires_at=now + self.ttl
                    )
                )
                session.commit()
            except IntegrityError:
                session.rollback()
                return False
            except SQLAlchemyError:
                session.rollback()
                return False
            return True

    async def release_lock(self, marketplace_id: str, posting_id: str, holder_id: str = "default") -> bool:
        """Delete the row if it is this holder's."""
        key = f"bid:lock:{marketplace_id}:{posting_id}"
        with Session(self.engine) as session:
            row = session.query(DistributedLock).filter(DistributedLock.lock_key == key).first()
            if row is None or row.holder_id != holder_id:
                return False
            session.delete(row)
            session.commit()
            return True

    @asynccontextmanager
    async def with_lock(
        self, marketplace_id: str, posting_id: str, timeout: float = 10.0, holder_id: str = "default"
    ) -> AsyncIterator[None]:
        """Hold the lock while the body runs."""
        if not await self.acquire_lock(marketplace_id, posting_id, timeout, holder_id):
            raise TimeoutError(f"Failed to acquire lock for {marketplace_id}:{posting_id} within {timeout}s")
        try:
            yield
        finally:
            await self.release_lock(marketplace_id, posting_id, holder_id)
