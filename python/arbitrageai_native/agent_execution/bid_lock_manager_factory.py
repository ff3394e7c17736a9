"""Which locks a process uses: Redis's where that is wanted and answers, else the database's."""

from __future__ import annotations

import logging
import os  # noqa: F401, a name of the original module
from typing import Any

from arbitrageai_native import defaults
from arbitrageai_native._safe_text import in_one_line, without_credentials
from arbitrageai_native.agent_execution import bid_lock_manager, redis_bid_lock_manager
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager, get_redis_url
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
    if should_use_redis_locks() if use_redis is None else use_redis:
        try:
            manager: RedisBidLockManager = _current("RedisBidLockManager", redis_bid_lock_manager)(
                redis_url=get_redis_url(), ttl=ttl
            )
            if await manager.health_check():
                logger.info("Using Redis BidLockManager (TTL: %ss)", ttl)
                return manager
            await manager.close()
            logger.warning("Redis health check failed, falling back to locks in the database")
        except Exception as error:  # whatever it is, the application goes on with its database
            said = without_credentials(str(error))
            logger.warning(
                "Failed to initialize Redis BidLockManager: %s. Falling back to locks in the database.", said
            )
    logger.info("Using BidLockManager in the database (TTL: %ss)", ttl)
    made: BidLockManager = _current("BidLockManager", bid_lock_manager)(ttl=ttl)
    return made


def should_use_redis_locks() -> bool:
    """Whether the environment puts locks into Redis."""
    load_dotenv_file_once()
    return wants_redis()


_own_classes = {"BidLockManager": BidLockManager, "RedisBidLockManager": RedisBidLockManager}


def _current(name: str, module: Any) -> Any:
    """Return a class as it is patched here, or where it is defined: the original imports it from there."""
    here = globals()[name]
    return here if here is not _own_classes[name] else getattr(module, name)


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
