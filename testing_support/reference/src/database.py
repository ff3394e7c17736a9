"""The locks' table, and sessions on the database that `DATABASE_URL` names, or on the application's own."""

import functools
import os
import uuid
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import DateTime, Float, String, create_engine, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import StaticPool


class Base(DeclarativeBase):
    """The table's metadata."""


class DistributedLock(Base):
    """A lock: held while `expires_at` is to come."""

    __tablename__ = "distributed_locks"

    id: Mapped[str] = mapped_column(String, primary_key=True, default=lambda: str(uuid.uuid4()))
    lock_key: Mapped[str] = mapped_column(String, unique=True, index=True)
    holder_id: Mapped[str] = mapped_column(String)
    acquired_at: Mapped[float] = mapped_column(Float)
    expires_at: Mapped[float] = mapped_column(Float)
    created_at: Mapped[datetime | None] = mapped_column(
        DateTime, default=lambda: datetime.now(timezone.utc).replace(tzinfo=None)
    )


# SQLAlchemy knows neither the old scheme nor asynchronous drivers in a synchronous engine, and its own choice
# of a driver for PostgreSQL differs between its versions.
_DRIVERS = {"postgresql": "postgresql+psycopg2", "sqlite": "sqlite"}


def new_engine(database_url: str) -> Engine:
    """An engine of the application's kind; the table is there."""
    url = make_url(database_url.replace("postgres://", "postgresql://", 1))
    url = url.set(drivername=_DRIVERS[url.get_backend_name()])
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        arguments = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
    engine = create_engine(url, **arguments)
    Base.metadata.create_all(engine)
    return engine


@functools.cache
def _sessions(database_url: str) -> "sessionmaker[Session]":
    return sessionmaker(new_engine(database_url))


@functools.cache
def _application() -> Any:
    """Return the application's database module, or None."""
    try:
        return import_module("src.api.database")
    except ModuleNotFoundError as error:
        if error.name not in ("src", "src.api", "src.api.database"):
            raise
        return None


def SessionLocal() -> Session:  # noqa: N802
    """Return a session of the application, or one on `DATABASE_URL` if there is no database module."""
    application = _application()
    if application is not None:
        session: Session = application.SessionLocal()
        return session
    url = os.getenv("DATABASE_URL")
    if not url:
        Path("data").mkdir(exist_ok=True)
        url = "sqlite:///data/tasks.db"
    return _sessions(url)()
