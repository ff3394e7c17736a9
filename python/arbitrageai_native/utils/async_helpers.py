"""Helpers for coroutines."""

import asyncio

from arbitrageai_native import _native

__all__ = ["safe_sleep"]

_own_sleep = asyncio.sleep


async def safe_sleep(seconds: float) -> None:
    """Sleep for `seconds` without blocking the event loop; a negative number returns at once.

    Raises:
        ValueError: `seconds` is NaN.
        TypeError: `seconds` is not a number.
    """
    if isinstance(seconds, int | float) and seconds < 0:
        seconds = 0
    sleep = _native.sleep if asyncio.sleep is _own_sleep else asyncio.sleep  # a test may patch it
    await sleep(seconds)
