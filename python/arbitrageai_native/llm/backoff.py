"""Waits that grow with each attempt."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, ClassVar

from arbitrageai_native import defaults
from arbitrageai_native.llm.lazy_fields import LazyFields
from arbitrageai_native.utils.async_helpers import safe_sleep

if TYPE_CHECKING:
    from dataclasses import Field

__all__ = ["ExponentialBackoff"]


class ExponentialBackoff:
    """Growing waits: each `base` times the last, at most `max_delay_ms`, give or take the jitter.

    Attributes:
        initial_delay_ms: The first wait.
        max_delay_ms: The longest.
        base: By how much each is longer than the last.
        jitter_factor: The part of a wait that is random, more or less.
    """

    initial_delay_ms: int = defaults.BACKOFF_INITIAL_MS
    max_delay_ms: int = defaults.BACKOFF_MAX_MS
    base: float = defaults.BACKOFF_BASE
    jitter_factor: float = defaults.BACKOFF_JITTER

    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    else:
        __dataclass_fields__ = LazyFields()

    def __init__(
        self,
        initial_delay_ms: int = defaults.BACKOFF_INITIAL_MS,
        max_delay_ms: int = defaults.BACKOFF_MAX_MS,
        base: float = defaults.BACKOFF_BASE,
        jitter_factor: float = defaults.BACKOFF_JITTER,
    ) -> None:
        self.initial_delay_ms = initial_delay_ms
        self.max_delay_ms = max_delay_ms
        self.base = base
        self.jitter_factor = jitter_factor

    def _values(self) -> tuple[float, ...]:
        return (self.initial_delay_ms, self.max_delay_ms, self.base, self.jitter_factor)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExponentialBackoff) or type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        names = ("initial_delay_ms", "max_delay_ms", "base", "jitter_factor")
        shown = (f"{name}={value!r}" for name, value in zip(names, self._values(), strict=True))
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def _calculate_jitter(self, delay_ms: int) -> int:
        jitter = random.uniform(-self.jitter_factor, self.jitter_factor)
        return max(1, int(delay_ms * (1 + jitter)))

    def get_delay_ms(self, attempt: int) -> int:
        """The wait after attempt number `attempt` (from 0) in milliseconds; 0 for a negative number."""
        if attempt < 0:
            return 0
        try:
            delay = min(self.initial_delay_ms * self.base**attempt, self.max_delay_ms)
        except OverflowError:
            delay = self.max_delay_ms
        return self._calculate_jitter(int(delay))

    async def wait(self, attempt: int) -> None:
        """Wait as long as `get_delay_ms` says."""
        delay_ms = self.get_delay_ms(attempt)
        if delay_ms > 0:
            await safe_sleep(delay_ms / 1000)
