"""An HTTP proxy that tells what it was asked: it tunnels (`CONNECT`), forwards, or refuses."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from urllib.parse import urlsplit

import h11

_TIMEOUT = 10


class ForwardProxy:
    """Serves on loopback from its making to its `close()`; a `refusal` is its answer to everything."""

    def __init__(self, refusal: bytes | None = None, silent: bool = False) -> None:
        self.heads: list[str] = []
        self._refusal = refusal
        self._silent = silent
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def targets(self) -> list[str]:
        """What was asked for: `CONNECT host:port`, `POST http://…`."""
        return [head.split(" HTTP/", 1)[0] for head in self.heads]

    def close(self) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> ForwardProxy:
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

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(_TIMEOUT)
            http = h11.Connection(h11.SERVER)
            while not isinstance(request := http.next_event(), h11.Request):
                if not (data := client.recv(65536)):
                    return
                http.receive_data(data)
            self.heads.append(_head(request, request.target).decode("latin-1"))
            if self._silent:
                self._stopping.wait(_TIMEOUT)
            elif self._refusal is not None:
                client.sendall(self._refusal)
            else:
                self._forward(client, request, http.trailing_data[0])

    def _forward(self, client: socket.socket, request: h11.Request, first: bytes) -> None:
        is_tunnel = request.method == b"CONNECT"
        address = urlsplit(("//" if is_tunnel else "") + request.target.decode())
        with socket.create_connection((address.hostname or "", address.port or 80), _TIMEOUT) as server:
            if is_tunnel:
                client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                server.sendall(_head(request, address.path.encode()))
            server.sendall(first)
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join(_TIMEOUT)


def _head(request: h11.Request, target: bytes) -> bytes:
    """The request's head as bytes, for another target."""
    passed_on = h11.Request(method=request.method, target=target, headers=request.headers.raw_items())
    return h11.Connection(h11.CLIENT).send(passed_on)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
