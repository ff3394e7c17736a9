"""A raw-socket HTTP server that sends what the test says, byte by byte; requests are parsed by h11.

`FaultyServer(action, action, …)` answers each request with the next action, and the last one again and
again. An action is a function of a `Connection`: it sends what it likes, when it likes, and returns whether
the connection may be used again.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

import h11

from testing_support.ports import free_port

LONGEST_HEAD: Final = 1 << 20


@dataclass
class Request:
    """What arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """The connection that a request came on."""

    def __init__(self, connection: socket.socket, stopping: threading.Event) -> None:
        self._socket = connection
        self._stopping = stopping

    def send(self, data: bytes | str) -> None:
        self._socket.sendall(data.encode() if isinstance(data, str) else data)

    def pause(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def hang(self) -> bool:
        """Send nothing more until the client gives up or the server stops."""
        self._socket.settimeout(0.05)
        while not self._stopping.is_set():
            try:
                if not self._socket.recv(65536):
                    return False
            except TimeoutError:
                continue
            except OSError:
                return False
        return False

    def reset(self) -> bool:
        """End with a reset instead of a proper close."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


Action = Callable[[Connection], bool]


class FaultyServer:
    """Serves on loopback from its making to its `close()`; with `tls`, over that."""

    def __init__(self, *script: Action, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.requests: list[Request] = []
        self.connections = 0
        self._script = list(script)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def base_url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"

    @property
    def waits(self) -> list[float]:
        """The times between requests."""
        return [
            later.at - earlier.at for earlier, later in zip(self.requests, self.requests[1:], strict=False)
        ]

    def close(self) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> FaultyServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A refused certificate ends the handshake: an `OSError`, like all that ends a connection.
        with contextlib.suppress(OSError), contextlib.ExitStack() as open_connections:
            open_connections.enter_context(connection)
            if self._tls is not None:
                connection.settimeout(2)
                connection = self._tls.wrap_socket(connection, server_side=True)
                open_connections.enter_context(connection)
            while True:
                connection.settimeout(0.1)
                request = self._read(connection)
                if request is None:
                    return
                connection.settimeout(10)
                with self._lock:
                    self.requests.append(request)
                    action = self._script.pop(0) if len(self._script) > 1 else self._script[0]
                if not action(Connection(connection, self._stopping)):
                    return

    def _read(self, connection: socket.socket) -> Request | None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
        head, body = None, bytearray()
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif data := self._receive(connection):
                http.receive_data(data)
            else:
                return None
        assert head is not None
        headers = [(name.decode(), value.decode("latin-1")) for name, value in head.headers.raw_items()]
        return Request(head.method.decode(), head.target.decode(), headers, bytes(body))

    def _receive(self, connection: socket.socket) -> bytes:
        while not self._stopping.is_set():
            try:
                return connection.recv(65536)
            except TimeoutError:
                continue
        return b""


# What is sent


def completion(content: object = "hello", **members: Any) -> dict[str, Any]:
    """A chat completion."""
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "served-model",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        **members,
    }


def chunk(content: str | None = None, finish_reason: str | None = None, **members: Any) -> bytes:
    """One event of a streamed chat completion."""
    delta = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    payload = {
        "id": "c-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "served-model",
        "choices": [choice],
        **members,
    }
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def head(status: int = 200, *headers: str, length: int | None = None) -> bytes:
    """The head of an answer."""
    lines = [f"HTTP/1.1 {status} Status", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


# Actions


def answer(
    body: object = None,
    status: int = 200,
    headers: Iterable[str] = (),
    before_head: float = 0,
    before_body: float = 0,
    keep_alive: bool = True,
) -> Action:
    """Answer in full: JSON, or bytes as they are; each phase after a wait."""
    if body is None:
        body = completion() if status == 200 else {"error": {"message": f"it was {status}", "code": "c"}}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def act(connection: Connection) -> bool:
        connection.pause(before_head)
        ending = "Connection: keep-alive" if keep_alive else "Connection: close"
        connection.send(head(status, "Content-Type: application/json", ending, *headers, length=len(data)))
        connection.pause(before_body)
        connection.send(data)
        return keep_alive

    return act


def cut(at: int, body: object = None, ending: str = "close") -> Action:
    """Promise the whole body, send `at` bytes of it, then close, reset or hang."""
    data = json.dumps(completion() if body is None else body).encode()

    def act(connection: Connection) -> bool:
        connection.send(head(200, "Content-Type: application/json", length=len(data)))
        connection.send(data[:at])
        connection.pause(0.02)
        return end(connection, ending)

    return act


def stream(
    *parts: bytes, pause: float = 0, ending: str = "finish", headers: Iterable[str] = (), chunked: bool = True
) -> Action:
    """A stream in exactly these parts, so long apart; then `finish`, `close`, `reset` or `hang`."""

    def act(connection: Connection) -> bool:
        framing = "Transfer-Encoding: chunked" if chunked else "Connection: close"
        connection.send(head(200, "Content-Type: text/event-stream", framing, *headers))
        for part in parts:
            if part:
                connection.send(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
            connection.pause(pause)
        if ending == "finish":
            if chunked:
                connection.send(b"0\r\n\r\n")
            return chunked
        connection.pause(0.02)
        return end(connection, ending)

    return act


def raw(data: bytes, ending: str = "close") -> Action:
    """Send these bytes, whatever they are."""

    def act(connection: Connection) -> bool:
        connection.send(data)
        connection.pause(0.02)
        return end(connection, ending)

    return act


def end(connection: Connection, ending: str) -> bool:
    """End as named."""
    if ending == "hang":
        return connection.hang()
    if ending == "reset":
        return connection.reset()
    return False


def hang(connection: Connection) -> bool:
    """Never answer."""
    return connection.hang()


def close(connection: Connection) -> bool:
    """Close without a word."""
    return False


def reset(connection: Connection) -> bool:
    """Reset without a word."""
    return connection.reset()


def unaccepting() -> tuple[str, Callable[[], None]]:
    """The base URL of a port where connections are never made, and what frees it."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    waiting = []
    for _ in range(8):
        connection = socket.socket()
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.connect(listener.getsockname())
        waiting.append(connection)
    time.sleep(0.05)

    def free() -> None:
        for connection in (*waiting, listener):
            connection.close()

    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1", free


def refusing() -> str:
    """The base URL of a port that nobody listens on."""
    return f"http://127.0.0.1:{free_port()}/v1"
