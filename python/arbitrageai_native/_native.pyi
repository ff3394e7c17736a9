"""The native module: private to the package, whose public classes are thin Python classes over these."""

from collections.abc import Generator
from typing import Any, Generic, TypeVar, final

from arbitrageai_native._native import probe as probe

_Result = TypeVar("_Result", covariant=True)

@final
class Awaitable(Generic[_Result]):
    """One native call, awaited once. Nothing starts before it is awaited."""

    def __await__(self) -> Generator[Any, None, _Result]: ...

@final
class Inbox:
    """The completion inbox of an event loop."""
