"""The database behind a callable that returns a SQLAlchemy session, or behind an application's engine.

SQLAlchemy is not imported here: whoever hands such an object over has done so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from arbitrageai_native.exceptions import LockBackendError

__all__ = ["Place", "place_of_engine", "place_of_session"]

_SUPPORTED = ("sqlite", "postgresql")


class Place(NamedTuple):
    """Where locks are: a database by its URL, or one in memory by the engine that it stands for."""

    url: str | None
    memory_engine: Any = None


def place_of_session(get_db: Callable[[], Any]) -> Place:
    """Ask for a session, see where it works, and close it again.

    Raises:
        LockBackendError: `get_db` raised; its error is the cause.
        TypeError: what it gave is no session.
        ValueError: the session is bound to nothing, or to a database of another kind.
    """
    try:
        session = get_db()
    except Exception as error:
        raise LockBackendError(f"_get_db raised {type(error).__name__}: {error}") from error
    if not callable(getattr(session, "get_bind", None)):
        raise TypeError(f"_get_db has to return a SQLAlchemy Session, not {session!r}")
    try:
        try:
            bind = session.get_bind()
        except Exception as error:
            raise ValueError(f"_get_db: the session is not bound to an engine: {error}") from error
        return place_of_engine(getattr(bind, "engine", bind), "_get_db: the session")
    finally:
        session.close()


def place_of_engine(engine: Any, of_what: str) -> Place:
    """Where an engine's database is; `of_what` says in errors whose it is.

    Raises:
        ValueError: it is a database of another kind.
    """
    engine = getattr(engine, "sync_engine", engine)
    url = engine.url
    backend = url.get_backend_name()
    if backend not in _SUPPORTED:
        raise ValueError(f"{of_what} is on {backend}; SQLite and PostgreSQL are supported")
    if backend == "sqlite" and _is_in_memory(url):
        return Place(None, engine)
    return Place(url.render_as_string(hide_password=False))


def _is_in_memory(url: Any) -> bool:
    database = url.database
    return database in (None, "", ":memory:", "file::memory:") or url.query.get("mode") == "memory"
