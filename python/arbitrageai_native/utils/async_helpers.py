"""Helpers for coroutines."""

from arbitrageai_native import _native

__all__ = ["safe_sleep"]


async def safe_sleep(seconds: float) -> None:
    """Sleep for `seconds` without blocking the event loop.

    Raises:
        ValueError: `seconds` is negative or NaN.
        TypeError: `seconds` is not a number.
    """
    await _native.sleep(seconds)
