"""What a model server remembers: the requests it got, and how many of what it has seen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


class Headers(Mapping[str, str]):
    """Header fields in the order sent; names are looked up without regard to case.

    Attributes:
        fields: (name, value) of each, as sent.
    """

    def __init__(self, fields: tuple[tuple[str, str], ...]) -> None:
        self.fields = fields

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(name.lower() for name, _ in self.fields))

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self.fields})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.get_all(name))

    def __repr__(self) -> str:
        return f"Headers({self.fields!r})"

    def get_all(self, name: str) -> list[str]:
        """Return the values of every field of this name, in the order sent."""
        wanted = name.lower()
        return [value for key, value in self.fields if key.lower() == wanted]


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
