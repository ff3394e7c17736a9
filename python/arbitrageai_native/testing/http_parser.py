"""HTTP/1.1 requests out of bytes, without I/O (RFC 9112).

One `RequestParser` lives as long as its connection: bytes go in as they arrive, cut anywhere, and whole
requests come out in order. What is malformed or over a limit raises `ProtocolError` with the status to
answer; the connection is of no use after that, because where the next request begins is then unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VERSION: Final = re.compile(rb"HTTP/([0-9])\.([0-9])")
CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
CONTENT_LENGTH: Final = re.compile(r"[0-9]{1,18}")
LONGEST_CHUNK_SIZE_LINE: Final = 1024


class ProtocolError(Exception):
    """The bytes are no acceptable request; `status` is the answer to give before closing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What one request may measure, in bytes.

    Attributes:
        head: Its head: the first line and the header fields.
        body: Its body.
    """

    head: int = 64 * 1024
    body: int = 64 * 1024 * 1024


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
class HttpRequest:
    """One whole request. `path` is percent-decoded and has no query."""

    method: str
    target: str
    path: str
    query: str
    headers: Headers
    body: bytes
    keep_alive: bool
    chunked_answer_allowed: bool


class RequestParser:
    """Bytes in with `feed`, requests out with `next_request`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._buffer = bytearray()
        self._searched = 0
        self._head: _Head | None = None
        self._body = bytearray()
        self._chunk_left = 0
        self._in_trailers = False
        self._continue_due = False

    @property
    def buffered(self) -> int:
        """How many bytes wait for `next_request`."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes as they arrived."""
        self._buffer += data

    def take_continue(self) -> bool:
        """Tell, once a request, whether its sender waits for "100 Continue" before it sends the body."""
        due, self._continue_due = self._continue_due, False
        return due

    def next_request(self) -> HttpRequest | None:
        """Return the next whole request, or None until more bytes arrive.

        Raises:
            ProtocolError: the bytes are malformed or over a limit.
        """
        if self._head is None:
            self._head = self._read_head()
            if self._head is None:
                return None
            self._continue_due = self._head.expects_continue
        complete = (
            self._read_chunks() if self._head.chunked else self._read_counted(self._head.content_length)
        )
        if not complete:
            return None
        request = self._head.request(bytes(self._body))
        self._head = None
        self._body = bytearray()
        self._continue_due = False
        return request

    def _read_head(self) -> _Head | None:
        # RFC 9112, 2.2: an empty line before a request line is to be ignored.
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
            self._searched = 0
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._searched = len(self._buffer)
        if end > self._limits.head or (end < 0 and len(self._buffer) > self._limits.head):
            raise ProtocolError(431, f"the request's head is longer than {self._limits.head} bytes")
        if end < 0:
            return None
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        self._searched = 0
        return _Head.parse(lines, self._limits)

    def _read_counted(self, length: int) -> bool:
        missing = length - len(self._body)
        if missing > 0:
            self._body += self._buffer[:missing]
            del self._buffer[:missing]
        return len(self._body) == length

    def _read_chunks(self) -> bool:
        while True:
            if self._in_trailers:
                line = self._take_line(self._limits.head, 431, "the trailer section is too long")
                if line is None:
                    return False
                if line == b"":
                    self._in_trailers = False
                    return True
            elif self._chunk_left:
                if not self._read_chunk_data():
                    return False
            else:
                line = self._take_line(LONGEST_CHUNK_SIZE_LINE, 400, "a chunk's size line is too long")
                if line is None:
                    return False
                match = CHUNK_SIZE.fullmatch(line)
                if match is None:
                    raise ProtocolError(400, "malformed chunk size")
                size = int(match[1], 16)
                if len(self._body) + size > self._limits.body:
                    raise ProtocolError(413, f"the body is longer than {self._limits.body} bytes")
                # The line break that ends a chunk is read with its data, so that "nothing left" means "a size
                # comes next".
                self._chunk_left = size + 2 if size else 0
                self._in_trailers = size == 0

    def _read_chunk_data(self) -> bool:
        data_left = self._chunk_left - 2
        if data_left > 0:
            piece = self._buffer[:data_left]
            self._body += piece
            del self._buffer[: len(piece)]
            self._chunk_left -= len(piece)
            if self._chunk_left > 2:
                return False
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise ProtocolError(400, "a chunk is longer than its size says")
        del self._buffer[:2]
        self._chunk_left = 0
        return True

    def _take_line(self, longest: int, status: int, complaint: str) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end > longest or (end < 0 and len(self._buffer) > longest):
            raise ProtocolError(status, complaint)
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


