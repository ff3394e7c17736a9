"""Which database an application means: by its module `src.api.database`, a session, or an engine.

The URL of an engine does not determine the database alone: `connect_args`, `creator` and listeners decide
which file, server and schema its connections use. So this module queries one connection of each engine once,
in a separate thread, since the query waits for the database.

SQLAlchemy is not imported here: the code that made the session or engine has imported it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from contextlib import suppress
from threading import Lock, Thread
from typing import Any
from weakref import WeakKeyDictionary

from arbitrageai_native import environment
from arbitrageai_native._safe_text import without_credentials
from arbitrageai_native.exceptions import LockBackendError
from arbitrageai_native.locks import engine_places
from arbitrageai_native.locks.application_module import (
    DATABASE,
    application_database,
    import_in_thread,
    no_database,
    would_block_a_loop,
)

__all__ = [
    "AnyPlace",
    "Place",
    "Unasked",
    "Unimported",
    "application_database",
    "place_of_application",
    "place_of_engine",
    "place_of_session",
    "prepare",
]

_MODELS = "src.api.models"
_SUPPORTED = ("sqlite", "postgresql")
_SECONDS_BETWEEN_TRIES = 0.2
_LEAST_SECONDS = 1.0
_MOST_SECONDS = 86_400.0


class Place:
    """Where locks are: a database by its URL, or one in memory by the engine that it stands for."""

    __slots__ = ("memory_engine", "url")

    def __init__(self, url: str | None, memory_engine: Any = None) -> None:
        self.url = url
        self.memory_engine = memory_engine

    def wait(self, _seconds: object) -> Place:
        """Return this place: it is known, so nothing is asked."""
        return self

    async def answer(self, _seconds: object) -> Place:
        """As `wait`, for coroutines."""
        return self


# The URLs found for each engine (None: in memory), and the queries under way, both by the schema
# that the application names for the table. The keys are weak references, so that no engine is kept
# alive.
_answers: WeakKeyDictionary[Any, dict[str | None, str | None]] = WeakKeyDictionary()
_questions: WeakKeyDictionary[Any, dict[str | None, Future[Place]]] = WeakKeyDictionary()
_asking = Lock()


def _forget_questions() -> None:
    """Drop the queries in a forked child, which does not have the threads that would answer them."""
    global _asking
    _asking = Lock()
    _questions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_questions)


class Unasked:
    """An engine whose database is not known yet."""

    def __init__(self, engine: Any, schema: str | None, of_what: str, session: Any = None) -> None:
        self._engine = engine
        self._schema = schema
        self._of_what = of_what
        self._session = session

    @property
    def keeps_its_session(self) -> bool:
        """Whether the query uses a session, and closes it afterwards."""
        return self._session is not None

    def wait(self, seconds: object) -> Place:
        """Return the place of the locks. Blocks this thread until the database has answered.

        Raises:
            LockBackendError: the database did not answer within `seconds`.
            ValueError: the database can't hold the locks.
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
        return LockBackendError(f"{self._of_what} did not report its database in time")

    def _ask(self) -> Future[Place]:
        """Start the query, unless it is already under way; return its future."""
        with _asking:
            known = _questions.setdefault(self._engine, {}) if self._session is None else {}
            question = known.get(self._schema)
            if question is not None:
                return question
            question = known[self._schema] = Future()
            question.set_running_or_notify_cancel()  # no caller that stops waiting may cancel it
        if _is_in_memory(self._engine.url) and not _is_async(self._engine):
            # A database in memory may belong to the thread that opened it, and opening it is quick.
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
            failure = LockBackendError(f"{self._of_what} could not report its database: {said}")
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
                connection = self._session.connection()
                # A session may set a `schema_translate_map` for its connection alone.
                schema = _schema_of_the_table(connection)
                url = engine_places.url_of(connection, self._engine.url, schema)
            elif _is_async(self._engine):
                url = engine_places.url_of_async(self._engine, self._schema)
            else:
                with self._engine.connect() as connection:
                    url = engine_places.url_of(connection, self._engine.url, self._schema)
        finally:
            if self._session is not None:
                self._session.close()
        return _place(url, self._engine)


