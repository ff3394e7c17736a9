"""Locks in Redis where it is there, and in the database otherwise, as in the original."""

import logging
import os

from .bid_lock_manager import BidLockManager
from .redis_bid_lock_manager import RedisBidLockManager

logger = logging.getLogger(__name__)


def _wants_redis(use_redis: bool | None) -> bool:
    if use_redis is not None:
        return use_redis
    switch = os.getenv("USE_REDIS_LOCKS")
    if switch is not None:
        return switch.lower() in ("true", "1", "yes")
    if os.getenv("REDIS_URL") or os.getenv("REDIS_HOST") or os.getenv("REDIS_PORT"):
        return True
    return os.getenv("ENV", "development").lower() != "development"


async def create_bid_lock_manager(
    use_redis: bool | None = None, ttl: float = 300
) -> BidLockManager | RedisBidLockManager:
    """A manager of the kind that is wanted, and possible."""
    if _wants_redis(use_redis):
        try:
            manager = RedisBidLockManager(ttl=ttl)
            if await manager.health_check():
                return manager
            await manager.close()
            logger.warning("Redis is not reachable: locks are in the database")
        except Exception as error:
            logger.warning("Redis can't be used: locks are in the database: %s", error)
    return BidLockManager(ttl=ttl)


_bid_lock_manager: BidLockManager | RedisBidLockManager | None = None


async def get_bid_lock_manager() -> BidLockManager | RedisBidLockManager:
    """The process's manager."""
    global _bid_lock_manager
    if _bid_lock_manager is None:
        _bid_lock_manager = await create_bid_lock_manager()
    return _bid_lock_manager


async def init_bid_lock_manager(
    use_redis: bool | None = None, ttl: float = 300
) -> BidLockManager | RedisBidLockManager:
    """Make the process's manager anew."""
    global _bid_lock_manager
    _bid_lock_manager = await create_bid_lock_manager(use_redis, ttl)
    return _bid_lock_manager


async def reset_bid_lock_manager() -> None:
    """Forget the process's manager."""
    global _bid_lock_manager
    if isinstance(_bid_lock_manager, RedisBidLockManager):
        await _bid_lock_manager.close()
    _bid_lock_manager = None
