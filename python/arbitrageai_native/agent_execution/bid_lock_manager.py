"""Locks in a database table, so that no two scanners bid on one posting.

The table `distributed_locks` is the original's: old processes may use it beside this package. No statement
runs on the event loop, waiters queue, and a lock that is held in a block is renewed until the block ends.
"""

from __future__ import annotations

import logging
import os  # noqa: F401, a name of the original module
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from arbitrageai_native import _native, defaults
from arbitrageai_native._safe_text import in_one_line
from arbitrageai_native.exceptions import LockBackendError, LockTimeoutError
from arbitrageai_native.locks import application, keys, overview
from arbitrageai_native.locks.blocks import BlockLog, LockContext, SyncLockContext
from arbitrageai_native.locks.closing import ClosesDatabases
from arbitrageai_native.locks.databases import Databases
from arbitrageai_native.locks.keeping import BY_TTL, Keeping
from arbitrageai_native.locks.leases import Lease, OnLost, check_on_lost
from arbitrageai_native.locks.log_lines import LogLines
from arbitrageai_native.locks.original_names import OriginalNames, callable_on_class, replaced_context
from arbitrageai_native.utils.foreign import foreign_names
from arbitrageai_native.utils.replaced import replacement

__all__ = ["BidLockManager", "get_bid_lock_manager", "init_bid_lock_manager"]

logger = logging.getLogger(__name__)
logger.addFilter(in_one_line)

_METRICS_SECONDS = 1.0

if not TYPE_CHECKING:  # type checkers report names that do not exist
    __getattr__ = foreign_names(__name__)


def SessionLocal() -> Any:  # noqa: N802, the original's name
    """Return a session of the application's `src.api.database.SessionLocal`; None if there is none.

    Tests may patch this name: the locks are then in the database of the replacement's session.
    """
    return sessions() if callable(sessions := application.application_database()) else None


_own_sessions = SessionLocal