class Unimported:
    """The application's database, whose module has still to be imported: that may take long."""

    def wait(self, seconds: object) -> Place:
        """As `Unasked.wait`."""
        end = time.monotonic() + _patience(seconds)
        try:
            import_in_thread().result(_patience(seconds))
        except NoAnswer:
            raise no_database("is still being imported") from None
        return place_of_application().wait(max(end - time.monotonic(), 0))

    async def answer(self, seconds: object) -> Place:
        """As `wait`, for coroutines."""
        end = time.monotonic() + _patience(seconds)
        waiting = asyncio.wrap_future(import_in_thread())
        try:
            await asyncio.wait({waiting}, timeout=_patience(seconds))
            if not waiting.done():
                raise no_database("is still being imported")
            waiting.result()
        finally:
            waiting.cancel()
        return await place_of_application().answer(max(end - time.monotonic(), 0))


AnyPlace = Place | Unasked | Unimported


def place_of_application() -> AnyPlace:
    """Return the place of the application's own database, else of `DATABASE_URL`, else one without a URL.

    Raises:
        LockBackendError: the application's module can't be imported, or its session can't be made.
        ValueError: the database is neither SQLite nor PostgreSQL, or the `.env` file can't be read.
    """
    environment.load_dotenv_file_once()
    if would_block_a_loop():
        return Unimported()
    found = application_database()
    if found is None:
        return Place(environment.database_url())
    if getattr(found, "url", None) is not None:
        return place_of_engine(found, f"{DATABASE}.engine")
    if callable(found):
        # A `scoped_session` would return a session that is in use, so its factory is called instead.
        return place_of_session(getattr(found, "session_factory", found), f"{DATABASE}.SessionLocal")
    return Place(str(found))


def prepare() -> None:
    """Load the `.env` file and import the application's module, before a lock needs them.

    A manager calls this when it is made, since the import may be slow. Under a running event loop a thread
    imports. A failure is reported at the first lock, because a test may replace `_get_db` before that.

    Raises:
        ValueError: the `.env` file can't be read.
    """
    environment.load_dotenv_file_once()
    if would_block_a_loop():
        import_in_thread()
        return
    with suppress(LockBackendError):
        application_database()


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
    # The lookup in `__dict__` leaves a mock alone, since `getattr` of a mock succeeds for every
    # name.
    session = getattr(session, "__dict__", {}).get("sync_session", session)
    if not callable(getattr(session, "get_bind", None)):
        raise TypeError(f"{of_what} has to return a SQLAlchemy Session, not {session!r}")
    place: Place | Unasked | None = None
    try:
        try:
            model = _model_of_the_table()
            # A session may bind this table to another database than its other tables.
            bind = session.get_bind() if model is None else session.get_bind(model)
        except Exception as error:
            said = without_credentials(str(error))
            raise ValueError(f"{of_what}: the session is not bound to an engine: {said}") from error
        place = place_of_engine(bind, f"{of_what}: the session", session)
        return place
    finally:
        if not isinstance(place, Unasked) or not place.keeps_its_session:
            session.close()


def place_of_engine(bind: Any, of_what: str, session: Any = None) -> Place | Unasked:
    """Return the place of the database of an engine or a connection; `of_what` names it in errors.

    Raises:
        ValueError: the database is neither SQLite nor PostgreSQL.
    """
    bind = getattr(bind, "sync_engine", bind)
    engine = getattr(bind, "engine", bind)
    backend = engine.url.get_backend_name()
    if backend not in _SUPPORTED:
        raise ValueError(f"{of_what} is on {backend}; SQLite and PostgreSQL are supported")
    # An engine made by `execution_options` shares everything else with the original engine.
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
    """Whether statements on the session's connection may decide the schema, and not its engine alone."""
    if bind.dialect.name != "postgresql":
        return False  # the file of the engine is the file of the session
    has_begun = session.in_transaction() if hasattr(session, "in_transaction") else False
    if not isinstance(has_begun, bool):
        return False  # the session is a mock
    is_bound_to_a_connection = bind is not getattr(bind, "engine", bind)
    return has_begun or is_bound_to_a_connection or bool(session.dispatch.after_begin)


def _schema_of_the_table(bind: Any) -> str | None:
    """Return the schema that the application's statements name for the table; None if they name none."""
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
    """Return how long to wait for the database, given the timeout of a lock: at least one second."""
    # The acquisition refuses a timeout that is no number later.
    if not isinstance(seconds, int | float) or seconds != seconds:
        return _LEAST_SECONDS
    return min(max(float(seconds), _LEAST_SECONDS), _MOST_SECONDS)
