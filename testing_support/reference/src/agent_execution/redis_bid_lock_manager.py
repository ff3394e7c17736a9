"""Locks as keys of Redis, as in the original: taken by `SET NX` with an expiry, polled for every 0.1 s."""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio as redis
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1


def get_redis_url() -> str:
    """The URL that the environment names."""
    url = os.getenv("REDIS_URL")
    if url:
        return url
    host, port = os.getenv("REDIS_HOST", "localhost"), os.getenv("REDIS_PORT", "6379")
    password = os.getenv("REDIS_PASSWORD")
    user = f":{password}@" if password else ""
    return f"redis://{user}{host}:{port}/{os.getenv('REDIS_DB', '0')}"


class RedisBidLockManager:
    """Locks on postings."""

    def __init__(self, redis_url: str | None = None, ttl: float = 300) -> None:
        self.redis_url = redis_url or get_redis_url()
        self.ttl = ttl
        self._redis: redis.Redis = redis.from_url(self.redis_url, decode_responses=True, protocol=2)
        self._lock_attempts = 0
        self._lock_successes = 0
        self._lock_conflicts = 0
        self._lock_timeouts = 0
        self._redis_errors = 0

    @staticmethod
    def _make_lock_key(marketplace_id: str, posting_id: str) -> str:
        return f"bid_lock:{marketplace_id}:{posting_id}"

    def _make_holder_id(self) -> str:
        return f"{socket.gethostname()}:{os.getpid()}:{str(uuid.uuid4())[:8]}"

    async def acquire_lock(
        self, marketplace_id: str, posting_id: str, timeout: float = 10.0, holder_id: str | None = None
    ) -> bool:
        """Whether the lock was acquired within `timeout` seconds."""
        if not marketplace_id or not posting_id:
            raise ValueError("marketplace_id and posting_id must not be empty")
        key = self._make_lock_key(marketplace_id, posting_id)
        holder_id = holder_id or self._make_holder_id()
        self._lock_attempts += 1
        start = time.monotonic()
        try:
            while not await self._redis.set(key, holder_id, nx=True, px=int(self.ttl * 1000)):
                waited = time.monotonic() - start
                if waited > timeout:
                    self._lock_timeouts += 1
                    self._lock_conflicts += 1
                    late = (holder_id, key, waited)
                    logger.warning("Lock timeout: %s could not acquire %s after %.1fs", *late)
                    return False
                await asyncio.sleep(POLL_SECONDS)
        except RedisError as error:
            self._redis_errors += 1
            logger.error("Redis error acquiring lock %s: %s", key, error)
            return False
        self._lock_successes += 1
        logger.info("Lock acquired: %s locked %s (TTL: %ss)", holder_id, key, self.ttl)
        return True

    async def release_lock(self, marketplace_id: str, posting_id: str, holder_id: str | None = None) -> bool:
        """Whether there was such a lock of this holder's (of anybody's, if none is named)."""
        key = self._make_lock_key(marketplace_id, posting_id)
        try:
            if holder_id:
                held_by = await self._redis.get(key)
                if held_by != holder_id:
                    mismatch = (key, holder_id, held_by)
                    logger.warning("Holder mismatch for %s: %s tried to release but held by %s", *mismatch)
                    return False
            released = bool(await self._redis.delete(key))
        except RedisError as error:
            self._redis_errors += 1
            logger.error("Redis error releasing lock %s: %s", key, error)
            return False
        if released:
            logger.info("Lock released: %s released %s", holder_id or "unknown", key)
        else:
            logger.warning("No lock found for %s", key)
        return released

    @asynccontextmanager
    async def with_lock(
        self, marketplace_id: str, posting_id: str, timeout: float = 10.0, holder_id: str | None = None
    ) -> AsyncIterator[None]:
        """Hold the lock during the body."""
        holder_id = holder_id or self._make_holder_id()
        lock = {"marketplace_id": marketplace_id, "posting_id": posting_id, "holder_id": holder_id}
        if not await self.acquire_lock(**lock, timeout=timeout):
            raise TimeoutError(f"Failed to acquire lock for {marketplace_id}:{posting_id} within {timeout}s")
        try:
            yield
        finally:
            await self.release_lock(**lock)

    def get_metrics(self) -> dict[str, int]:
        """The counts."""
        return {
            "lock_attempts": self._lock_attempts,
            "lock_successes": self._lock_successes,
            "lock_conflicts": self._lock_conflicts,
            "lock_timeouts": self._lock_timeouts,
            "redis_errors": self._redis_errors,
        }

    async def cleanup_all(self) -> None:
        """Delete every lock."""
        try:
            count = 0
            async for key in self._redis.scan_iter(match="bid_lock:*"):
                count += await self._redis.delete(key)
            logger.info("Cleaned up %d distributed locks", count)
        except RedisError as error:
            logger.error("Error cleaning locks: %s", error)

    async def health_check(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(await self._redis.ping())
        except (RedisError, OSError) as error:
            logger.error("Redis health check failed: %s", error)
            return False

    async def close(self) -> None:
        """Let go of the connections."""
        await self._redis.aclose()


_bid_lock_manager: RedisBidLockManager | None = None


async def get_bid_lock_manager() -> RedisBidLockManager:
    """The process's manager."""
    global _bid_lock_manager
    if _bid_lock_manager is None:
        _bid_lock_manager = RedisBidLockManager()
    return _bid_lock_manager


async def init_bid_lock_manager(redis_url: str | None = None, ttl: float = 300) -> RedisBidLockManager:
    """Make the process's manager anew, if Redis can be reached."""
    global _bid_lock_manager
    manager = RedisBidLockManager(redis_url, ttl)
    if not await manager.health_check():
        await manager.close()
        raise RuntimeError("Redis is not reachable")
    _bid_lock_manager = manager
    return manager
