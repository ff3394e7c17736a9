"""The tables."""

import uuid
from datetime import datetime, timezone

from sqlalchemy import DateTime, Float, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column
from src.api.database import Base


def _new_id() -> str:
    return str(uuid.uuid4())


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None)


class Bid(Base):
    """A bid on a posting.

    Nothing in the table prevents a second bid on the same posting: the lock does, under which a bid is made.
    """

    __tablename__ = "bids"

    id: Mapped[str] = mapped_column(String, primary_key=True, default=_new_id)
    marketplace: Mapped[str] = mapped_column(String, index=True)
    posting_id: Mapped[str] = mapped_column(String, index=True)
    score: Mapped[int] = mapped_column(Integer)
    proposal: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime, default=_now)


class DistributedLock(Base):
    """A lock on a posting, while `expires_at` is to come."""

    __tablename__ = "distributed_locks"

    id: Mapped[str] = mapped_column(String, primary_key=True, default=_new_id)
    lock_key: Mapped[str] = mapped_column(String, unique=True, index=True)
    holder_id: Mapped[str] = mapped_column(String)
    acquired_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float] = mapped_column(Float)
    created_at: Mapped[datetime | None] = mapped_column(DateTime, default=_now)
