"""The end of a lock manager."""

from __future__ import annotations

from arbitrageai_native._typing import Self
from arbitrageai_native.locks.databases import Databases

__all__ = ["ClosesDatabases"]

_CLOSE_SECONDS = 5.0


class ClosesDatabases:
    """Lets go of its databases; used as `async with`, at the end of the block."""

    _databases: Databases

    async def aclose(self) -> None:
        """Release what this manager still holds, and let go of its connections if nobody else uses them.

        A manager that is used again opens them again.
        """
        for manager in self._databases:
            await manager.close(_CLOSE_SECONDS)

    def close(self) -> None:
        """As `aclose`, waiting in the calling thread."""
        for manager in self._databases:
            manager.close_blocking(_CLOSE_SECONDS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()
