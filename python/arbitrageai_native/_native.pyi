"""The native module: private to the package, whose public classes are thin Python classes over these."""

from asyncio import Future
from collections.abc import Generator
from typing import Any, Generic, TypeVar, final

_Result = TypeVar("_Result", covariant=True)

# --- the bridge ---

@final
class Awaitable(Generic[_Result]):
    """One native call, awaited once. Nothing starts before it is awaited."""

    def __await__(self) -> Generator[Any, None, _Result]: ...
    def __iter__(self) -> Generator[Any, None, _Result]: ...
    def __next__(self) -> Future[None]: ...
    def throw(self, kind: object, value: object = None, _traceback: object = None) -> None: ...
    def close(self) -> None: ...

@final
class Inbox:
    """The completion inbox of an event loop."""

    def drain(self, _wakeup: Future[None] | None = None) -> None: ...

@final
class Turn:
    """A place in the queue of those who are about to start a call."""

    def __await__(self) -> Generator[Any, None, None]: ...
    def __iter__(self) -> Generator[Any, None, None]: ...
    def __next__(self) -> Future[None]: ...
    def throw(self, kind: object, value: object = None, _traceback: object = None) -> None: ...
    def close(self) -> None: ...

def turn() -> Turn:
    """Await the caller's turn to start a call: at once, or in a later iteration of a loop that has had much to start."""

@final
class Guard:
    """What `Probe.guarded` gives: counted by `Probe.live_guards()` while it lives."""

@final
class Probe:
    """Futures of known behaviour, by which tests and benchmarks look into the bridge."""

    @staticmethod
    def noop() -> Awaitable[None]: ...
    @staticmethod
    def stock_noop() -> Future[tuple[()]]: ...
    @staticmethod
    def guarded(seconds: float) -> Awaitable[Guard]: ...
    @staticmethod
    def guarded_blocking(seconds: float) -> Guard: ...
    @staticmethod
    def panicking() -> Awaitable[None]: ...
    @staticmethod
    def live_guards() -> int: ...
    @staticmethod
    def live_tasks() -> int: ...
