"""Which locks a process uses: Redis's where that is wanted and answers, else the database's."""

from __future__ import annotations

import logging
import os  # noqa: F401, a name of the original module

from arbitrageai_native import defaults
from arbitrageai_native._safe_text import in_one_line
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from arbitrageai_native.environment import load_dotenv_file_once, wants_redis

__all__ = [
    "create_bid_lock_manager",
    "get_bid_lock_manager",
    "init_bid_lock_manager",
    "reset_bid_lock_manager",
]

logger = logging.getLogger(__name__)
logger.addFilter(in_one_line)

_Manager = BidLockManager | RedisBidLockManager


async def create_bid_lock_manager(use_redis: bool | None = None, ttl: float = defaults.LOCK_TTL) -> _Manager:
    """Make a manager: of Redis's locks if they are wanted and Redis answers, of the database's otherwise.

    That Redis was wanted, and is not to be had, is logged as a warning.

    Args:
        use_redis: whether to use Redis. If None, the environment decides: `USE_REDIS_LOCKS` if it exists,
            even if it is empty (`true`, `1` and `yes` mean Redis, every other value means the database); else
            Redis if `REDIS_URL`, `REDIS_HOST` or `REDIS_PORT` is set; else Redis unless `ENV` is
            `development`, its default.
        ttl: seconds that a lock lasts without renewal.

    Raises:
        ValueError: `ttl` makes no sense.
    """
    if _wants_redis(use_redis):
        try:
            manager = RedisBidLockManager(ttl=ttl)
            if await manager.health_check():
                return manager
            await manager.close()
            logger.warning("Redis is not reachable: locks are in the database")
        except Exception as error:  # whatever it is, the application goes on with its database
            logger.warning("Redis can't be used: locks are in the database: %s", error)
    return BidLockManager(ttl=ttl)


def _wants_redis(use_redis: bool | None) -> bool:
    if use_redis is not None:
        return use_redis
    load_dotenv_file_once()
    return wants_redis()


_bid_lock_manager: _Manager | None = None


async def get_bid_lock_manager() -> _Manager:
    """Give the process's manager, made now by `create_bid_lock_manager()` if there is none."""
    global _bid_lock_manager
    if _bid_lock_manager is None:
        made = await create_bid_lock_manager()
        if _bid_lock_manager is None:
            _bid_lock_manager = made
        else:  # another task was faster
            await _close(made)
    return _bid_lock_manager


async def init_bid_lock_manager(use_redis: bool | None = None, ttl: float = defaults.LOCK_TTL) -> _Manager:
    """Make the process's manager anew; as `create_bid_lock_manager`."""
    global _bid_lock_manager
    _bid_lock_manager = await create_bid_lock_manager(use_redis, ttl)
    return _bid_lock_manager


async def reset_bid_lock_manager() -> None:
    """Forget the process's manager, releasing what it holds; the next one is made anew."""
    global _bid_lock_manager
    manager, _bid_lock_manager = _bid_lock_manager, None
    if manager is not None:
        await _close(manager)


async def _close(manager: _Manager) -> None:
    if isinstance(manager, RedisBidLockManager):
        await manager.close()
    else:
        await manager.aclose()
