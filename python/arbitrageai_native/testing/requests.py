"""What a model server remembers: the requests it got, and how many of what it has seen."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from arbitrageai_native.testing.http_parser import Headers


@dataclass(frozen=True)
class RecordedRequest:
    """A request as it arrived.

    Attributes:
        method: `POST`, for one.
        path: What was asked for, without the query.
        query: What is behind the `?`; empty if there is none.
        headers: The header fields.
        body: The body, as sent.
        received_at: When, in seconds of the server's `time.monotonic()`.
        connection: The server's connections, numbered from 1 on: requests that shared one can be told.
    """

    method: str
    path: str
    query: str
    headers: Headers = field(repr=False)  # it has the key in it
    body: bytes
    received_at: float
    connection: int

    @property
    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: the body is not JSON.
        """
        return json.loads(self.body)

    @property
    def prompt(self) -> str:
        """The text of the last user message; empty if there is none."""
        messages = self.json.get("messages", [])
        for message in reversed(messages):
            if message.get("role") == "user":
                content = message.get("content")
                if isinstance(content, str):
                    return content
                if isinstance(content, list):
                    return "".join(part.get("text", "") for part in content if isinstance(part, dict))
        return ""

    @property
    def api_key(self) -> str | None:
        """The key of the `Authorization: Bearer` header."""
        scheme, _, key = self.headers.get("authorization", "").partition(" ")
        return key if scheme.lower() == "bearer" else None


@dataclass(frozen=True)
class Statistics:
    """A server's counts at one moment.

    Attributes:
        connections: Made so far.
        open_connections: Open now.
        peak_connections: The most open at one time so far.
        requests: That arrived so far.
        in_flight: Not answered yet.
        peak_in_flight: The most of these at one time so far.
        answered: That got their answer.
        abandoned: Whose client went away before.
    """

    connections: int = 0
    open_connections: int = 0
    peak_connections: int = 0
    requests: int = 0
    in_flight: int = 0
    peak_in_flight: int = 0
    answered: int = 0
    abandoned: int = 0
