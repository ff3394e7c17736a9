"""The connection to the server: certificates of the environment, HTTP/2 on request, proxies."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import json
import os
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from h2.errors import ErrorCodes

from arbitrageai_native import AsyncOpenAI, LLMService, OpenAI, exceptions, metrics
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers import faulty_http2
from testing_support.servers.faulty_http import DONE, FaultyServer, chunk
from testing_support.servers.faulty_http2 import FaultyHttp2Server
from testing_support.servers.forward_proxy import ForwardProxy
from testing_support.servers.http2 import Http2Server
from testing_support.servers.tcp_proxy import TcpProxy
from testing_support.waiting import until

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")

# A transport is made, and the environment read, once for each combination of its settings.
_different = itertools.count(1)


def service(base_url: str, **settings: Any) -> LLMService:
    """A service with connections of its own."""
    settings = {"connect_timeout": 5 + next(_different) / 1000, "max_retries": 0, **settings}
    return LLMService(base_url=base_url, api_key=KEY, enable_circuit_breaker=False, **settings)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificates(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the private authority's certificate."""
    file = tmp_path_factory.mktemp("certificates") / "authority.pem"
    authority.cert_pem.write_to_path(file)
    return file


@pytest.fixture
def trusted(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates))


def tls(authority: trustme.CA, *names: str, **details: Any) -> ssl.SSLContext:
    """A server's side, with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("127.0.0.1",)), **details).configure_cert(context)
    return context


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """A server's side for this machine, made where no loop waits for its files."""
    return tls(authority)


@pytest.fixture
def serve_tls(server_tls: ssl.SSLContext) -> Iterator[Callable[..., FaultyServer]]:
    servers: list[FaultyServer] = []

    def start(*script: faulty.Action) -> FaultyServer:
        servers.append(FaultyServer(*script, tls=server_tls))
        return servers[-1]

    yield start
    for started in servers:
        started.close()


# TLS


async def test_a_private_authority_is_trusted_if_the_environment_says_so(
    trusted: None, serve_tls: Callable[..., FaultyServer]
) -> None:
    server = serve_tls(faulty.answer(), faulty.answer(), faulty.stream(chunk("a"), DONE))
    client = service(server.base_url)
    assert (await client.complete_async("hi"))["content"] == "hello"
    assert client.complete("hi")["content"] == "hello"
    assert [piece async for piece in client.complete_streaming_async("hi")] == ["a"]
    assert server.requests[0].header("authorization") == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("names", "details", "text"),
    [
        (("elsewhere.example",), {}, "not valid for"),
        ((), {"not_after": datetime.datetime(2020, 1, 1)}, "[Ee]xpired"),
    ],
    ids=["another host's", "expired"],
)
async def test_a_certificate_that_is_not_in_order_is_refused(
    trusted: None, authority: trustme.CA, names: tuple[str, ...], details: dict[str, Any], text: str
) -> None:
    with FaultyServer(faulty.answer(), tls=tls(authority, *names, **details)) as server:
        with pytest.raises(exceptions.APIConnectionError, match=f"certificate.*{text}") as caught:
            await service(server.base_url).complete_async("hi")
        assert type(caught.value) is exceptions.APIConnectionError
        assert server.requests == []


@pytest.mark.parametrize("signed_by", ["itself", "an unknown authority"])
async def test_a_certificate_that_nobody_vouches_for_is_refused(trusted: None, signed_by: str) -> None:
    if signed_by == "itself":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        alone = trustme.CA()
        chain = alone.private_key_pem.bytes() + alone.cert_pem.bytes()
        with trustme.Blob(chain).tempfile() as file:
            context.load_cert_chain(file)
    else:
        context = tls(trustme.CA())
    with FaultyServer(faulty.answer(), tls=context) as server:
        with pytest.raises(exceptions.APIConnectionError, match="certificate"):
            await service(server.base_url).complete_async("hi")
        assert server.requests == []


