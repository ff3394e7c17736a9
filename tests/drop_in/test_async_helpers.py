"""`utils.async_helpers`, sentence by sentence."""

import asyncio
import inspect
import time
from typing import Any


async def test_safe_sleep_sleeps(async_helpers: Any) -> None:
    start = time.monotonic()
    assert await async_helpers.safe_sleep(0.1) is None
    assert 0.09 <= time.monotonic() - start < 30


async def test_safe_sleep_does_not_block_the_loop(async_helpers: Any) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    ticker = asyncio.create_task(tick())
    await async_helpers.safe_sleep(0.2)
    ticker.cancel()
    assert ticks >= 5


def test_safe_sleep_is_a_coroutine_function(async_helpers: Any) -> None:
    assert inspect.iscoroutinefunction(async_helpers.safe_sleep)
