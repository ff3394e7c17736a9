"""A TCP proxy whose connections a test can cut."""

from __future__ import annotations

import asyncio
import contextlib
import ssl


class TcpProxy:
    """Passes bytes on to a port of the loopback interface, until told otherwise.

    With `encryption` its clients have to speak TLS, and the server behind it need not.
    """

    def __init__(self, target: int, encryption: ssl.SSLContext | None = None) -> None:
        self.target = target
        self._encryption = encryption
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._late: dict[asyncio.StreamWriter, asyncio.Event] = {}
        self.port = 0
        self.connections = 0
        """Connections that clients have made."""
        self.requests = 0
        """Pieces that clients have sent: requests, where a client waits for its answer."""
        self.sent = 0
        """Bytes that clients have sent."""
        self.received = 0
        """Bytes that they have been sent."""

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._encryption)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        self.cut()
        self.let_go()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def refuse(self) -> None:
        """Reset every connection, and every new one."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Serve new connections again."""
        self._refusing = False

    def hold_back(self) -> None:
        """Keep what is sent on the connections there are, until `let_go`; new connections are served."""
        again = asyncio.Event()
        for writer in self._writers:
            # What waits for an earlier `let_go` goes on waiting for that event, so it stays.
            if writer not in self._late or self._late[writer].is_set():
                self._late[writer] = again

    def let_go(self) -> None:
        """Pass on what was held back, even if its sender has gone by now."""
        for again in self._late.values():
            again.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
        else:
            self.connections += 1
            self._writers |= {writer, target_writer}
            tasks = [
                asyncio.create_task(self._pass_on(reader, target_writer, from_client=True)),
                asyncio.create_task(self._pass_on(target_reader, writer, from_client=False)),
            ]
            self._tasks.update(tasks)
            await asyncio.gather(*tasks)
            self._tasks.difference_update(tasks)
            self._writers -= {writer, target_writer}
            for end in (writer, target_writer):
                self._late.pop(end, None)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if from_client:
                    self.requests += 1
                    self.sent += len(data)
                else:
                    self.received += len(data)
                if again := self._late.get(writer):
                    await again.wait()
                writer.write(data)
                await writer.drain()
            if writer in self._late:
                await asyncio.sleep(1)  # a reset would take back what the target has not read yet
        writer.transport.abort()
