"""What every model server offers, whether it runs in this process or in one of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from arbitrageai_native.testing.requests import Statistics

LOOPBACK: Final = "127.0.0.1"
POLL_SECONDS: Final = 0.005


class _ServerInterface:
    """Where the server listens, and what it counts."""

    _port: int | None = None

    @property
    def port(self) -> int:
        """The port that is listened on.

        Raises:
            RuntimeError: the server has not been started.
        """
        if self._port is None:
            raise RuntimeError("the model server has not been started: use it in `async with` or `with`")
        return self._port

    @property
    def base_url(self) -> str:
        """What to give an OpenAI-compatible client as its base URL."""
        return f"http://{LOOPBACK}:{self.port}/v1"

    @property
    def statistics(self) -> Statistics:
        """Connections and requests, counted."""
        raise NotImplementedError

    async def wait_for(self, condition: Callable[[Statistics], bool], timeout: float = 10.0) -> Statistics:
        """Wait until the counts meet a condition, and return them.

        Raises:
            TimeoutError: they did not within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not condition(statistics := self.statistics):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"the condition was not met within {timeout} s: {statistics}")
            await asyncio.sleep(POLL_SECONDS)
        return statistics
