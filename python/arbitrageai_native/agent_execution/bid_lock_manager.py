"""Locks in a database table, so that no two scanners bid on one posting.

The table `distributed_locks` is the original's, and old processes may go on using it beside this package:
both exclude each other. What differs: no statement ever runs on the event loop, waiters queue instead of
polling, and a lock that is held in a block is renewed until the block ends.
"""

from __future__ import annotations

import atexit
import inspect
import itertools
import logging
import os
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from arbitrageai_native import _native
from arbitrageai_native._printable import in_one_line, printable
from arbitrageai_native._secrets import check_text
from arbitrageai_native.drop_in import application_database
from arbitrageai_native.environment import load_dotenv_file_once
from arbitrageai_native.exceptions import LockBackendError, LockTimeoutError
from arbitrageai_native.locks.leases import Lease, LockContext, OnLost, SyncLockContext, check_on_lost
from arbitrageai_native.locks.overview import HeldLock, LockOverview, Waiter
from arbitrageai_native.locks.sessions import (
    Place,
    Unasked,
    place_of_engine,
    place_of_session,
    place_of_sessions,
)

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["BidLockManager", "get_bid_lock_manager", "init_bid_lock_manager"]

logger = logging.getLogger(__name__)
logger.addFilter(in_one_line)

_TEN_TTLS = object()
_RELEASE_AT_EXIT_SECONDS = 1.0
_METRICS_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
_ASKING_SECONDS = 5.0
_SPENT_SECONDS = 0.2
_SQL_SCHEMES = ("sqlite", "postgres")

# Engines of in-memory databases whose managers share a private one of ours, by number.
_memory_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_next_memory_number = itertools.count(1)

# The default files that a warning has named already.
_told_files: set[str] = set()

atexit.register(_native.release_all_locks, _RELEASE_AT_EXIT_SECONDS)


def SessionLocal() -> Any:  # noqa: N802, the original's name
    """Return a session of the application's `src.api.database.SessionLocal`.

    Returns None if that module or its `SessionLocal` does not exist. Tests may patch this name: the locks are
    then in the database of the session that the replacement returns, as with `_get_db`.
    """
    sessions = application_database()
    return sessions() if callable(sessions) else None


_own_sessions = SessionLocal