@dataclass(frozen=True)
class _Head:
    """A request's first lines, and what they say about its body."""

    method: str
    target: str
    http_1_1: bool
    headers: Headers
    chunked: bool
    content_length: int

    @property
    def expects_continue(self) -> bool:
        return self.http_1_1 and self.headers.get("expect", "").lower() == "100-continue"

    @classmethod
    def parse(cls, lines: list[bytes], limits: Limits) -> _Head:
        method, target, http_1_1 = _parse_request_line(lines[0])
        headers = Headers(tuple(_parse_field(line) for line in lines[1:]))
        if http_1_1 and len(headers.get_all("host")) != 1:
            raise ProtocolError(400, "exactly one Host header is required")
        chunked, content_length = _parse_framing(headers, limits)
        return cls(method, target, http_1_1, headers, chunked, content_length)

    def request(self, body: bytes) -> HttpRequest:
        try:
            parts = urlsplit(self.target)
        except ValueError as error:
            raise ProtocolError(400, "malformed request target") from error
        connection = {token.strip().lower() for token in self.headers.get("connection", "").split(",")}
        keep_alive = "close" not in connection and (self.http_1_1 or "keep-alive" in connection)
        return HttpRequest(
            method=self.method,
            target=self.target,
            path=unquote(parts.path),
            query=parts.query,
            headers=self.headers,
            body=body,
            keep_alive=keep_alive,
            chunked_answer_allowed=self.http_1_1,
        )


def _parse_request_line(line: bytes) -> tuple[str, str, bool]:
    parts = line.split(b" ")
    if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or not parts[1]:
        raise ProtocolError(400, "malformed request line")
    version = VERSION.fullmatch(parts[2])
    if version is None:
        raise ProtocolError(400, "malformed HTTP version")
    if version[1] != b"1":
        raise ProtocolError(505, "only HTTP/1 is spoken here")
    return parts[0].decode("ascii"), parts[1].decode("latin-1"), version[2] != b"0"


def _parse_field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not TOKEN.fullmatch(name):
        raise ProtocolError(400, "malformed header field")
    value = value.strip(b" \t")
    if b"\0" in value or b"\r" in value or b"\n" in value:
        raise ProtocolError(400, "control character in a header field")
    return name.decode("ascii"), value.decode("latin-1")


def _parse_framing(headers: Headers, limits: Limits) -> tuple[bool, int]:
    """Say how long the body is: (chunked, content length)."""
    lengths = {value.strip() for field in headers.get_all("content-length") for value in field.split(",")}
    codings = [coding.strip().lower() for coding in headers.get("transfer-encoding", "").split(",")]
    if codings != [""]:
        # RFC 9112, 6.1: both at once is how requests are smuggled past proxies.
        if lengths:
            raise ProtocolError(400, "both Content-Length and Transfer-Encoding")
        if codings != ["chunked"]:
            raise ProtocolError(501, "of the transfer codings only chunked is known here")
        return True, 0
    if not lengths:
        return False, 0
    length = lengths.pop()
    if lengths or not CONTENT_LENGTH.fullmatch(length):
        raise ProtocolError(400, "malformed Content-Length")
    if int(length) > limits.body:
        raise ProtocolError(413, f"the body is longer than {limits.body} bytes")
    return False, int(length)
