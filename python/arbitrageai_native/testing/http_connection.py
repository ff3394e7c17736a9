"""One HTTP/1.1 connection of an asyncio server: requests in, answers out, strictly in order.

A connection answers one request at a time; what a client sends meanwhile (pipelining) waits in the parser,
and reading stops while too much waits. When the client goes away, the task that prepares its answer is
cancelled.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Final, Protocol, cast

from arbitrageai_native.testing.http_parser import HttpRequest, Limits, ProtocolError, RequestParser

MOST_BYTES_WAITING: Final = 1024 * 1024
SECONDS_TO_LINGER: Final = 1.0


class ConnectionObserver(Protocol):
    """Whoever counts connections."""

    def connection_opened(self, connection: HttpConnection) -> None: ...

    def connection_closed(self, connection: HttpConnection) -> None: ...


class ClientGoneError(Exception):
    """The connection closed before the answer was written."""


class Responder:
    """Writes the answer of one request; made anew for each."""

    def __init__(self, connection: HttpConnection, request: HttpRequest) -> None:
        self._connection = connection
        self._request = request
        self._chunked = False
        self._started = False
        self._left_before_cut: int | None = None
        self._reset = False
        self.keep_alive = request.keep_alive

    @property
    def started(self) -> bool:
        """Whether anything of the answer was written."""
        return self._started

    def cut_after(self, count: int, *, reset: bool) -> None:
        """End the connection after `count` bytes of the answer: with a reset, or in the ordinary way."""
        self._left_before_cut, self._reset = count, reset
        self.keep_alive = False
        if count == 0:
            self._connection.end(reset=reset)

    async def send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Write a whole answer."""
        head = self._head(status, {**headers, "Content-Length": str(len(body))})
        await self._write(head if self._request.method == "HEAD" else head + body)

    async def send_json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        """Write `value` as a whole JSON answer."""
        body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
        await self.send(status, body, {"Content-Type": "application/json", **(headers or {})})

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Begin an answer whose length is not known yet; `write_piece` and `finish` follow."""
        self._chunked = self._request.chunked_answer_allowed
        if self._chunked:
            headers = {**headers, "Transfer-Encoding": "chunked"}
        else:
            self.keep_alive = False
        await self._write(self._head(status, headers))

    async def write_piece(self, data: bytes) -> None:
        """Write a piece of an answer begun with `start`."""
        if data:
            await self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def finish(self) -> None:
        """End an answer begun with `start`."""
        if self._chunked:
            await self._write(b"0\r\n\r\n")

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        try:
            reason = HTTPStatus(status).phrase
        except ValueError:
            reason = ""
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        if not self.keep_alive:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def _write(self, data: bytes) -> None:
        self._started = True
        if self._left_before_cut is None:
            await self._connection.write(data)
            return
        piece = data[: self._left_before_cut]
        self._left_before_cut -= len(piece)
        if piece:
            await self._connection.write(piece)
        if self._left_before_cut == 0:
            self._connection.end(reset=self._reset)
            raise ClientGoneError


RequestHandler = Callable[["HttpConnection", HttpRequest, Responder], Awaitable[None]]


class HttpConnection(asyncio.Protocol):
    """The protocol object of one accepted connection."""

    def __init__(self, handler: RequestHandler, observer: ConnectionObserver, limits: Limits) -> None:
        self._handler = handler
        self._observer = observer
        self._parser = RequestParser(limits)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answering: asyncio.Task[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: asyncio calls this once."""
        self._transport = cast(asyncio.Transport, transport)
        self._observer.connection_opened(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes in and, unless an answer is being prepared, begin the next."""
        if self._refused:
            return
        self._parser.feed(data)
        if self._answering is None:
            self._begin_next_answer()
        elif self._parser.buffered > MOST_BYTES_WAITING and self._transport is not None:
            self._transport.pause_reading()
            self._reading_paused = True

    def connection_lost(self, exc: Exception | None) -> None:
        """End: nobody will read the answer under way, so stop preparing it."""
        self._transport = None
        if self._answering is not None:
            self._answering.cancel()
        self.resume_writing()
        self._observer.connection_closed(self)

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

    def _begin_next_answer(self) -> None:
        try:
            request = self._parser.next_request()
        except ProtocolError as error:
            self._refuse(error)
            return
        if request is not None:
            self._answering = self._loop.create_task(self._answer(request))
        elif self._transport is not None:
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
            if self._parser.take_continue():
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def _answer(self, request: HttpRequest) -> None:
        responder = Responder(self, request)
        keep_alive = False
        try:
            with suppress(ClientGoneError):
                await self._handler(self, request, responder)
                keep_alive = responder.keep_alive
        finally:
            self._answering = None
            if not keep_alive:
                self.end()
        if self._transport is not None and not self._transport.is_closing():
            self._begin_next_answer()

    def _refuse(self, error: ProtocolError) -> None:
        if self._transport is None:
            return
        body = json.dumps({"error": {"message": str(error), "type": "invalid_request_error"}}).encode()
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._refused = True
        self._transport.write(head.encode("ascii") + body)
        # Closing while the client still sends would reset the connection, and the client might never see why.
        self._transport.write_eof()
        self._loop.call_later(SECONDS_TO_LINGER, self.end)
