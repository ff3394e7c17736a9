"""The test server's HTTP parser: whole requests out of bytes cut anywhere, a status for whatever is none."""

import random

import pytest

from arbitrageai_native.testing.http_parser import HttpRequest, Limits, ProtocolError, RequestParser

COUNTED = b"POST /v1/chat/completions?a=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /b%20c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b'3;name="value"\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n'
)
BODILESS = b"\r\nGET / HTTP/1.0\r\n\r\n"


def parse_all(parser: RequestParser, data: bytes) -> list[HttpRequest]:
    parser.feed(data)
    requests = []
    while (request := parser.next_request()) is not None:
        requests.append(request)
    return requests


def test_requests_come_out_whole_and_in_order() -> None:
    first, second, third = parse_all(RequestParser(), COUNTED + CHUNKED + BODILESS)
    assert (first.method, first.path, first.query, first.body) == (
        "POST",
        "/v1/chat/completions",
        "a=1",
        b"hello",
    )
    assert (second.path, second.body) == ("/b c", b"hello")
    assert (third.method, third.body, third.keep_alive, third.chunked_answer_allowed) == (
        "GET",
        b"",
        False,
        False,
    )


def test_every_split_of_the_bytes_gives_the_same_requests() -> None:
    data = COUNTED + CHUNKED + BODILESS
    whole = parse_all(RequestParser(), data)
    for split in range(len(data)):
        parser = RequestParser()
        parts = parse_all(parser, data[:split]) + parse_all(parser, data[split:])
        assert [(part.path, part.body) for part in parts] == [(part.path, part.body) for part in whole]


def test_random_splits_of_a_long_chunked_body() -> None:
    generator = random.Random(7)
    pieces = [generator.randbytes(generator.randint(1, 900)) for _ in range(50)]
    data = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    data += b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    for _ in range(50):
        parser = RequestParser()
        requests = []
        position = 0
        while position < len(data):
            step = generator.randint(1, 700)
            requests += parse_all(parser, data[position : position + step])
            position += step
        assert [request.body for request in requests] == [b"".join(pieces)]


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n", False),
        (b"GET / HTTP/1.0\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_who_keeps_the_connection(head: bytes, keep_alive: bool) -> None:
    (request,) = parse_all(RequestParser(), head + b"\r\n")
    assert request.keep_alive is keep_alive


def test_header_names_are_found_in_any_case() -> None:
    (request,) = parse_all(RequestParser(), b"GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:  2 \r\n\r\n")
    assert request.headers["X-a"] == "1, 2"
    assert request.headers.get_all("x-A") == ["1", "2"]
    assert "X-B" not in request.headers
    assert set(request.headers) == {"host", "x-a"}


def test_a_sender_that_expects_continue_is_told_once() -> None:
    parser = RequestParser()
    assert parse_all(parser, COUNTED[:-5].replace(b"Host", b"Expect: 100-continue\r\nHost")) == []
    assert parser.take_continue()
    assert not parser.take_continue()
    (request,) = parse_all(parser, b"hello")
    assert request.body == b"hello"


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
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 1000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 1000 + b"\r\n\r\n", 431),
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
def test_what_is_no_acceptable_request_gets_a_status(data: bytes, status: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_all(RequestParser(Limits(head=500, body=100)), data)
    assert caught.value.status == status


def test_an_equal_content_length_twice_is_one() -> None:
    data = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"
    assert [request.body for request in parse_all(RequestParser(), data)] == [b"a"]


def test_noise_never_raises_anything_else() -> None:
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
        parser = RequestParser(Limits(head=200, body=200))
        try:
            for _ in range(generator.randint(1, 30)):
                parse_all(parser, generator.choice(alphabet))
        except ProtocolError:
            continue