class BidLockManager:
    """Locks on marketplace postings, shared by all processes that use one database.

    Managers of one URL in one process share connections and one queue of waiters.

    Attributes:
        ttl: seconds that a lock lasts without renewal; assigning it affects the next acquisition.
        auto_renew: whether `with_lock` and leases renew the lock, unless they say otherwise themselves.
        on_lost: what a block does when its lock is lost, likewise.
    """

    def __init__(
        self,
        ttl: float = 300,
        database_url: str | None = None,
        *,
        auto_renew: bool = True,
        max_hold: float | None = _TEN_TTLS,  # type: ignore[assignment]
        on_lost: OnLost = "log",
        max_connections: int = 5,
        listen_url: str | None = None,
        statement_cache: bool = True,
    ) -> None:
        """Describe the locks; nothing is opened before the first one is asked for.

        Args:
            ttl: seconds that a lock lasts without renewal.
            database_url: a SQLite or PostgreSQL URL in SQLAlchemy's form, or the URL of a Redis server
                (`redis://`). None means the application's own database, that of its module
                `src.api.database`, which is imported now; without that module, the environment's
                `DATABASE_URL`; and if that is unset, `sqlite:///data/tasks.db`.
            auto_renew: whether `with_lock` and leases renew the lock while they hold it.
            max_hold: seconds for which a lock is renewed at most, ten times `ttl` by default; None for no
                limit.
            on_lost: what a block does when its lock is lost: "log", "raise", "cancel" or a callable.
            max_connections: the most connections to a PostgreSQL server, the one that listens included.
            listen_url: a direct connection for notifications, where `database_url` leads through a pooler.
            statement_cache: False behind a pooler in transaction mode; releases of other processes are then
                found by polling (0.3 s), unless `listen_url` is given.

        Raises:
            ValueError: `ttl`, `max_hold`, `on_lost`, `database_url`, `listen_url` or `max_connections` is
                invalid, or the `.env` file can't be read.
        """
        _native.check_lock_ttl(ttl)
        check_on_lost(on_lost)
        self.ttl = ttl
        self.auto_renew = auto_renew
        self.on_lost: OnLost = on_lost
        self._max_hold = max_hold
        self._options: dict[str, Any] = {
            "max_connections": max_connections,
            "listen_url": listen_url,
            "statement_cache": statement_cache,
        }
        self._managers: dict[object, _native.LockManager] = {}
        self._database_url = database_url
        self._own_place = None if database_url is None else Place(database_url)
        self._active_locks = 0
        if database_url is not None:
            self._on_url(database_url)
        else:
            load_dotenv_file_once()
            # The import may be slow, so it runs here and not at the first lock, in a running event
            # loop. A failure is reported at the first lock instead, because a test may replace
            # `_get_db` before that.
            with suppress(LockBackendError):
                application_database()

    # --- where the locks are ---

    @staticmethod
    def _get_db() -> Any:
        """Return a SQLAlchemy session; the locks are in its database.

        By default this is a session of the application, or None if the application has none; the manager
        calls only a replacement. Code and tests may replace this method on an instance or on the class, or
        override it. The manager calls the replacement at each operation, and closes its session. If the
        session is bound to an in-memory engine, the locks are in a private in-memory database of this
        package. All managers whose sessions are bound to the same engine share that database; SQLAlchemy does
        not see its rows.
        """
        return SessionLocal()

    def _replaced_get_db(self) -> Callable[[], Any] | None:
        """Return the callable that replaces `_get_db`; None if nothing replaces it."""
        if "_get_db" in self.__dict__:
            return self.__dict__["_get_db"]  # type: ignore[no-any-return]
        if type(self)._get_db is _own_get_db:
            is_replaced = SessionLocal is not _own_sessions and self._database_url is None
            return SessionLocal if is_replaced else None
        owner = next(cls for cls in type(self).__mro__ if "_get_db" in cls.__dict__)
        found = owner.__dict__["_get_db"]
        if owner is BidLockManager and self._database_url and not self._database_url.startswith(_SQL_SCHEMES):
            return None  # no SQLAlchemy session is bound to Redis
            # `_get_db` is a static method in some versions of the original and a method in others,
            # so a replacement may take `self` or not.
        if inspect.isfunction(found) and not _wants_self(found):
            return found
        return self._get_db

    def _place(self) -> Place | Unasked:
        """Return the current place of the locks, or an engine that has to be queried for it.

        Raises:
            LockBackendError: `_get_db` raised, or the application's module can't be imported.
            TypeError: `_get_db` returned an object that is no session.
            ValueError: the database is of a kind that is not supported.
        """
        get_db = self._replaced_get_db()
        if get_db is not None:
            return place_of_session(get_db, "_get_db" if get_db is not SessionLocal else "SessionLocal")
        if self._own_place is not None:
            return self._own_place
        load_dotenv_file_once()
        application = application_database()
        if application is None:
            return Place(os.environ.get("DATABASE_URL") or None)
        if getattr(application, "url", None) is not None:
            return place_of_engine(application, "src.api.database.engine")
        if callable(application):
            return place_of_sessions(application, "src.api.database.SessionLocal")
        return Place(str(application))

    def _locks(self, timeout: float = _ASKING_SECONDS) -> _native.LockManager:
        """Return the native manager for the current place of the locks. Waits `timeout` for an engine.

        Raises:
            LockBackendError: the engine could not report its database; also the errors of `_place`.
        """
        place = self._place()
        return self._at(place.wait(timeout) if isinstance(place, Unasked) else place)

    async def _locks_async(self) -> _native.LockManager:
        """As `_locks`, for coroutines."""
        return self._at(await self._asked_place())

    async def _asked_place(self, timeout: float = _ASKING_SECONDS) -> Place:
        place = self._place()
        return await place.answer(timeout) if isinstance(place, Unasked) else place

    async def _locks_within(self, timeout: float) -> tuple[_native.LockManager, float]:
        """As `_locks_async`; also returns the part of `timeout` that is left for the lock."""
        place = self._place()
        if not isinstance(place, Unasked):
            return self._at(place), timeout
        started = time.monotonic()
        locks = self._at(await place.answer(timeout))
        if not isinstance(timeout, int | float) or timeout < 0:
            return locks, timeout  # the acquisition refuses this timeout
        spent = time.monotonic() - started
        # A shorter delay does not matter, and messages then show the timeout that the caller gave.
        return locks, timeout if spent < _SPENT_SECONDS else max(timeout - spent, 0.0)

    def _at(self, place: Place) -> _native.LockManager:
        if place.memory_engine is not None:
            return self._in_memory_of(place.memory_engine)
        return self._on_url(place.url)

    def _on_url(self, url: str | None) -> _native.LockManager:
        manager = self._managers.get(url)
        if manager is None:
            check_text("database_url", url)
            check_text("listen_url", self._options["listen_url"])
            manager = self._managers[url] = _native.LockManager(url, **self._options)
            if url is None:
                _tell_of_the_default()
        return manager

    def _in_memory_of(self, engine: Any) -> _native.LockManager:
        number = _memory_numbers.get(engine)
        if number is None:
            number = _memory_numbers[engine] = next(_next_memory_number)
            weakref.finalize(engine, _native.LockManager.forget_private_memory, number).atexit = False
        manager = self._managers.get(number)
        if manager is None:
            manager = self._managers[number] = _native.LockManager.private_memory(number)
        return manager

    @staticmethod
    def _make_lock_key(marketplace_id: str, posting_id: str) -> str:
        return f"bid:lock:{marketplace_id}:{posting_id}"

    # --- the original's methods ---

    async def acquire_lock(
        self,
        marketplace_id: str,
        posting_id: str,
        timeout: float = 10.0,
        holder_id: str = "default",
        *,
        raise_on_error: bool = False,
    ) -> bool:
        """Acquire a lock for `ttl` seconds, without renewal; not reentrant.

        Args:
            marketplace_id: the marketplace; not empty, at most 1,000 characters.
            posting_id: the posting; likewise.
            timeout: seconds to wait while another holds it.
            holder_id: the name to hold it under.
            raise_on_error: raise where otherwise False is returned.

        Returns:
            True when acquired; False when it was still held `timeout` seconds later, or on a database error.

        Raises:
            ValueError: an argument makes no sense.
            LockTimeoutError: only with `raise_on_error`.
            LockBackendError: only with `raise_on_error`; transient failures are retried within `timeout`
                first.
        """
        try:
            locks, left = await self._locks_within(timeout)
            grant = await locks.acquire(
                marketplace_id, posting_id, holder_id=holder_id, ttl=self.ttl, timeout=left
            )
        except LockTimeoutError:
            if raise_on_error:
                raise
            logger.info("Lock %s:%s was not acquired within %ss", marketplace_id, posting_id, timeout)
            return False
        except LockBackendError as error:
            if raise_on_error:
                raise
            logger.error("Error acquiring lock %s:%s: %s", marketplace_id, posting_id, error)
            return False
        grant.keep()
        return True

    async def release_lock(self, marketplace_id: str, posting_id: str, holder_id: str = "default") -> bool:
        """Release a lock by its holder's name; carried through even when cancelled.

        If this process acquired the lock under that name, exactly that acquisition is released, and nobody
        else's.

        Returns:
            False, and a logged warning, if there is no such lock, another has it, or the database failed.

        Raises:
            ValueError: an argument makes no sense.
        """
        try:
            released = await (await self._locks_async()).release(marketplace_id, posting_id, holder_id)
        except LockBackendError as error:
            logger.error("Error releasing lock %s:%s: %s", marketplace_id, posting_id, error)
            return False
        if not released:
            logger.warning(
                "Lock %s:%s is not held by '%s': nothing released", marketplace_id, posting_id, holder_id
            )
        return released

    def with_lock(
        self,
        marketplace_id: str,
        posting_id: str,
        timeout: float = 10.0,
        holder_id: str = "default",
        *,
        auto_renew: bool | None = None,
        on_lost: OnLost | None = None,
    ) -> LockContext:
        """`async with manager.with_lock(...) as lease:` holds the lock while the body runs.

        It is renewed meanwhile (unless `auto_renew` is False) and released at exit, whatever the body raised.

        Raises:
            LockTimeoutError: on entry: a `TimeoutError`, "Failed to acquire lock for M:P within Ts".
            LockBackendError: on entry: a `TimeoutError` as well.
            LockLostError: on exit, if the lock was lost and `on_lost` says so.
        """
        on_lost = self.on_lost if on_lost is None else on_lost
        check_on_lost(on_lost)

        def acquire() -> Awaitable[_native.Lease]:
            return self._lease(marketplace_id, posting_id, timeout, holder_id, auto_renew)

        return LockContext(acquire, on_lost, _timeout_message(marketplace_id, posting_id, timeout))

    async def cleanup_all(self) -> None:
        """Delete every lock, whoever holds it. A database error is logged."""
        try:
            deleted = await (await self._locks_async()).clear()
        except LockBackendError as error:
            logger.error("Error cleaning up locks: %s", error)
        else:
            logger.info("Deleted %d locks", deleted)

    def get_metrics(self) -> dict[str, int]:
        """Counters of this manager, and the number of unexpired locks in the table.

        Waits for the database, with the GIL released and one second at most; then the last known number is
        given.
        """
        try:
            self._active_locks = self._locks(_METRICS_SECONDS).active_locks_blocking(_METRICS_SECONDS)
        except LockBackendError as error:
            logger.error("Error counting locks: %s", error)
        return _original_metrics(self._counters(), self._active_locks)

    @property
    def _lock_attempts(self) -> int:
        return self._counters()["attempts"]

    @property
    def _lock_successes(self) -> int:
        return self._counters()["successes"]

    @property
    def _lock_conflicts(self) -> int:
        return self._counters()["conflicts"]

    @property
    def _lock_timeouts(self) -> int:
        return self._counters()["timeouts"]

    def _counters(self) -> Counter[str]:
        """Over all databases that `_get_db` has led to."""
        total: Counter[str] = Counter()
        for manager in self._managers.values():
            total.update(manager.counters())
        return total

    # --- leases ---

    async def acquire_lease(
        self,
        marketplace_id: str,
        posting_id: str,
        timeout: float = 10.0,
        holder_id: str = "default",
        *,
        auto_renew: bool | None = None,
    ) -> Lease:
        """Acquire a lock as a lease: keep the lease (`lease = await ...`), and release it.

        Dropping a lease that is still held releases the lock in the background, with a `ResourceWarning`.

        Raises:
            LockTimeoutError: it was still held `timeout` seconds later.
            LockBackendError: the database could not be reached in that time.
        """
        return Lease(await self._lease(marketplace_id, posting_id, timeout, holder_id, auto_renew))

    async def try_lock(
        self,
        marketplace_id: str,
        posting_id: str,
        holder_id: str = "default",
        *,
        auto_renew: bool | None = None,
    ) -> Lease | None:
        """Acquire a lock as a lease if it is free now; None if it is held.

        Keep the lease: `if await locks.try_lock(...):` drops it at once, which releases the lock.

            lease = await locks.try_lock("jobs", "nightly")
            if lease is not None:
                try:
                    ...
                finally:
                    await lease.release()

        Raises:
            LockBackendError: the database could not be asked.
        """
        try:
            return Lease(await self._lease(marketplace_id, posting_id, 0.0, holder_id, auto_renew))
        except LockTimeoutError:
            return None

    async def lock_many(
        self,
        names: Iterable[tuple[str, str]],
        timeout: float = 10.0,
        holder_id: str = "default",
        *,
        auto_renew: bool | None = None,
    ) -> list[Lease]:
        """Acquire several locks, (marketplace, posting) each: all of them, or none.

        The locks are acquired in the order of their keys, so that two callers can't deadlock; the leases are
        returned in the order of `names`. Keep the leases, as with `acquire_lease`.

        Raises:
            LockTimeoutError: one of them was still held `timeout` seconds after the call.
            LockBackendError: the database could not be reached in that time.
            ValueError: a lock is named twice.
        """
        locks, left = await self._locks_within(timeout)
        leases = await locks.lease_many(
            list(names), holder_id=holder_id, timeout=left, **self._keeping(auto_renew)
        )
        return [Lease(lease) for lease in leases]

    def with_lock_sync(
        self,
        marketplace_id: str,
        posting_id: str,
        timeout: float = 10.0,
        holder_id: str = "default",
        *,
        auto_renew: bool | None = None,
        on_lost: OnLost | None = None,
    ) -> SyncLockContext:
        """As `with_lock`, for threads: a plain `with`, which waits in the calling thread.

        A thread can't be cancelled or interrupted. So the end of the block applies `on_lost`, and "cancel"
        means the same as "raise".
        """
        on_lost = self.on_lost if on_lost is None else on_lost
        check_on_lost(on_lost)

        def acquire() -> _native.Lease:
            return self._locks(timeout).lease_blocking(
                marketplace_id, posting_id, holder_id=holder_id, timeout=timeout, **self._keeping(auto_renew)
            )

        return SyncLockContext(acquire, on_lost, _timeout_message(marketplace_id, posting_id, timeout))

    async def _lease(
        self, marketplace_id: str, posting_id: str, timeout: float, holder_id: str, auto_renew: bool | None
    ) -> _native.Lease:
        locks, left = await self._locks_within(timeout)
        return await locks.lease(
            marketplace_id, posting_id, holder_id=holder_id, timeout=left, **self._keeping(auto_renew)
        )

    @property
    def max_hold(self) -> float | None:
        """Seconds for which a lock is renewed at most; None for no limit."""
        return 10 * self.ttl if self._max_hold is _TEN_TTLS else self._max_hold

    def _keeping(self, auto_renew: bool | None) -> dict[str, Any]:
        renew = self.auto_renew if auto_renew is None else auto_renew
        return {"ttl": self.ttl, "auto_renew": renew, "max_hold": self.max_hold}

    # --- to look at, and to mend ---

    async def locks(self) -> LockOverview:
        """Who holds what, in the whole table; and who waits for what, in this process.

        Raises:
            LockBackendError: the database could not be asked.
        """
        locks = await self._locks_async()
        held = [HeldLock(*row) for row in await locks.rows()]
        return LockOverview(held=held, waiting=[Waiter(*waiter) for waiter in locks.waiting()])

    async def break_lock(self, key: str) -> bool:
        """Delete the row of a key (`bid:lock:M:P`), whoever holds it; whether there was one.

        Raises:
            ValueError: the key is too long, or contains NUL.
            LockBackendError: the database could not be asked.
        """
        return await (await self._locks_async()).break_lock(key)

    async def get_metrics_async(self) -> dict[str, Any]:
        """As `get_metrics`, without blocking, and more.

        `lock_renewals`, `lock_losses`, `backend_errors`, `waiters` (in this process), and `wait_seconds` and
        `hold_seconds`: histograms, as {"bounds": upper bounds, "counts": one more than bounds, "sum":
        seconds}.
        """
        locks = await self._locks_async()
        active = await locks.active_locks(_METRICS_SECONDS)
        counters = self._counters()
        bounds, wait, hold = locks.histograms()
        return {
            **_original_metrics(counters, active),
            "lock_renewals": counters["renewals"],
            "lock_losses": counters["losses"],
            "backend_errors": counters["backend_errors"],
            "waiters": len(locks.waiting()),
            "wait_seconds": {"bounds": bounds, "counts": wait[0], "sum": wait[1]},
            "hold_seconds": {"bounds": bounds, "counts": hold[0], "sum": hold[1]},
        }

    async def aclose(self) -> None:
        """Release what this manager still holds, and let go of its connections if nobody else uses them.

        A manager that is used again opens them again.
        """
        for manager in list(self._managers.values()):
            await manager.close(_CLOSE_SECONDS)

    def close(self) -> None:
        """As `aclose`, waiting in the calling thread."""
        for manager in list(self._managers.values()):
            manager.close_blocking(_CLOSE_SECONDS)

    async def __aenter__(self) -> BidLockManager:
        """Give the manager itself."""
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.aclose()


