"""Locks in Redis where it is there, and in the database otherwise, as in the original."""

import logging
import os
from typing import TYPE_CHECKING

from .redis_bid_lock_manager import get_redis_url

if TYPE_CHECKING:
    from .bid_lock_manager import BidLockManager
    from .redis_bid_lock_manager import RedisBidLockManager

logger = logging.getLogger(__name__)


def should_use_redis_locks() -> bool:
    """Whether the environment puts locks into Redis."""
    switch = os.getenv("USE_REDIS_LOCKS")
    if switch is not None:
        return switch.lower() in ("true", "1", "yes")
    if os.getenv("REDIS_URL") or os.getenv("REDIS_HOST") or os.getenv("REDIS_PORT"):
        return True
    return os.getenv("ENV", "development").lower() != "development"


async def create_bid_lock_manager(
    use_redis: bool | None = None, ttl: float = 300
) -> "BidLockManager | RedisBidLockManager":
    """A manager of the kind that is wanted, and possible."""
    if should_use_redis_locks() if use_redis is None else use_redis:
        try:
            from .redis_bid_lock_manager import RedisBidLockManager

            manager = RedisBidLockManager(redis_url=get_redis_url(), ttl=ttl)
            if await manager.health_check():
                logger.info("Using Redis BidLockManager (TTL: %ss)", ttl)
                return manager
            await manager.close()
            logger.warning("Redis health check failed, falling back to in-memory locks")
        except Exception as error:
            failed = "Failed to initialize Redis BidLockManager: %s. Falling back to in-memory locks."
            logger.warning(failed, error)
    from .bid_lock_manager import BidLockManager

    logger.info("Using in-memory BidLockManager (TTL: %ss)", ttl)
    return BidLockManager(ttl=ttl)


_bid_lock_manager: "BidLockManager | RedisBidLockManager | None" = None


async def get_bid_lock_manager() -> "BidLockManager | RedisBidLockManager":
    """The process's manager."""
    global _bid_lock_manager
    if _bid_lock_manager is None:
        _bid_lock_manager = await create_bid_lock_manager()
    return _bid_lock_manager


async def init_bid_lock_manager(
    use_redis: bool | None = None, ttl: float = 300
) -> "BidLockManager | RedisBidLockManager":
    """Make the process's manager anew."""
    global _bid_lock_manager
    _bid_lock_manager = await create_bid_lock_manager(use_redis, ttl)
    return _bid_lock_manager


async def reset_bid_lock_manager() -> None:
    """Forget the process's manager, and delete every lock."""
    global _bid_lock_manager
    if _bid_lock_manager is not None:
        try:
            await _bid_lock_manager.cleanup_all()
            if hasattr(_bid_lock_manager, "close"):
                await _bid_lock_manager.close()
        except Exception as error:
            logger.warning("Error cleaning up lock manager: %s", error)
    _bid_lock_manager = None
