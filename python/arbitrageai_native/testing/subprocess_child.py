"""The process that a `SubprocessModelServer` starts: it serves until its standard input ends."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from typing import Any, Final

from arbitrageai_native.testing.framing import encode_frame, read_frame
from arbitrageai_native.testing.server import ModelServer

MOST_READ_AT_ONCE: Final = 1 << 20


class Child:
    """Obeys the frames on standard input and replies on standard output."""

    def __init__(self) -> None:
        # What an answer function prints must not get between the frames.
        self._input = os.dup(0)
        self._output = os.dup(1)
        os.dup2(2, 1)
        self._server: ModelServer | None = None

    async def run(self) -> None:
        """Serve until the input ends."""
        loop = asyncio.get_running_loop()
        frames: asyncio.Queue[bytes | None] = asyncio.Queue()

        def receive() -> None:
            frame: bytes | None = b""
            while frame is not None:
                frame = read_frame(lambda count: os.read(self._input, min(count, MOST_READ_AT_ONCE)))
                loop.call_soon_threadsafe(frames.put_nowait, frame)

        threading.Thread(target=receive, name="commands", daemon=True).start()
        try:
            while (frame := await frames.get()) is not None:
                self._reply(*await self._obey(frame))
        finally:
            if self._server is not None:
                await self._server.stop()

    async def _obey(self, frame: bytes) -> tuple[bool, Any]:
        try:
            message = pickle.loads(frame)
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

    def _reply(self, succeeded: bool, value: Any) -> None:
        frame = pickle.dumps((succeeded, value))
        data = memoryview(encode_frame(frame))
        while data:
            data = data[os.write(self._output, data) :]


if __name__ == "__main__":
    asyncio.run(Child().run())