@pytest.mark.parametrize("content", [None, b"", b"garbage", b"\x00\xff" * 1000, "folder"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_certificate_file_that_is_none_is_named(
    content: bytes | str | None, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "certificates.pem"
    if content == "folder":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    client = service(f"{scheme}://127.0.0.1:1/v1", max_retries=2)
    for _ in range(2):
        with pytest.raises(exceptions.APIConnectionError, match="SSL_CERT_FILE") as caught:
            await client.complete_async("hi")
        assert str(file) in str(caught.value)
    with pytest.raises(exceptions.APIConnectionError, match="SSL_CERT_FILE"):
        list(client.complete_streaming("hi"))


async def test_nobody_waits_for_a_file_system_that_takes_its_time(
    serve: Callable[..., FaultyServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = service(serve(faulty.stream(chunk("a"), ending="hang"), faulty.answer()).base_url)
    pieces = other.complete_streaming_async("hi")
    assert await anext(pieces) == "a"  # this client has made its connections, and keeps them
    pipe = tmp_path / "certificates.pem"
    os.mkfifo(pipe)
    opened = threading.Event()

    def open_pipe() -> None:
        opened.set()
        pipe.write_bytes(b"")

    monkeypatch.setenv("SSL_CERT_FILE", str(pipe))
    waiting = asyncio.ensure_future(service("https://127.0.0.1:1/v1").complete_async("hi"))
    last_resort = threading.Timer(5, open_pipe)
    last_resort.start()
    try:
        await asyncio.sleep(0.2)
        assert (await other.complete_async("hi"))["content"] == "hello"
        metrics()
        assert not opened.is_set(), "the calls waited for the file"
    finally:
        last_resort.cancel()
        if not opened.is_set():
            await asyncio.to_thread(open_pipe)
    with pytest.raises(exceptions.APIConnectionError, match="SSL_CERT_FILE"):
        await waiting
    await pieces.aclose()


FAULTS: dict[str, tuple[faulty.Action, type[Exception]]] = {
    "no answer": (faulty.hang, exceptions.APITimeoutError),
    "close": (faulty.close, exceptions.APIConnectionError),
    "reset": (faulty.reset, exceptions.APIConnectionError),
    "cut in the body": (faulty.cut(40), exceptions.APIConnectionError),
    "reset in the body": (faulty.cut(40, ending="reset"), exceptions.APIConnectionError),
    "silence in the body": (faulty.cut(40, ending="hang"), exceptions.APITimeoutError),
    "429": (faulty.answer(status=429), exceptions.RateLimitError),
    "html": (faulty.answer(b"<html>"), exceptions.APIResponseValidationError),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_failures_are_the_same_over_tls(
    fault: str, trusted: None, serve_tls: Callable[..., FaultyServer]
) -> None:
    action, expected = FAULTS[fault]
    client = service(serve_tls(action).base_url)
    with pytest.raises(expected) as caught:
        await client.complete_async("hi", deadline=0.5)
    assert type(caught.value) is expected


async def test_plain_http_on_a_tls_port_is_a_connection_error(
    trusted: None, serve_tls: Callable[..., FaultyServer]
) -> None:
    client = service(serve_tls(faulty.answer()).base_url.replace("https", "http"))
    with pytest.raises(exceptions.APIConnectionError) as caught:
        await client.complete_async("hi", deadline=2)
    assert type(caught.value) is exceptions.APIConnectionError


# HTTP/1.1 unless the settings request HTTP/2


@pytest.fixture
def http2(trusted: None, authority: trustme.CA, tmp_path: Path) -> Iterator[Http2Server]:
    made = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made.cert_chain_pems[0].write_to_path(certificate)
    made.private_key_pem.write_to_path(key)
    with Http2Server(certificate, key) as server:
        yield server


@pytest.mark.parametrize("asked", [None, False, True])
async def test_http2_is_spoken_if_it_is_asked_for(asked: bool | None, http2: Http2Server) -> None:
    settings: dict[str, Any] = {} if asked is None else {"http2": asked}
    client = service(http2.base_url, **settings)
    assert (await client.complete_async("hi"))["content"] == "hello"
    assert client.complete("hi")["content"] == "hello"
    assert [piece async for piece in client.complete_streaming_async("hi")] == ["a", "b"]
    request: dict[str, Any] = {"model": "m", "messages": []}
    # A client in the SDK's shape uses another transport, since its `connect_timeout` differs.
    settings["connect_timeout"] = 5 + next(_different) / 1000
    asynchronous = AsyncOpenAI(base_url=http2.base_url, api_key=KEY, **settings)
    assert (await asynchronous.chat.completions.create(**request)).choices[0].message.content == "hello"
    blocking = OpenAI(base_url=http2.base_url, api_key=KEY, **settings)
    answer = await asyncio.to_thread(blocking.chat.completions.create, **request)
    assert answer.choices[0].message.content == "hello"
    assert http2.versions == {"2" if asked else "1.1"}


@pytest.mark.holds_the_loop("three hundred handshakes are much for one core")
async def test_more_calls_than_http2_has_streams_are_under_way_at_once(http2: Http2Server) -> None:
    client = service(http2.base_url, timeout=60, connect_timeout=60)
    await client.complete_async("first")  # opens the connection
    http2.hold_until = 300
    results = await asyncio.gather(*(client.complete_async("hi") for _ in range(300)))
    assert [result["content"] for result in results] == ["hello"] * 300
    assert (http2.most_at_once, http2.requests) == (300, 301)


async def test_a_connection_that_has_gone_silent_is_left_after_the_first_try(http2: Http2Server) -> None:
    port = int(http2.base_url.split(":")[2].split("/")[0])
    async with TcpProxy(port) as relay:
        client = service(f"https://127.0.0.1:{relay.port}/v1", max_retries=1, retry_base=0.01)
        await client.complete_async("before")
        relay.hold_back()
        try:
            assert (await client.complete_async("hi", timeout=2))["content"] == "hello"
            assert client.metrics()["retries"] == 1
            assert [piece async for piece in client.complete_streaming_async("hi")] == ["a", "b"]
            assert client.metrics()["retries"] == 1
        finally:
            relay.let_go()


async def test_calls_share_one_connection_where_http2_is_offered(http2: Http2Server) -> None:
    client = service(http2.base_url, http2=True)
    await client.complete_async("first")  # opens the connection
    http2.hold_until = 20
    results = await asyncio.gather(*(client.complete_async("hi") for _ in range(20)))
    assert [result["content"] for result in results] == ["hello"] * 20
    assert [piece async for piece in client.complete_streaming_async("hi")] == ["a", "b"]
    assert http2.versions == {"2"}
    assert len(http2.connections) == 1
    assert http2.most_at_once == 20


async def test_a_call_that_is_given_up_leaves_the_others_on_its_connection_alone(http2: Http2Server) -> None:
    client = service(http2.base_url, http2=True)
    await client.complete_async("first")
    http2.hold_until = 11  # more than there will be
    calls = [asyncio.ensure_future(client.complete_async("hi")) for _ in range(10)]
    await until(lambda: http2.requests == 11)
    for call in calls[::2]:
        call.cancel()
    await until(lambda: http2.given_up == 5)
    http2.hold_until = 0
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results] == [True, False] * 5
    assert all(result["content"] == "hello" for result in results[1::2])  # type: ignore[index]
    assert (http2.given_up, len(http2.connections)) == (5, 1)


HARM: dict[str, tuple[faulty_http2.Harm, type[Exception]]] = {
    "silence": (faulty_http2.silence, exceptions.APITimeoutError),
    "silence in the body": (faulty_http2.silence_in_the_body, exceptions.APITimeoutError),
    "reset": (faulty_http2.reset(ErrorCodes.INTERNAL_ERROR), exceptions.APIConnectionError),
    "reset in the body": (faulty_http2.reset_in_the_body, exceptions.APIConnectionError),
    "connection ended": (faulty_http2.go_away, exceptions.APIConnectionError),
    "ended in the body": (faulty_http2.end_in_the_body, exceptions.APIConnectionError),
    "not json": (faulty_http2.answer(b"<html>"), exceptions.APIResponseValidationError),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("kind", ["completion", "stream"])
async def test_what_http2_has_for_failures_is_told_as_any_other(
    harm: str, kind: str, trusted: None, server_tls: ssl.SSLContext
) -> None:
    action, expected = HARM[harm]
    with FaultyHttp2Server(server_tls, action) as server:
        client = service(server.base_url, http2=True)
        with pytest.raises(expected) as caught:
            if kind == "completion":
                await client.complete_async("hi", deadline=0.5)
            else:
                [piece async for piece in client.complete_streaming_async("hi", deadline=0.5)]
        assert type(caught.value) is expected
        assert server.requests == 1


async def test_a_request_that_http2_refused_or_broke_is_tried_again(
    trusted: None, server_tls: ssl.SSLContext
) -> None:
    script = (
        faulty_http2.reset(ErrorCodes.REFUSED_STREAM),
        faulty_http2.go_away,
        faulty_http2.reset_in_the_body,
        faulty_http2.answer(json.dumps(faulty.completion()).encode()),
    )
    with FaultyHttp2Server(server_tls, *script) as server:
        client = service(server.base_url, http2=True, max_retries=3, retry_base=0.01)
        assert (await client.complete_async("hi"))["content"] == "hello"
        assert server.requests == 4


# Proxies


async def test_a_plain_request_goes_through_the_proxy(
    serve: Callable[..., FaultyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(faulty.answer())
    with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        client = service(server.base_url)
        assert (await client.complete_async("hi"))["content"] == "hello"
        assert proxy.targets == [f"POST {server.base_url}/chat/completions"]
    assert server.requests[0].header("authorization") == f"Bearer {KEY}"


async def test_a_tls_request_goes_through_a_tunnel_and_the_proxy_sees_no_key(
    trusted: None, serve_tls: Callable[..., FaultyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve_tls(faulty.answer(), faulty.stream(chunk("a"), DONE))
    with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        client = service(server.base_url)
        assert (await client.complete_async("hi"))["content"] == "hello"
        assert [piece async for piece in client.complete_streaming_async("hi")] == ["a"]
        assert set(proxy.targets) == {f"CONNECT 127.0.0.1:{server.port}"}
        assert KEY not in "".join(proxy.heads)
    assert len(server.requests) == 2


@pytest.mark.parametrize("excepted", ["127.0.0.1", "example.com,127.0.0.0/8", "*"])
async def test_what_no_proxy_names_is_asked_directly(
    excepted: str, serve: Callable[..., FaultyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(faulty.answer())
    with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", excepted)
        assert (await service(server.base_url).complete_async("hi"))["content"] == "hello"
        assert proxy.heads == []


@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"])
async def test_a_proxy_that_refuses_a_tunnel_is_a_connection_error(
    status: str, trusted: None, serve_tls: Callable[..., FaultyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve_tls(faulty.answer())
    with ForwardProxy(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(exceptions.APIConnectionError, match=r"tunnel|proxy") as caught:
            await service(server.base_url).complete_async("hi")
        assert type(caught.value) is exceptions.APIConnectionError
    assert server.requests == []


async def test_a_proxy_that_is_silent_or_not_there_is_told_in_time(
    trusted: None, serve_tls: Callable[..., FaultyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve_tls(faulty.answer())
    with ForwardProxy(silent=True) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        for limit in ("deadline", "timeout", "connect_timeout"):
            with pytest.raises(exceptions.APITimeoutError):
                await service(server.base_url).complete_async("hi", **{limit: 0.3 + next(_different) / 1000})
    monkeypatch.setenv("HTTPS_PROXY", faulty.refusing().removesuffix("/v1"))
    with pytest.raises(exceptions.APIConnectionError) as caught:
        await service(server.base_url).complete_async("hi")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
