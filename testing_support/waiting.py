"""Waiting for what a test needs, instead of sleeping for as long as that may take."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager


async def until(condition: Callable[[], bool | Awaitable[bool]], within: float = 30.0) -> None:
    """Ask again and again, and let the loop run meanwhile.

    Raises:
        AssertionError: the condition did not come true in time.
    """
    deadline = time.monotonic() + within
    while True:
        is_true = condition()
        if await is_true if inspect.isawaitable(is_true) else is_true:
            return
        assert time.monotonic() < deadline, f"the condition did not come true within {within} s"
        await asyncio.sleep(0.01)


async def until_waiting(manager: BidLockManager, number: int) -> None:
    """Wait until so many wait for locks in the manager's database."""

    async def wait() -> bool:
        return len((await manager.locks()).waiting) == number

    await until(wait)
