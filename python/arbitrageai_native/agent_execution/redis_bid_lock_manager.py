"""Locks in Redis, so that no two scanners bid on one posting.

Keys and values are the original's (`bid_lock:{marketplace}:{posting}`, the holder's name), and old processes
may go on using them beside this package: both exclude each other. What differs: no request is ever sent from
the event loop, waiters queue and are woken instead of polling, a release deletes exactly what was acquired,
and a lock that is held in a block is renewed until the block ends.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from typing import TYPE_CHECKING

from arbitrageai_native import _native, defaults, environment
from arbitrageai_native._safe_text import check_text, in_one_line
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.environment import load_dotenv_file_once
from arbitrageai_native.exceptions import LockBackendError
from arbitrageai_native.locks import keys
from arbitrageai_native.locks.blocks import LockContext
from arbitrageai_native.locks.databases import Databases
from arbitrageai_native.locks.leases import OnLost
from arbitrageai_native.locks.log_lines import RedisLogLines
from arbitrageai_native.locks.original_names import Counter, replaced_context
from arbitrageai_native.utils.foreign import foreign_names

__all__ = ["RedisBidLockManager", "get_bid_lock_manager", "init_bid_lock_manager"]

logger = logging.getLogger(__name__)
logger.addFilter(in_one_line)

_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
_HEALTH_CHECK_SECONDS = 2.0

if not TYPE_CHECKING:  # type checkers report names that do not exist
    __getattr__ = foreign_names(__name__)


class RedisBidLockManager:
    """Locks on marketplace postings, shared by all processes that use one Redis server.

    A thin class over a `BidLockManager` on a Redis URL; use that one for leases, and for whatever else the
    original does not have.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        ttl: float = defaults.LOCK_TTL,
        *,
        auto_renew: bool = True,
        on_lost: OnLost = defaults.LOCK_ON_LOST,
        margin: float | None = None,
        loss_check: float | None = defaults.LOCK_LOSS_CHECK,
    ) -> None:
        """Describe the locks; nothing is opened before the first one is asked for.

        Args:
            redis_url: `redis://`, `rediss://` (TLS) or `unix://`, with `redis-py`'s parameters. If None, the
                environment's `REDIS_URL`; when that is unset, it is made of `REDIS_HOST` (localhost),
                `REDIS_PORT` (6379), `REDIS_DB` (0) and `REDIS_PASSWORD`.
            ttl: seconds that a lock lasts without renewal.
            auto_renew: whether `with_lock` renews the lock while the body runs.
            on_lost: what a block does when its lock is lost: "log", "raise", "cancel" or a callable.
            margin: seconds for which a lock counts as lost before its key expires, less than half of `ttl`;
                None: a tenth of `ttl`, 1 s at most, or 0 without renewal.
            loss_check: seconds between looks for the keys of all blocks, at least 0.1; None for no looks.

        Raises:
            ValueError: an argument makes no sense.
            TypeError: an argument has a wrong type.
        """
        url = redis_url or get_redis_url()
        if not isinstance(url, str):
            raise TypeError(f"argument 'redis_url': {url!r} is not a string")
        check_text("redis_url", url)
        if url.partition("://")[0].partition("+")[0].lower() not in _SCHEMES:
            raise ValueError(
                f"redis_url must begin with one of {', '.join(f'{name}://' for name in _SCHEMES)}"
            )
        try:
            self._manager = BidLockManager(
                ttl, url, auto_renew=auto_renew, on_lost=on_lost, margin=margin, loss_check=loss_check
            )
        except ValueError as error:
            raise ValueError(str(error).replace("database_url", "redis_url")) from None
        self._manager._log = RedisLogLines(lambda: logger, self._make_lock_key)
        self._redis_url = url
        self._other_errors = 0

    @property
    def redis_url(self) -> str:
        """The server's URL."""
        return self._redis_url

    @property
    def ttl(self) -> float:
        """Seconds that a lock lasts without renewal; assigning it affects the next acquisition."""
        return self._manager.ttl

    @ttl.setter
    def ttl(self, seconds: float) -> None:
        self._manager.ttl = seconds

    _make_lock_key = staticmethod(keys.redis_key)

    async def acquire_lock(
        self,
        marketplace_id: str,
        posting_id: str,
        timeout: float = defaults.LOCK_TIMEOUT,
        holder_id: str | None = None,
    ) -> bool:
        """Acquire a lock for `ttl` seconds, without renewal; not reentrant.

        Args:
            marketplace_id: the marketplace; not empty, at most 1,000 characters. What is no string counts as
                the text that an f-string makes of it, and as empty if it is false.
            posting_id: the posting; likewise.
            timeout: seconds to wait while another holds it.
            holder_id: the name to hold it under; `host:pid:` and eight random digits when None or empty.

        Returns:
            True when acquired; False when it was still held `timeout` seconds later, or on an error of Redis
            (transient ones are retried within `timeout` first).

        Raises:
            ValueError: an argument makes no sense.
        """
        holder_id = holder_id or self._make_holder_id()
        return await self._manager.acquire_lock(marketplace_id, posting_id, timeout, holder_id)

    async def release_lock(self, marketplace_id: str, posting_id: str, holder_id: str | None = None) -> bool:
        """Release a lock by its holder's name, or what this manager acquired.

        It is carried through even when cancelled. If this process acquired the lock under that name, exactly
        that acquisition is released, and nobody else's. Without a name it is what this very manager acquired.

        Returns:
            False, and a logged warning, if there is no such lock, another has it, or Redis failed.

        Raises:
            ValueError: an argument makes no sense.
        """
        log, locks = self._manager._log, self._locks()
        try:
            if not holder_id:
                released = await locks.release_own(marketplace_id, posting_id)
            else:
                released = await locks.release(marketplace_id, posting_id, holder_id)
        except LockBackendError as error:
            self._other_errors += 1
            log.not_released(marketplace_id, posting_id, error)
            return False
        await log.release_ended(locks, marketplace_id, posting_id, holder_id, released)
        return released

    def with_lock(
        self,
        marketplace_id: str,
        posting_id: str,
        timeout: float = defaults.LOCK_TIMEOUT,
        holder_id: str | None = None,
        *,
        auto_renew: bool | None = None,
        on_lost: OnLost | None = None,
        margin: float | None = None,
    ) -> LockContext:
        """`async with manager.with_lock(...) as lease:` holds the lock while the body runs.

        It is renewed meanwhile (unless `auto_renew` is False) and released at exit, whatever the body raised.

        Raises:
            LockTimeoutError: on entry: a `TimeoutError`, "Failed to acquire lock for M:P within Ts".
            LockBackendError: on entry: a `TimeoutError` as well.
            LockLostError: on exit, if the lock was lost and `on_lost` says so.
        """
        lock = (marketplace_id, posting_id, timeout, holder_id or self._make_holder_id())
        if (replaced := replaced_context(self, _own_methods, lock)) is not None:
            return replaced
        return self._manager.with_lock(*lock, auto_renew=auto_renew, on_lost=on_lost, margin=margin)

    async def cleanup_all(self) -> None:
        """Delete every lock, whoever holds it. An error of Redis is logged."""
        try:
            deleted = await self._locks().clear()
        except LockBackendError as error:
            self._other_errors += 1
            self._manager._log.not_cleared(error)
        else:
            self._manager._log.cleared(deleted)

    async def health_check(self) -> bool:
        """Whether Redis answers now, within two seconds. Never fails."""
        try:
            return await self._locks().hear_from_database(_HEALTH_CHECK_SECONDS)
        except LockBackendError as error:
            self._other_errors += 1
            logger.error("Redis health check failed: %s", error)
            return False

    def get_metrics(self) -> dict[str, int]:
        """Counters of this manager; Redis is not asked. `redis_errors` counts repeated tries, too."""
        counters = self._manager._databases.counters()
        return {
            "lock_attempts": counters["attempts"],
            "lock_successes": counters["successes"],
            "lock_conflicts": counters["conflicts"],
            "lock_timeouts": counters["timeouts"],
            "redis_errors": counters["backend_errors"] + self._other_errors,
        }

    _lock_attempts = Counter("attempts")
    _lock_successes = Counter("successes")
    _lock_conflicts = Counter("conflicts")
    _lock_timeouts = Counter("timeouts")

    @property
    def _databases(self) -> Databases:
        return self._manager._databases

    @property
    def _redis_errors(self) -> int:
        return self.get_metrics()["redis_errors"]

    @_redis_errors.setter
    def _redis_errors(self, count: int) -> None:
        self._other_errors += count - self._redis_errors

    async def close(self) -> None:
        """Release what this manager still holds, and let go of its connections if nobody else uses them.

        A manager that is used again opens them again.
        """
        await self._manager.aclose()
        logger.info("Redis connection pool closed")

    def _make_holder_id(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}:{str(uuid.uuid4())[:8]}"

    def _locks(self) -> _native.LockManager:
        return self._manager._locks()


_own_methods = {name: vars(RedisBidLockManager)[name] for name in ("acquire_lock", "release_lock")}


def get_redis_url() -> str:
    """Return the URL that the environment names."""
    load_dotenv_file_once()
    return environment.redis_url()


_bid_lock_manager: RedisBidLockManager | None = None


async def get_bid_lock_manager() -> RedisBidLockManager:
    """Give the process's manager, made now with a `ttl` of 300 if there is none. Redis is not asked."""
    global _bid_lock_manager
    if _bid_lock_manager is None:
        _bid_lock_manager = RedisBidLockManager()
    return _bid_lock_manager


async def init_bid_lock_manager(
    redis_url: str | None = None, ttl: float = defaults.LOCK_TTL
) -> RedisBidLockManager:
    """Make the process's manager anew.

    Raises:
        RuntimeError: Redis is not reachable; the manager stays as it was.
        ValueError: an argument makes no sense.
    """
    global _bid_lock_manager
    manager = RedisBidLockManager(redis_url, ttl)
    if not await manager.health_check():
        await manager.close()
        raise RuntimeError("Redis is not reachable: see the log for what it said")
    _bid_lock_manager = manager
    return manager
