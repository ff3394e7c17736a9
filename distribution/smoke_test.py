"""Takes a lock and asks a model, to find out whether the package works where it has been installed.

    python distribution/smoke_test.py

Needs nothing but the installed package: no compiler, no server, no network.
"""

from __future__ import annotations

import asyncio
import platform
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import arbitrageai_native
from arbitrageai_native import BidLockManager, LLMService
from arbitrageai_native.testing import ModelServer


async def take_a_lock(folder: str) -> None:
    """Take a lock in a file, see it held, release it."""
    url = f"sqlite:///{(Path(folder) / 'locks.db').as_posix()}"
    async with BidLockManager(ttl=30, database_url=url) as locks:
        async with locks.with_lock("smoke", "1", timeout=5) as lease:
            assert lease.is_held
            assert not await locks.acquire_lock("smoke", "1", timeout=0)
        assert await locks.acquire_lock("smoke", "1", timeout=5)


async def ask_a_model() -> None:
    """Ask a server of our own, whole and in pieces."""
    async with ModelServer(answer="It works.") as server:
        service = LLMService(base_url=server.base_url, api_key="any")
        assert (await service.complete_async("Does it?"))["content"] == "It works."
        pieces = [piece async for piece in service.complete_streaming_async("Does it?")]
        assert "".join(pieces) == "It works."


async def main() -> None:
    """Do both."""
    with TemporaryDirectory() as folder:
        await take_a_lock(folder)
    await ask_a_model()
    where = Path(arbitrageai_native.__file__).parent
    print(f"works: Python {platform.python_version()} on {sys.platform} {platform.machine()}, from {where}")


if __name__ == "__main__":
    asyncio.run(main())