_own_get_db = BidLockManager._get_db


def _wants_self(function: Callable[..., Any]) -> bool:
    first = next(iter(inspect.signature(function).parameters.values()), None)
    return first is not None and first.default is first.empty and first.kind in _POSITIONAL


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _tell_of_the_default() -> None:
    file = os.path.abspath("data/tasks.db")  # noqa: PTH100
    if file not in _told_files:
        _told_files.add(file)
        logger.warning(
            "There is no module src.api.database, and DATABASE_URL is not set: locks are in %s. A process "
            "with another working directory uses another file.",
            file,
        )


def _timeout_message(marketplace_id: str, posting_id: str, timeout: float) -> str:
    return f"Failed to acquire lock for {printable(f'{marketplace_id}:{posting_id}')} within {timeout}s"


def _original_metrics(counters: Mapping[str, int], active_locks: int) -> dict[str, int]:
    return {
        "lock_attempts": counters["attempts"],
        "lock_successes": counters["successes"],
        "lock_conflicts": counters["conflicts"],
        "lock_timeouts": counters["timeouts"],
        "active_locks": active_locks,
    }


_bid_lock_manager: BidLockManager | None = None


def get_bid_lock_manager() -> BidLockManager:
    """Give the process's manager, made now with a `ttl` of 300 if there is none."""
    global _bid_lock_manager
    if _bid_lock_manager is None:
        _bid_lock_manager = BidLockManager(ttl=300)
    return _bid_lock_manager


def init_bid_lock_manager(ttl: float = 300) -> BidLockManager:
    """Make the process's manager anew."""
    global _bid_lock_manager
    _bid_lock_manager = BidLockManager(ttl=ttl)
    return _bid_lock_manager
