"""Helpers for coroutines."""

from typing import TYPE_CHECKING, Any

from arbitrageai_native import _native, drop_in

__all__ = ["safe_sleep"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return drop_in.foreign_name(__name__, name)


async def safe_sleep(seconds: float) -> None:
    """Sleep for `seconds` without blocking the event loop.

    Raises:
        ValueError: `seconds` is negative or NaN.
        TypeError: `seconds` is not a number.
    """
    await _native.sleep(seconds)
