"""The process that a `SubprocessModelServer` starts: it serves until its standard input ends."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from contextlib import suppress
from typing import Any

from arbitrageai_native.testing.server import ModelServer


class Child:
    """Obeys the messages on standard input and replies on standard output; see `subprocess_server`."""

    def __init__(self) -> None:
        # What an answer function prints must not get between the frames.
        self._input = os.fdopen(os.dup(0), "rb")
        self._output = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        self._server: ModelServer | None = None

    async def run(self) -> None:
        """Serve until the input ends."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[bytes | None] = asyncio.Queue()

        def receive() -> None:
            with suppress(EOFError):
                while True:
                    loop.call_soon_threadsafe(messages.put_nowait, pickle.load(self._input))
            loop.call_soon_threadsafe(messages.put_nowait, None)

        threading.Thread(target=receive, name="commands", daemon=True).start()
        try:
            while (message := await messages.get()) is not None:
                pickle.dump(pickle.dumps(await self._obey(message)), self._output)
                self._output.flush()
        finally:
            if self._server is not None:
                await self._server.stop()

    async def _obey(self, pickled: bytes) -> tuple[bool, Any]:
        try:
            message = pickle.loads(pickled)
            if self._server is None:
                server = ModelServer(**message)
                await server.start()
                self._server = server
                return True, server.port
            command, arguments = message
            attribute = getattr(self._server, command)
            return True, attribute(*arguments) if callable(attribute) else attribute
        except Exception as error:
            return False, f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    asyncio.run(Child().run())
