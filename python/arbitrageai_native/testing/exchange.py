"""One HTTP/1.1 request and its answer, without I/O: h11 parses and frames, this adds the limits.

Bytes go in as they arrive, cut anywhere. What is malformed or over a limit raises `RefusedError` with the
status to answer; the connection is of no use after that, because where the next request begins is then
unknown.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import h11

from arbitrageai_native.testing.requests import Headers, RecordedRequest

END_OF_HEAD: Final = len(b"\r\n\r\n")
STATUSES_WITHOUT_BODY: Final = (204, 304)


class RefusedError(Exception):
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


class Exchange:
    """Request bytes in with `receive`, bytes of the answer out of `head`, `piece`, `end` and `whole`."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # h11 measures a head only as long as it is incomplete, and then with the beginning of its end.
        # `_check_head` measures the others, so that the same head is refused however its bytes arrive.
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head + END_OF_HEAD - 1)
        self._head = bytearray()
        self._request: h11.Request | None = None
        self._target = SplitResult("", "", "", "", "")
        self._body = bytearray()

    @property
    def rest(self) -> bytes:
        """What was received behind the request."""
        return self._http.trailing_data[0]

    @property
    def is_answered(self) -> bool:
        """Whether anything of the answer was made."""
        return self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE)

    @property
    def keeps_connection(self) -> bool:
        """Whether the answer is complete, and another request may follow it."""
        return self._http.our_state is h11.DONE

    def receive(self, data: bytes) -> bool:
        """Take further bytes in, and return whether the request is complete.

        Raises:
            RefusedError: the bytes are malformed or over a limit.
        """
        if self._request is None:
            self._head += data
        self._http.receive_data(data)
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._request = event
                    self._check_head(event)
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    self._check_length(len(self._body))
                else:
                    return isinstance(event, h11.EndOfMessage)
        except h11.RemoteProtocolError as error:
            raise self._refusal(error) from error

    def recorded(self, connection: int) -> RecordedRequest:
        """The complete request, as users see it."""
        assert self._request is not None
        fields = self._request.headers.raw_items()
        return RecordedRequest(
            method=self._request.method.decode("ascii"),
            path=unquote(self._target.path),
            query=self._target.query,
            headers=Headers(tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in fields)),
            body=bytes(self._body),
            received_at=time.monotonic(),
            connection=connection,
        )

    def go_ahead(self) -> bytes:
        """Make "100 Continue", once, if the client waits for it before it sends the body."""
        if not self._http.they_are_waiting_for_100_continue:
            return b""
        return self._http.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue"))

    def head(self, status: int, headers: Mapping[str, str]) -> bytes:
        """Begin an answer; without `Content-Length` it is chunked, or to HTTP/1.0 ends with the connection.

        Raises:
            h11.LocalProtocolError: HTTP has no such status or header.
        """
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
        return self._http.send(h11.Response(status_code=status, headers=fields, reason=reason))

    def piece(self, data: bytes) -> bytes:
        """Make a piece of the answer's body."""
        return self._http.send(h11.Data(data=data))

    def end(self) -> bytes:
        """Make the answer's end."""
        return self._http.send(h11.EndOfMessage())

    def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Make a whole answer; raises as `head` does."""
        # RFC 9110, 8.6: a 204 has no length. A 304 may have that of the answer it stands for.
        length = {} if status == 204 else {"Content-Length": str(len(body))}
        answer = self.head(status, {**headers, **length})
        is_head = self._request is not None and self._request.method == b"HEAD"
        if not is_head and status not in STATUSES_WITHOUT_BODY:
            answer += self.piece(body)
        return answer + self.end()

    def _check_head(self, request: h11.Request) -> None:
        del self._head[len(self._head) - len(self.rest) :]
        if len(self._head) - END_OF_HEAD > self._limits.head:
            raise self._head_is_too_long()
        # RFC 9112, 5.2: a server refuses a field that goes on in a second line, or unfolds it as h11 does.
        if b"\n " in self._head or b"\n\t" in self._head:
            raise RefusedError(400, "a header field goes on in a second line")
        if not request.http_version.startswith(b"1."):
            raise RefusedError(505, "only HTTP/1 is spoken here")
        fields = dict(request.headers)
        # RFC 9112, 6.1: both at once is how requests are smuggled past proxies. h11 lets them pass.
        if b"content-length" in fields and b"transfer-encoding" in fields:
            raise RefusedError(400, "both Content-Length and Transfer-Encoding")
        self._check_length(int(fields.get(b"content-length", 0)))
        try:
            self._target = urlsplit(request.target.decode("ascii"))
        except ValueError as error:
            raise RefusedError(400, "malformed request target") from error

    def _check_length(self, body: int) -> None:
        if body > self._limits.body:
            raise RefusedError(413, f"the body is longer than {self._limits.body} bytes")

    def _head_is_too_long(self) -> RefusedError:
        return RefusedError(431, f"the request's head is longer than {self._limits.head} bytes")

    def _refusal(self, error: h11.RemoteProtocolError) -> RefusedError:
        if error.error_status_hint == 431:
            # h11 has the same limit for the lines between the chunks of a body, which are no header fields.
            if self._request is None:
                return self._head_is_too_long()
            return RefusedError(400, "malformed chunk: a line is too long")
        # h11 quotes the malformed line, in which a key may be, and the client shows the answer's message.
        return RefusedError(error.error_status_hint, str(error).partition(": bytearray(")[0])
