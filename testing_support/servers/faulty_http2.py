"""An HTTP/2 server over TLS that does to each request what HTTP/2 has to do it harm."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError

# What is done with a request: it is given the connection and the stream's number.
Harm = Callable[[H2Connection, int], None]

_HEAD = [(":status", "200"), ("content-type", "application/json")]


class FaultyHttp2Server:
    """Serves on loopback from its making to its `close()`: each request the next harm, the last one again."""

    def __init__(self, tls: ssl.SSLContext, *script: Harm) -> None:
        self.requests = 0
        self._script = list(script)
        self._tls = tls
        self._tls.set_alpn_protocols(["h2"])
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"https://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def close(self) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> FaultyHttp2Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # What still comes in for a connection that was ended is an error to the library.
        ends = contextlib.suppress(OSError, ProtocolError)
        with ends, self._tls.wrap_socket(connection, server_side=True) as secured:
            state = H2Connection(H2Configuration(client_side=False))
            state.initiate_connection()
            secured.sendall(state.data_to_send())
            secured.settimeout(0.05)
            while not self._stopping.is_set():
                try:
                    received = secured.recv(65536)
                except TimeoutError:
                    continue
                if not received:
                    return
                for event in state.receive_data(received):
                    if isinstance(event, RequestReceived):
                        self.requests += 1
                    elif isinstance(event, StreamEnded):
                        harm = self._script.pop(0) if len(self._script) > 1 else self._script[0]
                        harm(state, event.stream_id)
                    elif isinstance(event, ConnectionTerminated):
                        return
                secured.sendall(state.data_to_send())
                if state.state_machine.state is ConnectionState.CLOSED:
                    return


def answer(body: bytes) -> Harm:
    """No harm."""

    def act(connection: H2Connection, stream: int) -> None:
        connection.send_headers(stream, _HEAD)
        connection.send_data(stream, body, end_stream=True)

    return act


def silence(connection: H2Connection, stream: int) -> None:
    """Never answer."""


def silence_in_the_body(connection: H2Connection, stream: int) -> None:
    """Answer half, and then no more."""
    connection.send_headers(stream, _HEAD)
    connection.send_data(stream, b'{"choices": [')


def reset(code: ErrorCodes) -> Harm:
    """Reset the stream instead of an answer."""
    return lambda connection, stream: connection.reset_stream(stream, code)


def reset_in_the_body(connection: H2Connection, stream: int) -> None:
    """Answer half, and then reset the stream."""
    silence_in_the_body(connection, stream)
    connection.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)


def go_away(connection: H2Connection, stream: int) -> None:
    """End the connection, and with it the request."""
    connection.close_connection(ErrorCodes.INTERNAL_ERROR, last_stream_id=stream)


def end_in_the_body(connection: H2Connection, stream: int) -> None:
    """End the answer in the middle of what its length promised."""
    connection.send_headers(stream, [*_HEAD, ("content-length", "100")])
    connection.send_data(stream, b'{"choices": [')
    connection.end_stream(stream)
