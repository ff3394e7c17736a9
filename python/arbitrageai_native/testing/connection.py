"""One HTTP/1.1 connection of an asyncio server: requests in, answers out, strictly in order.

A connection answers one request at a time; what a client sends meanwhile (pipelining) waits, and reading
stops while too much waits. When the client goes away, the task that prepares its answer is cancelled.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol, cast

from arbitrageai_native.testing.answers import Failure, failure_body
from arbitrageai_native.testing.exchange import Exchange, Limits, RefusedError
from arbitrageai_native.testing.requests import RecordedRequest

MOST_BYTES_WAITING: Final = 1024 * 1024
SECONDS_TO_LINGER: Final = 1.0


class ClientGoneError(Exception):
    """The connection closed before the answer was written."""


class Responder:
    """Writes the answer of one request; made anew for each."""

    def __init__(self, connection: HttpConnection, exchange: Exchange) -> None:
        self._connection = connection
        self._exchange = exchange
        self._left_before_cut: int | None = None
        self._reset = False

    @property
    def started(self) -> bool:
        """Whether anything of the answer was written."""
        return self._exchange.is_answered

    def cut_after(self, count: int, *, reset: bool) -> None:
        """End the connection after `count` bytes of the answer: with a reset, or in the ordinary way."""
        self._left_before_cut, self._reset = count, reset

    def break_off(self) -> None:
        """End the connection with a reset: what was written of the answer is not to be taken for a whole."""
        self._connection.end(reset=True)

    async def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Write a whole answer."""
        await self._write(self._exchange.whole(status, body, self._with_cut(headers)))

    async def send_json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        """Write `value` as a whole JSON answer."""
        body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        await self.send(status, body, {"Content-Type": "application/json", **(headers or {})})

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer whose length is not known yet; `write_piece` and `finish` follow."""
        await self._write(self._exchange.head(status, self._with_cut(headers)))

    async def write_piece(self, data: bytes) -> None:
        """Write a piece of an answer begun with `start`."""
        await self._write(self._exchange.piece(data))

    async def finish(self) -> None:
        """End an answer begun with `start`."""
        await self._write(self._exchange.end())

    def _with_cut(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        return headers if self._left_before_cut is None else {**headers, "Connection": "close"}

    async def _write(self, data: bytes) -> None:
        if self._left_before_cut is not None:
            data = data[: self._left_before_cut]
            self._left_before_cut -= len(data)
        if data:
            await self._connection.write(data)
        if self._left_before_cut == 0:
            self._connection.end(reset=self._reset)
            raise ClientGoneError


class Application(Protocol):
    """What makes the answers, and counts the connections."""

    def connection_opened(self, connection: HttpConnection) -> int:
        """Count a connection in, and return its number."""

    def connection_closed(self, connection: HttpConnection) -> None:
        """Count a connection out."""

    async def serve(self, request: RecordedRequest, responder: Responder) -> None:
        """Answer a request."""


class HttpConnection(asyncio.Protocol):
    """The protocol object of one accepted connection."""

    def __init__(self, application: Application, limits: Limits) -> None:
        self._application = application
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._number = 0
        self._waiting = bytearray()
        self._exchange: Exchange | None = None
        self._answering: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: asyncio calls this once."""
        self._transport = cast(asyncio.Transport, transport)
        self._number = self._application.connection_opened(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes in and, unless an answer is being prepared, begin the next."""
        if self._refused or self._transport is None:
            return
        self._waiting += data
        if self._answering is None:
            self._begin_next_answer(self._transport)
        elif len(self._waiting) > MOST_BYTES_WAITING:
            self._transport.pause_reading()
            self._reading_paused = True

    def connection_lost(self, exc: Exception | None) -> None:
        """End: nobody will read the answer under way, so stop preparing it."""
        self._transport = None
        if self._answering is not None:
            self._answering.cancel()
        self.resume_writing()
        self._application.connection_closed(self)

    def pause_writing(self) -> None:
        """Make writers wait: the client reads more slowly than the answer is made."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let writers go on."""
        if self._writable is not None:
            writable, self._writable = self._writable, None
            if not writable.done():
                writable.set_result(None)

    async def write(self, data: bytes) -> None:
        """Write, and wait while the client reads too slowly.

        Raises:
            ClientGoneError: the connection is closed.
        """
        if self._transport is None or self._transport.is_closing():
            raise ClientGoneError
        self._transport.write(data)
        if self._writable is not None:
            await self._writable

    def end(self, *, reset: bool = False) -> None:
        """Close the connection after what was written, or at once with a reset."""
        if self._transport is None:
            return
        if reset:
            self._transport.abort()
        else:
            self._transport.close()

    def _begin_next_answer(self, transport: asyncio.Transport) -> None:
        if self._exchange is None:
            # RFC 9112, 2.2: an empty line before a request line is to be ignored. h11 refuses it.
            while self._waiting.startswith(b"\r\n"):
                del self._waiting[:2]
            if self._waiting and self._waiting != b"\r":
                self._exchange = Exchange(self._limits)
        if self._exchange is not None:
            data = bytes(self._waiting)
            self._waiting.clear()
            try:
                if self._exchange.receive(data):
                    self._waiting += self._exchange.rest
                    self._answering = self._loop.create_task(self._answer(self._exchange))
                    return
            except RefusedError as error:
                self._refuse(error, self._exchange, transport)
                return
            transport.write(self._exchange.go_ahead())
        if self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()

    async def _answer(self, exchange: Exchange) -> None:
        try:
            with suppress(ClientGoneError):
                await self._application.serve(exchange.recorded(self._number), Responder(self, exchange))
        finally:
            self._answering = self._exchange = None
            if not exchange.keeps_connection:
                self.end()
        if self._transport is not None and not self._transport.is_closing():
            self._begin_next_answer(self._transport)

    def _refuse(self, error: RefusedError, exchange: Exchange, transport: asyncio.Transport) -> None:
        self._refused = True
        headers = {"Content-Type": "application/json", "Connection": "close"}
        transport.write(
            exchange.whole(error.status, failure_body(Failure(error.status, str(error))), headers)
        )
        # Closing while the client still sends would reset the connection, and the client might never see why.
        transport.write_eof()
        self._loop.call_later(SECONDS_TO_LINGER, self.end)
