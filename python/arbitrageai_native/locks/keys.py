"""What a lock's key looks like: in Python only here, for the native side in `src/lock/names.rs`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from arbitrageai_native._safe_text import printable

__all__ = ["PREFIX", "database_key", "pairs", "redis_key", "timeout_message"]

PREFIX: Final = "bid:lock:"
"""What every key in a database begins with."""


def database_key(marketplace_id: object, posting_id: object) -> str:
    """Return the value of the table's `lock_key`."""
    return f"{PREFIX}{marketplace_id}:{posting_id}"


def redis_key(marketplace_id: object, posting_id: object) -> str:
    """Return the key in Redis."""
    return f"bid_lock:{marketplace_id}:{posting_id}"


def timeout_message(marketplace_id: str, posting_id: str, timeout: float) -> str:
    """Return what the `TimeoutError` of `with_lock` says."""
    return f"Failed to acquire lock for {printable(f'{marketplace_id}:{posting_id}')} within {timeout}s"


def pairs(names: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the names of several locks as a list.

    Raises:
        TypeError: `names` is not iterable, or one of them is not a tuple of two.
    """
    if not isinstance(names, Iterable) or isinstance(names, str | bytes):
        raise TypeError(f"names must be (marketplace_id, posting_id) tuples, not {names!r}")
    listed = list(names)
    for pair in listed:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(f"names must be (marketplace_id, posting_id) tuples, not {pair!r}")
    return listed
