"""The original's locks on a database or a Redis server of one's own, for processes that run beside ours."""

from __future__ import annotations

from sqlalchemy.orm import Session

from .src.agent_execution.bid_lock_manager import BidLockManager
from .src.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from .src.database import Base, DistributedLock, new_engine

__all__ = ["Base", "DistributedLock", "PollingLockManager", "old_manager"]


class PollingLockManager(BidLockManager):
    """Excludes by a unique row, as every process did before."""

    def __init__(self, database_url: str, ttl: float = 300) -> None:
        super().__init__(ttl)
        self.engine = new_engine(database_url)

    def _get_db(self) -> Session:
        return Session(self.engine)

    async def close(self) -> None:
        """Let go of the connections."""
        self.engine.dispose()


def old_manager(url: str, ttl: float = 300) -> PollingLockManager | RedisBidLockManager:
    """A manager of the original's kind for the URL."""
    return RedisBidLockManager(url, ttl) if url.startswith("redis") else PollingLockManager(url, ttl)
