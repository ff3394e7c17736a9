"""The test server's HTTP: whole requests out of bytes cut anywhere, a status for whatever is none."""

import asyncio
import random
from collections.abc import Iterable

import pytest

from arbitrageai_native.testing import Failure, Limits, ModelServer, RecordedRequest
from arbitrageai_native.testing.connection import MOST_BYTES_WAITING, HttpConnection, Responder

COUNTED = b"POST /v1/chat/completions?a=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /b%20c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b'3;name="value"\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n'
)
BODILESS = b"\r\nGET / HTTP/1.0\r\n\r\n"
CHAT = (
    b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: 63\r\n\r\n"
    b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
)
GO_AHEAD = b"HTTP/1.1 100 Continue\r\n\r\n"


class Application:
    """Answers every request at once, and keeps it."""

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []

    def connection_opened(self, connection: HttpConnection) -> int:
        return 1

    def connection_closed(self, connection: HttpConnection) -> None:
        pass

    async def serve(self, request: RecordedRequest, responder: Responder) -> None:
        self.requests.append(request)
        await responder.send(200, b"ok", {})


class Transport(asyncio.Transport):
    """The client's end of a connection: keeps what the server does with it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def serve(
    pieces: Iterable[bytes], limits: Limits | None = None
) -> tuple[list[RecordedRequest], Transport]:
    """Let a connection receive the pieces, one by one, and return what arrived and what was answered."""
    application, transport = Application(), Transport()
    connection = HttpConnection(application, limits or Limits())
    connection.connection_made(transport)
    for piece in pieces:
        connection.data_received(piece)
        await settle()
    await settle()
    return application.requests, transport


async def settle() -> None:
    """Let answers that are due be given."""
    for _ in range(12):
        await asyncio.sleep(0)


async def ask(server: ModelServer, data: bytes) -> bytes:
    """Send bytes to a server over a socket, and return all that it answers."""
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


async def test_requests_come_out_whole_and_in_order() -> None:
    (first, second, third), transport = await serve([COUNTED + CHUNKED + BODILESS])
    assert (first.method, first.path, first.query, first.body) == (
        "POST",
        "/v1/chat/completions",
        "a=1",
        b"hello",
    )
    assert (second.path, second.body) == ("/b c", b"hello")
    assert (third.method, third.body) == ("GET", b"")
    assert transport.written.count(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n") == 3
    assert transport.closed


async def test_every_split_of_the_bytes_gives_the_same_requests() -> None:
    data = COUNTED + CHUNKED + BODILESS
    whole, answers = await serve([data])
    for split in range(1, len(data)):
        parts, transport = await serve([data[:split], data[split:]])
        assert [(part.path, part.headers, part.body) for part in parts] == [
            (part.path, part.headers, part.body) for part in whole
        ]
        assert transport.written == answers.written
    bytewise, transport = await serve(data[index : index + 1] for index in range(len(data)))
    assert [part.body for part in bytewise] == [part.body for part in whole]
    assert transport.written == answers.written


async def test_random_splits_of_a_long_chunked_body() -> None:
    generator = random.Random(7)
    pieces = [generator.randbytes(generator.randint(1, 900)) for _ in range(50)]
    data = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    data += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    for _ in range(50):
        cuts = sorted(generator.sample(range(1, len(data)), 60))
        parts = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        requests, _ = await serve(parts)
        assert [request.body for request in requests] == [b"".join(pieces)]


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n", False),
        (b"GET / HTTP/1.0\r\n", False),
        # RFC 9112, 9.3: a server of HTTP/1.1 need not know this wish of HTTP/1.0's.
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", False),
    ],
)
async def test_who_keeps_the_connection(head: bytes, keep_alive: bool) -> None:
    requests, transport = await serve([head + b"\r\n"])
    assert len(requests) == 1
    assert transport.closed is not keep_alive
    assert (b"\r\nConnection: close\r\n" in transport.written) is not keep_alive


async def test_header_names_are_found_in_any_case_and_kept_as_sent() -> None:
    ((request,), _) = await serve([b"GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:  2 \r\nB: \xe9\r\n\r\n"])
    assert request.headers["X-a"] == "1, 2"
    assert request.headers.get_all("x-A") == ["1", "2"]
    assert "X-B" not in request.headers
    assert set(request.headers) == {"host", "x-a", "b"}
    assert request.headers.fields == (("Host", "x"), ("X-A", "1"), ("x-a", "2"), ("B", "\xe9"))


async def test_a_sender_that_expects_continue_is_told_once() -> None:
    head = COUNTED[:-5].replace(b"Host", b"Expect: 100-continue\r\nHost")
    ((request,), transport) = await serve([head, b"he", b"llo"])
    assert request.body == b"hello"
    assert transport.written.startswith(GO_AHEAD + b"HTTP/1.1 200 OK\r\n")
    assert transport.written.count(GO_AHEAD) == 1


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"G(T / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTX/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 101\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"a" * 101, 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 1000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 1000 + b"\r\n\r\n", 431),
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
async def test_what_is_no_acceptable_request_gets_a_status(data: bytes, status: int) -> None:
    limits = Limits(head=500, body=100)
    answer = await ask(ModelServer(limits=limits), data)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nConnection: close\r\n" in answer
    # However the bytes arrive, nothing of it is taken for a request.
    requests, transport = await serve((data[index : index + 1] for index in range(len(data))), limits)
    assert requests == []
    assert transport.written.startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize(("length", "status"), [(500, 200), (501, 431)])
async def test_the_limit_of_a_head_is_the_same_however_it_arrives(length: int, status: int) -> None:
    start = b"\r\nGET / HTTP/1.1\r\nHost: x\r\nA: "
    data = start + b"b" * (length + 2 - len(start)) + b"\r\n\r\n"
    for split in (1, 2, 3, 40, *range(len(data) - 6, len(data))):
        _, transport = await serve([data[:split], data[split:]], Limits(head=500))
        assert transport.written.startswith(b"HTTP/1.1 %d " % status), split


async def test_a_refusal_does_not_quote_a_key() -> None:
    for line in (b"Authorization : Bearer sk-quoted", b"Authorization: Bearer sk-quoted\0", b"sk-quoted"):
        answer = await ask(ModelServer(), b"GET / HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"illegal header line" in answer
        assert b"sk-quoted" not in answer


async def test_an_equal_content_length_twice_is_one() -> None:
    data = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"
    requests, _ = await serve([data])
    assert [request.body for request in requests] == [b"a"]


async def test_a_client_that_sends_too_much_meanwhile_is_not_read() -> None:
    application, transport = Application(), Transport()
    connection = HttpConnection(application, Limits())
    connection.connection_made(transport)
    connection.data_received(COUNTED)
    connection.data_received(BODILESS + b"x" * MOST_BYTES_WAITING)
    assert transport.paused
    await settle()
    assert len(application.requests) == 2


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_may_have_no_body_has_none(status: int) -> None:
    answer = await ask(ModelServer(answer=Failure(status, body=b"body")), CHAT)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("failure", [Failure(400, headers={"X-A": "1\r\nX-B: 2"}), Failure(99)])
async def test_an_answer_that_http_does_not_have_is_an_error(
    failure: Failure, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = await ask(ModelServer(answer=failure), CHAT)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"\r\nX-B" not in answer
    assert "LocalProtocolError" in capfd.readouterr().err


async def test_noise_never_raises_anything_else() -> None:
    generator = random.Random(11)
    alphabet = [
        b"\r\n",
        b"\r\n\r\n",
        b"GET ",
        b"/",
        b" HTTP/1.1",
        b":",
        b"Host: x",
        b"0",
        b"ff",
        b"chunked",
        b"\xff",
    ]
    for _ in range(5000):
        noise = [generator.choice(alphabet) for _ in range(generator.randint(1, 30))]
        connection, transport = HttpConnection(Application(), Limits(head=200, body=200)), Transport()
        connection.connection_made(transport)
        for piece in noise:
            connection.data_received(piece)
        assert transport.written == b"" or transport.written.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
        await asyncio.sleep(0)
