"""The application's database: one engine, shared by bids and locks, and one thread for its statements."""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.orm import DeclarativeBase, sessionmaker
from sqlalchemy.schema import CreateIndex, CreateTable

DATABASE_URL = os.getenv("DATABASE_URL", "sqlite:///arbitrage.db")

engine = create_engine(DATABASE_URL)
SessionLocal = sessionmaker(bind=engine)

Result = TypeVar("Result")

# One thread: SQLite has one writer, and every further thread would take turns with the event loop.
_thread = ThreadPoolExecutor(1, "database")


async def in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that works on the database, without holding up the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_thread, function, *arguments)


class Base(DeclarativeBase):
    """The application's tables."""


if engine.dialect.name == "sqlite":

    @event.listens_for(engine, "connect")
    def _prepare(connection, _record):
        # Readers and the one writer of an SQLite file don't wait for each other. It is set once for the
        # file; a worker that meets another which is just setting it is refused at once.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA busy_timeout=10000")


def create_tables() -> None:
    """Make what is missing.

    Every worker does it when it starts, several of them at once: `create_all` would fail in one of them.
    """
    with engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
