"""`with` and `async with` over what can be closed."""

from __future__ import annotations

from arbitrageai_native._typing import Self


class ClosesAfterBlock:
    """What a block closes at its end, whatever the block raised."""

    def close(self) -> None:
        """Close it."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