class BidLockManager(OriginalNames, ClosesDatabases):
    """Locks on marketplace postings, shared by all processes that use one database.

    Managers of one URL in one process share connections and one queue of waiters.

    Attributes:
        ttl: seconds that a lock lasts without renewal; assigning it affects the next acquisition.
        auto_renew: whether `with_lock` and leases renew the lock, unless they say otherwise themselves.
        on_lost: what a block does when its lock is lost, likewise.
    """

    def __init__(
        self,
        ttl: float = defaults.LOCK_TTL,
        database_url: str | None = None,
        *,
        auto_renew: bool = True,
        max_hold: float | None = BY_TTL,
        on_lost: OnLost = defaults.LOCK_ON_LOST,
        margin: float | None = None,
        loss_check: float | None = defaults.LOCK_LOSS_CHECK,
        max_connections: int = defaults.LOCK_CONNECTIONS,
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
            max_hold: seconds for which a lock is renewed at most, ten times `ttl` by default; None: no limit.
            on_lost: what a block does when its lock is lost: "log", "raise", "cancel" or a callable.
            margin: seconds for which a lease counts as lost before its row expires, less than half of `ttl`;
                None: a tenth of `ttl`, 1 s at most, or 0 without renewal.
            loss_check: seconds between looks for the rows of all leases, at least 0.1; None for no looks.
                A PostgreSQL database with more than 100 sessions is looked at more slowly.
            max_connections: the most connections to a PostgreSQL server, the one that listens included.
            listen_url: a direct connection for notifications, where `database_url` leads through a pooler.
            statement_cache: False behind a pooler in transaction mode; releases of other processes are then
                found by polling (0.3 s), unless `listen_url` is given.

        Raises:
            ValueError: an argument makes no sense, or the `.env` file can't be read.
            TypeError: an argument has a wrong type.
        """
        limits = {"max_connections": max_connections, "listen_url": listen_url}
        self._databases = Databases(**limits, statement_cache=statement_cache)
        self._keeping = Keeping(max_hold, margin, loss_check)
        self._databases.check(**self._keeping.terms(ttl, auto_renew))
        check_on_lost(on_lost)
        self.ttl = ttl
        self.auto_renew = auto_renew
        self.on_lost: OnLost = on_lost
        self._own_place = None if database_url is None else application.Place(database_url)
        self._active_locks = 0
        self._log = LogLines(lambda: logger, self._make_lock_key)
        if self._own_place is not None:
            self._databases.at(self._own_place)
        else:
            application.prepare()
        # No SQLAlchemy session is bound to Redis: what was patched for all managers is not meant for these.
        self._is_on_redis = database_url is not None and not database_url.startswith(("sqlite", "postgres"))

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

    def _place(self) -> application.AnyPlace:
        """Return the current place of the locks, or an engine that has to be queried for it.

        Raises what `place_of_session` and `place_of_application` raise.
        """
        ignored = BidLockManager if self._is_on_redis else None
        get_db = replacement(self, "_get_db", _own_get_db, ignored=ignored)
        if get_db is not None:
            return application.place_of_session(get_db, "_get_db")
        if self._own_place is not None:
            return self._own_place
        if SessionLocal is not _own_sessions:
            return application.place_of_session(SessionLocal, "SessionLocal")
        return application.place_of_application()

    def _locks(self, timeout: float | None = None) -> _native.LockManager:
        """Return the native manager for the current place of the locks. Waits for the database's answer."""
        return self._databases.wait_for(self._place(), timeout)

    async def _locks_async(self) -> _native.LockManager:
        """As `_locks`, for coroutines."""
        return await self._databases.answered(self._place())

    _make_lock_key = staticmethod(keys.database_key)

    async def acquire_lock(
        self,
        marketplace_id: str,
        posting_id: str,
        timeout: float = defaults.LOCK_TIMEOUT,
        holder_id: str = defaults.LOCK_HOLDER,
        *,
        raise_on_error: bool = False,
    ) -> bool:
        """Acquire a lock for `ttl` seconds, without renewal; not reentrant.

        Args:
            marketplace_id: the marketplace; not empty, at most 1,000 characters. What is no string counts as
                the text that an f-string makes of it, and as empty if it is false.
            posting_id: the posting; likewise.
            timeout: seconds to wait while another holds it.
            holder_id: the name to hold it under; of what is no string, `str()`.
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
            locks, left = self._databases.known(place := self._place()), timeout
            if locks is None:
                locks, left = await self._databases.answered_within(place, timeout)
            grant = await locks.acquire(marketplace_id, posting_id, holder_id, self.ttl, left, True)
        except (LockTimeoutError, LockBackendError) as error:
            if raise_on_error:
                raise
            self._log.not_acquired(marketplace_id, posting_id, holder_id, timeout, error)
            return False
        grant.keep()
        self._log.acquired(marketplace_id, posting_id, holder_id, self.ttl)
        return True

    async def release_lock(
        self, marketplace_id: str, posting_id: str, holder_id: str = defaults.LOCK_HOLDER
    ) -> bool:
        """Release a lock by its holder's name; carried through even when cancelled.

        If this process acquired the lock under that name, exactly that acquisition is released, and nobody
        else's.

        Returns:
            False, and a logged warning, if there is no such lock, another has it, or the database failed.

        Raises:
            ValueError: an argument makes no sense.
        """
        try:
            locks = self._databases.known(place := self._place()) or await self._databases.answered(place)
            released = await locks.release(marketplace_id, posting_id, holder_id)
        except LockBackendError as error:
            self._log.not_released(marketplace_id, posting_id, error)
            return False
        await self._log.release_ended(locks, marketplace_id, posting_id, holder_id, released)
        return released

    def with_lock(
        self,
        marketplace_id: str,
        posting_id: str,
        timeout: float = defaults.LOCK_TIMEOUT,
        holder_id: str = defaults.LOCK_HOLDER,
        *,
        auto_renew: bool | None = None,
        on_lost: OnLost | None = None,
        margin: float | None = None,
    ) -> LockContext:
        """`async with manager.with_lock(...) as lease:` holds the lock while the body runs.

        It is renewed meanwhile (unless `auto_renew` is False) and released at exit, whatever the body raised.
        As a decorator of a coroutine function it holds the lock during each call. `auto_renew`, `on_lost` and
        `margin` are the manager's when None.

        Raises:
            LockTimeoutError: on entry: a `TimeoutError`, "Failed to acquire lock for M:P within Ts: …".
            LockBackendError: on entry: a `TimeoutError` as well.
            LockLostError: on exit, if the lock was lost and `on_lost` says so.
        """
        lock = (marketplace_id, posting_id, timeout, holder_id)
        if (replaced := replaced_context(self, _own_methods, lock)) is not None:
            return replaced
        acquire = partial(self._lease, *lock, auto_renew, margin)
        message = partial(keys.timeout_message, marketplace_id, posting_id, timeout)
        log = BlockLog(self._log, (marketplace_id, posting_id, holder_id), self.ttl, timeout)
        return LockContext(acquire, self.on_lost if on_lost is None else on_lost, message, log)

    async def cleanup_all(self) -> None:
        """Delete every lock, whoever holds it. A database error is logged."""
        try:
            deleted = await (await self._locks_async()).clear()
        except LockBackendError as error:
            self._log.not_cleared(error)
        else:
            self._log.cleared(deleted)

    def get_metrics(self) -> overview.LockCounts:
        """Counters of this manager, and the number of unexpired locks in the table.

        Waits for the database, with the GIL released and one second at most; then the last known number is
        given.
        """
        try:
            self._active_locks = self._locks(_METRICS_SECONDS).active_locks_blocking(_METRICS_SECONDS)
        except LockBackendError as error:
            logger.error("Error counting locks: %s", error)
        return overview.lock_counts(self._databases.counters(), self._active_locks)

    async def acquire_lease(
        self,
        marketplace_id: str,
        posting_id: str,
        timeout: float = defaults.LOCK_TIMEOUT,
        holder_id: str = defaults.LOCK_HOLDER,
        *,
        auto_renew: bool | None = None,
    ) -> Lease:
        """Acquire a lock as a lease: keep the lease (`lease = await ...`), and release it.

        `async with await locks.acquire_lease(...) as lease:` releases it at the end of the block. Dropping a
        lease that is still held releases the lock in the background, with a `ResourceWarning`.

        Raises:
            LockTimeoutError: it was still held `timeout` seconds later.
            LockBackendError: the database could not be reached in that time.
        """
        lease = await self._lease(marketplace_id, posting_id, timeout, holder_id, auto_renew)
        return Lease(lease, self.on_lost)

    async def try_lock(
        self,
        marketplace_id: str,
        posting_id: str,
        holder_id: str = defaults.LOCK_HOLDER,
        *,
        auto_renew: bool | None = None,
    ) -> Lease | None:
        """Acquire a lock as a lease if it is free now; None if it is held.

        Keep the lease: `if await locks.try_lock(...):` drops it at once, which releases the lock. If there is
        one, `async with lease:` releases it at the end of the block.

        Raises:
            LockBackendError: the database could not be asked.
        """
        lock = (marketplace_id, posting_id, 0.0, holder_id)
        try:
            lease = await self._lease(*lock, auto_renew, names_holder=False)
        except LockTimeoutError:
            return None
        return Lease(lease, self.on_lost)

    async def lock_many(
        self,
        names: Iterable[tuple[str, str]],
        timeout: float = defaults.LOCK_TIMEOUT,
        holder_id: str = defaults.LOCK_HOLDER,
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
        asked_for = keys.pairs(names)
        locks, left = await self._databases.answered_within(self._place(), timeout)
        terms = {"holder_id": holder_id, "timeout": left, "names_holder": True, **self._terms(auto_renew)}
        leases = await locks.lease_many(asked_for, **terms)
        return [Lease(lease, self.on_lost) for lease in leases]

    def with_lock_sync(
        self,
        marketplace_id: str,
        posting_id: str,
        timeout: float = defaults.LOCK_TIMEOUT,
        holder_id: str = defaults.LOCK_HOLDER,
        *,
        auto_renew: bool | None = None,
        on_lost: OnLost | None = None,
        margin: float | None = None,
    ) -> SyncLockContext:
        """As `with_lock`, for threads: a plain `with`, which waits in the calling thread.

        A thread can't be cancelled or interrupted, so that "cancel" means the same as "raise". A callable
        `on_lost` is called from another thread as soon as the loss is detected.
        """

        def acquire() -> _native.Lease:
            terms = {"holder_id": holder_id, "timeout": timeout, **self._terms(auto_renew, margin)}
            return self._locks(timeout).lease_blocking(marketplace_id, posting_id, names_holder=True, **terms)

        message = partial(keys.timeout_message, marketplace_id, posting_id, timeout)
        return SyncLockContext(acquire, self.on_lost if on_lost is None else on_lost, message)

    async def _lease(
        self, marketplace_id: str, posting_id: str, timeout: float, holder_id: str, *kept: Any, **also: Any
    ) -> _native.Lease:
        locks, left = self._databases.known(place := self._place()), timeout
        if locks is None:
            locks, left = await self._databases.answered_within(place, timeout)
        terms = {"holder_id": holder_id, "timeout": left, "names_holder": True, **self._terms(*kept), **also}
        return await locks.lease(marketplace_id, posting_id, **terms)

    @property
    def max_hold(self) -> float | None:
        """Seconds for which a lock is renewed at most; None for no limit."""
        return self._keeping.longest(self.ttl)

    def _terms(self, auto_renew: bool | None, margin: float | None = None) -> dict[str, Any]:
        return self._keeping.terms(self.ttl, self.auto_renew if auto_renew is None else auto_renew, margin)

    async def locks(self) -> overview.LockOverview:
        """Who holds what, in the whole table; and who waits for what, in this process.

        Raises:
            LockBackendError: the database could not be asked.
        """
        locks = await self._locks_async()
        held = [overview.HeldLock(*row) for row in await locks.rows()]
        return overview.LockOverview(held, [overview.Waiter(*waiter) for waiter in locks.waiting()])

    async def break_lock(self, key: str) -> bool:
        """Delete the row of a key (`bid:lock:M:P`), whoever holds it; whether there was one.

        Raises:
            ValueError: the key is empty, too long, or contains NUL.
            LockBackendError: the database could not be asked.
        """
        return await (await self._locks_async()).break_lock(key)

    async def get_metrics_async(self) -> overview.LockMetrics:
        """As `get_metrics`, without blocking, and more: see `LockMetrics`. `waiters` are in this process."""
        locks = await self._locks_async()
        active_locks = await locks.active_locks(_METRICS_SECONDS)
        return overview.lock_metrics(self._databases.counters(), active_locks, locks)


callable_on_class(BidLockManager, lambda: get_bid_lock_manager(), "release_lock", "cleanup_all")
_own_methods = {name: vars(BidLockManager)[name] for name in ("acquire_lock", "release_lock")}
_own_get_db = BidLockManager._get_db
_bid_lock_manager: BidLockManager | None = None


def get_bid_lock_manager() -> BidLockManager:
    """Give the process's manager, made now with a `ttl` of 300 if there is none."""
    global _bid_lock_manager
    if _bid_lock_manager is None:
        _bid_lock_manager = BidLockManager(ttl=defaults.LOCK_TTL)
    return _bid_lock_manager


def init_bid_lock_manager(ttl: float = defaults.LOCK_TTL) -> BidLockManager:
    """Make the process's manager anew."""
    global _bid_lock_manager
    _bid_lock_manager = BidLockManager(ttl=ttl)
    return _bid_lock_manager
