"""Helpers for coroutines."""

from typing import TYPE_CHECKING, Any

from arbitrageai_native import _native

__all__ = ["safe_sleep"]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name.startswith("__"):  # every import of a name of this module asks for `__path__`
            raise AttributeError(name)
        from arbitrageai_native import drop_in  # few programs look up a foreign name

        return drop_in.foreign_name(__name__, name)


async def safe_sleep(seconds: float) -> None:
    """Sleep for `seconds` without blocking the event loop.

    Raises:
        ValueError: `seconds` is negative or NaN.
        TypeError: `seconds` is not a number.
    """
    await _native.sleep(seconds)
