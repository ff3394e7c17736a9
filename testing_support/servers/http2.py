"""A model server that speaks HTTP/2 to those who can (by ALPN), and counts how its connections are used."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

from testing_support.servers.faulty_http import DONE, chunk, completion

Message = dict[str, Any]

# What a server logs of what it was sent is not the client's doing.
logging.getLogger("hpack").setLevel(logging.INFO)


class Http2Server:
    """Serves on loopback, in a thread of its own, from its making to its `close()`."""

    def __init__(self, certificate: Path, key: Path, delay: float = 0.2) -> None:
        self.requests = 0
        self.hold_until = 0
        """Answer no request until this number of requests is under way at once."""
        self.versions: set[str] = set()
        self.connections: set[tuple[str, int]] = set()
        self.most_at_once = 0
        self.given_up = 0
        self._now = 0
        self._delay = delay
        listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
        self._config = Config()
        self._config.bind = [f"fd://{listener.detach()}"]  # closed by the server
        self._config.certfile, self._config.keyfile = str(certificate), str(key)
        self._config.backlog = 1000
        self._config.graceful_timeout = 0.1
        self._config.loglevel = "WARNING"
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def __enter__(self) -> Http2Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        application: Any = self._application
        try:
            self._loop.run_until_complete(
                serve(application, self._config, shutdown_trigger=self._stopping.wait, mode="asgi")
            )
        finally:
            self._loop.close()

    async def _application(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        self.versions.add(scope["http_version"])
        self.connections.add(tuple(scope["client"]))
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        request = json.loads(body + message["body"])
        self.requests += 1
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            leaving = asyncio.ensure_future(receive())
            done, _ = await asyncio.wait([leaving], timeout=self._delay)
            while not done and self.most_at_once < self.hold_until:
                done, _ = await asyncio.wait([leaving], timeout=0.1)
            if done:
                self.given_up += 1
                return
            leaving.cancel()
            await self._answer(bool(request.get("stream")), send)
        finally:
            self._now -= 1

    async def _answer(self, streaming: bool, send: Callable[[Message], Awaitable[None]]) -> None:
        kind = b"text/event-stream" if streaming else b"application/json"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        parts = [chunk("a"), chunk("b"), DONE] if streaming else [json.dumps(completion()).encode()]
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})
