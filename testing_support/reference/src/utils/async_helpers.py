"""Helpers for coroutines, as in the original."""

import asyncio


async def safe_sleep(seconds: float) -> None:
    """Sleep without blocking the loop."""
    await asyncio.sleep(seconds)
