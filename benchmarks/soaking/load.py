"""The load of a soak: so many tasks, each of which does one thing after another, cancelled now and then.

What is kept here does not grow with time, so that growth is the package's. The names of locks are ever new
ones, as an application's are.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from arbitrageai_native import BidLockManager, LLMService
from arbitrageai_native.exceptions import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    CircuitBreakerError,
    LockBackendError,
    LockTimeoutError,
)

_CANCELLED_SHARE: Final = 0.15
_MEAN_SECONDS_TO_CANCELLATION: Final = 0.2
_WANTED_BY_MANY: Final = 12
_PATIENCE: Final = 10.0
# A third of the locks' time to live and more: the lease is renewed meanwhile.
_LONG_HOLD: Final = 1.5

Activity = Callable[[], Awaitable[str]]


class Load:
    """Calls, streams and locks, mixed.

    Attributes:
        outcomes: (activity, what came of it) -> how often.
        faults: what should not have happened -> how often.
    """

    def __init__(self, steady: LLMService, moody: LLMService, managers: Sequence[BidLockManager]) -> None:
        self._steady = steady
        self._moody = moody
        self._managers = managers
        self._numbers = itertools.count()
        self._over = False
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()
        # Name -> (how often, against the others; what to do; how it may fail).
        self._activities: dict[str, tuple[int, Activity, tuple[type[Exception], ...]]] = {
            "call": (45, self._call, (APIStatusError, APIConnectionError)),
            "call in haste": (5, self._call_in_haste, (APIStatusError, APIConnectionError)),
            "call through a breaker": (10, self._call_moody, (APIStatusError, CircuitBreakerError)),
            "stream, read whole": (10, self._stream_whole, (APIStatusError, APIConnectionError)),
            "stream, left early": (10, self._stream_left, (APIStatusError, APIConnectionError)),
            "lock, plain": (7, self._lock_plain, ()),
            "lock, block": (7, self._lock_block, (LockTimeoutError,)),
            # In so short a time the database itself may not have answered.
            "lock, in haste": (4, self._lock_in_haste, (LockTimeoutError, LockBackendError)),
            "lock, held long": (1, self._lock_long, (LockTimeoutError,)),
            "lock around a call": (
                1,
                self._lock_and_call,
                (LockTimeoutError, APIStatusError, APIConnectionError),
            ),
        }

    async def run(self, in_flight: int) -> None:
        """Keep so many activities under way until `end`."""
        await asyncio.gather(*(self._keep_busy() for _ in range(in_flight)))

    def end(self) -> None:
        """Begin nothing more."""
        self._over = True

    @property
    def total(self) -> int:
        """Activities that have ended."""
        return self.outcomes.total()

    async def _keep_busy(self) -> None:
        names = list(self._activities)
        weights = [weight for weight, _, _ in self._activities.values()]
        while not self._over:
            name = random.choices(names, weights)[0]
            self.outcomes[name, await self._once(name)] += 1

    async def _once(self, name: str) -> str:
        _, activity, expected = self._activities[name]
        task = asyncio.ensure_future(activity())
        if random.random() < _CANCELLED_SHARE:
            await asyncio.wait([task], timeout=random.expovariate(1 / _MEAN_SECONDS_TO_CANCELLATION))
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return "cancelled"
        except expected as error:
            return type(error).__name__
        except Exception as error:
            kind = type(error).__name__
            self.faults[f"{name}: {kind}: {error}"[:200] if len(self.faults) < 20 else "more"] += 1
            return kind

    def _prompt(self) -> str:
        return f"Write a proposal for posting {next(self._numbers)}."

    async def _call(self) -> str:
        answer = await self._steady.complete_async(self._prompt())
        return "answered" if answer["content"] else "empty"

    async def _call_in_haste(self) -> str:
        try:
            await self._steady.complete_async(self._prompt(), timeout=0.15, deadline=0.2)
        except APITimeoutError:
            return "timed out"
        return "answered"

    async def _call_moody(self) -> str:
        await self._moody.complete_async(self._prompt())
        return "answered"

    async def _stream_whole(self) -> str:
        async with self._steady.complete_streaming_async(self._prompt()) as pieces:
            async for _ in pieces:
                pass
        return "read"

    async def _stream_left(self) -> str:
        stay = random.randrange(10)
        async with self._steady.complete_streaming_async(self._prompt()) as pieces:
            async for _ in pieces:
                if stay == 0:
                    break
                stay -= 1
        return "left"

    def _lock(self) -> tuple[BidLockManager, str]:
        """A manager, and a posting: one that many want, or one that nobody has wanted before."""
        manager = random.choice(self._managers)
        number = next(self._numbers)
        if random.random() < 0.5:
            return manager, f"wanted-{number % _WANTED_BY_MANY}"
        return manager, f"new-{number}"

    async def _lock_plain(self) -> str:
        manager, posting = self._lock()
        holder = f"scanner-{random.randrange(1000)}"
        if not await manager.acquire_lock("soak", posting, timeout=_PATIENCE, holder_id=holder):
            return "not acquired"
        try:
            await _hold()
        finally:
            await manager.release_lock("soak", posting, holder_id=holder)
        return "held"

    async def _lock_block(self) -> str:
        manager, posting = self._lock()
        async with manager.with_lock("soak", posting, timeout=_PATIENCE):
            await _hold()
        return "held"

    async def _lock_in_haste(self) -> str:
        manager = random.choice(self._managers)
        async with manager.with_lock("soak", f"wanted-{random.randrange(_WANTED_BY_MANY)}", timeout=0.05):
            await _hold()
        return "held"

    async def _lock_long(self) -> str:
        manager = random.choice(self._managers)
        async with manager.with_lock("soak", f"new-{next(self._numbers)}", timeout=_PATIENCE) as lease:
            await asyncio.sleep(_LONG_HOLD)
            return "held" if lease.is_held else "lost"

    async def _lock_and_call(self) -> str:
        manager, posting = self._lock()
        async with manager.with_lock("soak", posting, timeout=_PATIENCE):
            await self._steady.complete_async(self._prompt())
        return "held, answered"


async def _hold() -> None:
    await asyncio.sleep(random.uniform(0.0, 0.1))
