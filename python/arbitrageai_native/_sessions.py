"""The database behind a callable that returns a SQLAlchemy session, or behind an application's engine.

An engine's URL does not say all: `connect_args`, `creator` and listeners decide which file, server and schema
its connections lead to. So one of them is asked, once for each engine, in a thread of its own, since it waits
for the database.

SQLAlchemy is not imported here: whoever hands such an object over has done so.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from threading import Lock, Thread
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from arbitrageai_native import _engine_places
from arbitrageai_native._secrets import without_credentials
from arbitrageai_native.exceptions import LockBackendError

__all__ = ["Place", "Unasked", "place_of_engine", "place_of_session", "place_of_sessions"]

_SUPPORTED = ("sqlite", "postgresql")
_MODELS = "src.api.models"
_SECONDS_BETWEEN_TRIES = 0.2
_LEAST_SECONDS = 1.0
_MOST_SECONDS = 86_400.0


class Place(NamedTuple):
    """Where locks are: a database by its URL, or one in memory by the engine that it stands for."""

    url: str | None
    memory_engine: Any = None


# The URLs that engines have answered with (None: in memory), and the questions under way, by the schema that
# their table is said to be in. Nothing here keeps an engine.
_answers: WeakKeyDictionary[Any, dict[str | None, str | None]] = WeakKeyDictionary()
_questions: WeakKeyDictionary[Any, dict[str | None, Future[Place]]] = WeakKeyDictionary()
_asking = Lock()


def _forget_questions() -> None:
    """In a forked child, which has none of the threads that would answer."""
    global _asking
    _asking = Lock()
    _questions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_questions)


class Unasked:
    """An engine whose connections have not been asked yet which database they lead to."""

    def __init__(self, engine: Any, schema: str | None, of_what: str, session: Any = None) -> None:
        self._engine = engine
        self._schema = schema
        self._of_what = of_what
        self._session = session

    @property
    def keeps_its_session(self) -> bool:
        """Whether it is asked through a session, which is closed then."""
        return self._session is not None

    def wait(self, seconds: object) -> Place:
        """The answer, waiting for it in this thread.

        Raises:
            LockBackendError: there is none within so many seconds.
            ValueError: it is no database that locks can be in.
        """
        end = time.monotonic() + _patience(seconds)
        question = self._ask()
        while True:
            try:
                return question.result(max(end - time.monotonic(), 0))
            except LockBackendError:
                if self._session is not None or time.monotonic() + _SECONDS_BETWEEN_TRIES > end:
                    raise
            except NoAnswer:
                raise self._unanswered() from None
            time.sleep(_SECONDS_BETWEEN_TRIES)
            question = self._ask()

    async def answer(self, seconds: object) -> Place:
        """As `wait`, for coroutines."""
        end = time.monotonic() + _patience(seconds)
        question = self._ask()
        while True:
            waiting = asyncio.wrap_future(question)
            try:
                await asyncio.wait({waiting}, timeout=max(end - time.monotonic(), 0))
                if not waiting.done():
                    raise self._unanswered()
                return waiting.result()
            except LockBackendError:
                if self._session is not None or time.monotonic() + _SECONDS_BETWEEN_TRIES > end:
                    raise
            finally:
                waiting.cancel()
            await asyncio.sleep(_SECONDS_BETWEEN_TRIES)
            question = self._ask()

    def _unanswered(self) -> LockBackendError:
        return LockBackendError(f"{self._of_what} did not say in time which database it is on")

    def _ask(self) -> Future[Place]:
        """Put the question, unless somebody else has put it."""
        with _asking:
            known = _questions.setdefault(self._engine, {}) if self._session is None else {}
            question = known.get(self._schema)
            if question is not None:
                return question
            question = known[self._schema] = Future()
            question.set_running_or_notify_cancel()  # so that nobody who stops waiting cancels it
        if _is_in_memory(self._engine.url) and not _is_async(self._engine):
            # A database in memory may belong to the thread that opened it; and opening it takes no time.
            self._run(question)
        else:
            Thread(target=self._run, args=(question,), name="arbitrageai-engine", daemon=True).start()
        return question

    def _run(self, question: Future[Place]) -> None:
        place: Place | None = None
        failure: Exception | None = None
        try:
            place = self._asked()
        except ValueError as error:
            failure = ValueError(without_credentials(f"{self._of_what} {error}"))
        except BaseException as error:
            said = without_credentials(f"{type(error).__name__}: {error}")
            failure = LockBackendError(f"{self._of_what} can't be asked which database it is on: {said}")
            failure.__cause__ = error
        with _asking:
            if self._session is None:
                _questions.get(self._engine, {}).pop(self._schema, None)
                if place is not None:
                    _answers.setdefault(self._engine, {})[self._schema] = place.url
        if place is not None:
            question.set_result(place)
        else:
            question.set_exception(failure)

    def _asked(self) -> Place:
        try:
            if self._session is not None:
                url = _engine_places.url_of(self._session.connection(), self._engine.url, self._schema)
            elif _is_async(self._engine):
                url = _engine_places.url_of_async(self._engine, self._schema)
            else:
                with self._engine.connect() as connection:
                    url = _engine_places.url_of(connection, self._engine.url, self._schema)
        finally:
            if self._session is not None:
                self._session.close()
        return _place(url, self._engine)


def place_of_session(get_db: Callable[[], Any], of_what: str = "_get_db") -> Place | Unasked:
    """Ask for a session, see where it works, and close it again.

    Raises:
        LockBackendError: `get_db` raised; its error is the cause.
        TypeError: what it gave is no session.
        ValueError: the session is bound to nothing, or to a database of another kind.
    """
    try:
        session = get_db()
    except Exception as error:
        said = without_credentials(f"{type(error).__name__}: {error}")
        raise LockBackendError(f"{of_what} raised {said}") from error
    # Looked up so that a mock, which has every attribute, is taken as it is.
    session = getattr(session, "__dict__", {}).get("sync_session", session)
    if not callable(getattr(session, "get_bind", None)):
        raise TypeError(f"{of_what} has to return a SQLAlchemy Session, not {session!r}")
    place: Place | Unasked | None = None
    try:
        try:
            model = _model_of_the_table()
            # A session may have a database of its own for this table.
            bind = session.get_bind() if model is None else session.get_bind(model)
        except Exception as error:
            said = without_credentials(str(error))
            raise ValueError(f"{of_what}: the session is not bound to an engine: {said}") from error
        place = place_of_engine(bind, f"{of_what}: the session", session)
        return place
    finally:
        if not isinstance(place, Unasked) or not place.keeps_its_session:
            session.close()


def place_of_sessions(sessions: Any, of_what: str) -> Place | Unasked:
    """Where the sessions that a `sessionmaker`, or anything like it, makes work; as `place_of_session`."""
    # A `scoped_session` would give one that is in use.
    sessions = getattr(sessions, "session_factory", sessions)
    settings = getattr(sessions, "kw", None)
    bind = settings.get("bind") if isinstance(settings, dict) else None
    # A session need not be made to find its engine.
    return place_of_session(sessions, of_what) if bind is None else place_of_engine(bind, of_what)


def place_of_engine(bind: Any, of_what: str, session: Any = None) -> Place | Unasked:
    """Where an engine's database is, or a connection's; `of_what` says in errors whose it is.

    Raises:
        ValueError: it is a database of another kind.
    """
    bind = getattr(bind, "sync_engine", bind)
    engine = getattr(bind, "engine", bind)
    backend = engine.url.get_backend_name()
    if backend not in _SUPPORTED:
        raise ValueError(f"{of_what} is on {backend}; SQLite and PostgreSQL are supported")
    # One with options of its own shares everything else with the engine that it was made from.
    while "_proxied" in engine.__dict__:
        engine = engine._proxied
    if session is not None and not _has_a_connection_of_its_own(session, bind):
        session = None
    schema = _schema_of_the_table(bind)
    known = _answers.get(engine)
    if session is None and known is not None and schema in known:
        return _place(known[schema], engine)
    return Unasked(engine, schema, of_what, session)


def _place(url: str | None, engine: Any) -> Place:
    return Place(None, engine) if url is None else Place(url)


def _has_a_connection_of_its_own(session: Any, bind: Any) -> bool:
    """Whether more than its engine decides where a session works: what was said on its connection does."""
    if bind.dialect.name != "postgresql":
        return False  # its file is the engine's
    has_begun = session.in_transaction() if hasattr(session, "in_transaction") else False
    if not isinstance(has_begun, bool):
        return False  # a mock's answer
    return (
        has_begun
        or bool(session.dispatch.after_begin)
        or (bind is not getattr(bind, "engine", bind) and bind.in_transaction())
    )


def _schema_of_the_table(bind: Any) -> str | None:
    """The schema that the application's own statements name, None where they name none."""
    schema: str | None = getattr(getattr(_model_of_the_table(), "__table__", None), "schema", None)
    translated = bind.get_execution_options().get("schema_translate_map")
    return translated.get(schema, schema) if translated else schema


def _model_of_the_table() -> Any:
    model = getattr(sys.modules.get(_MODELS), "DistributedLock", None)
    return model if hasattr(model, "__mapper__") and isinstance(model, type) else None


def _is_async(engine: Any) -> bool:
    return bool(engine.dialect.is_async)


def _is_in_memory(url: Any) -> bool:
    if url.get_backend_name() != "sqlite":
        return False
    return url.database in (None, "", ":memory:", "file::memory:") or url.query.get("mode") == "memory"


def _patience(seconds: object) -> float:
    """How long to wait for an answer where a lock may be waited for so long: at least a second."""
    # What is no number is refused where the lock is asked for.
    if not isinstance(seconds, int | float) or seconds != seconds:
        return _LEAST_SECONDS
    return min(max(float(seconds), _LEAST_SECONDS), _MOST_SECONDS)
