"""The OpenAI-compatible model server that the package offers for tests, in the loop and in a thread."""

import asyncio
import gc
import http.client
import json
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from arbitrageai_native.testing import (
    Answer,
    Disconnect,
    Failure,
    Limits,
    ModelServer,
    RecordedRequest,
)

USER = {"role": "user", "content": "Write a proposal."}


def chat(**extra: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [USER], **extra}


def client_of(server: ModelServer, **arguments: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server.base_url, api_key="key", max_retries=0, **arguments)


async def ask(server: ModelServer, data: bytes) -> bytes:
    """Send bytes as they are, and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def post(
    body: bytes, *, headers: bytes = b"Connection: close\r\n", path: bytes = b"/v1/chat/completions"
) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n"
    return head % (path, headers, len(body)) + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def body_of(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def test_it_echoes_the_prompt_and_counts_words_for_tokens() -> None:
    async with ModelServer() as server, client_of(server) as client:
        completion = await client.chat.completions.create(**chat())
    assert completion.choices[0].message.content == "Write a proposal."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "gpt-4o-mini"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.total_tokens) == (3, 6)


async def test_requests_are_recorded() -> None:
    async with ModelServer() as server:
        async with client_of(server) as client:
            await client.chat.completions.create(**chat(temperature=0))
            await client.chat.completions.create(**chat())
        first, second = server.requests
    assert (first.method, first.path, first.prompt, first.api_key) == (
        "POST",
        "/v1/chat/completions",
        "Write a proposal.",
        "key",
    )
    assert first.json["temperature"] == 0
    assert first.connection == second.connection == 1
    assert first.received_at <= second.received_at
    assert "Bearer" not in repr(first)


async def test_the_script_is_followed_and_then_the_answer() -> None:
    async with ModelServer(answer="always", script=["first"]) as server, client_of(server) as client:
        server.script(Answer(None, model="other", finish_reason="length", usage={}))
        texts = [await client.chat.completions.create(**chat()) for _ in range(3)]
    assert [text.choices[0].message.content for text in texts] == ["first", None, "always"]
    assert (texts[1].model, texts[1].choices[0].finish_reason, texts[1].usage) == ("other", "length", None)


async def test_an_answer_may_be_computed_now_or_later() -> None:
    async def later(request: RecordedRequest) -> Answer:
        await asyncio.sleep(0)
        return Answer(request.prompt.upper())

    async with ModelServer(answer=later) as server, client_of(server) as client:
        server.script(lambda request: f"{len(request.prompt)} characters")
        texts = [
            (await client.chat.completions.create(**chat())).choices[0].message.content for _ in range(2)
        ]
    assert texts == ["17 characters", "WRITE A PROPOSAL."]


async def test_a_failure_has_its_status_headers_and_error_object() -> None:
    failure = Failure(429, "too many", headers={"Retry-After": "7"}, code="rate_limit_exceeded")
    async with ModelServer(answer=failure) as server, client_of(server) as client:
        with pytest.raises(openai.RateLimitError, match="too many") as caught:
            await client.chat.completions.create(**chat())
    assert caught.value.response.headers["retry-after"] == "7"
    assert caught.value.request_id == "req-1"
    assert caught.value.code == "rate_limit_exceeded"


async def test_a_status_without_a_body_has_no_length() -> None:
    body = json.dumps(chat()).encode()
    async with ModelServer(script=[Failure(204)]) as server:
        head, _, after = (await ask(server, post(body, headers=b"") + post(body))).partition(b"\r\n\r\n")
    assert (status_of(head), status_of(after)) == (204, 200)
    assert b"content-length" not in head.lower()


async def test_a_failure_may_have_any_body() -> None:
    async with ModelServer(answer=Failure(502, body=b"<html>")) as server:
        answer = await ask(server, post(json.dumps(chat()).encode()))
    assert status_of(answer) == 502
    assert answer.endswith(b"\r\n\r\n<html>")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_disconnect_cuts_the_answer(reset: bool) -> None:
    async with ModelServer(script=[Disconnect(), Disconnect(after=100, reset=reset)]) as server:
        assert await ask(server, post(json.dumps(chat()).encode())) == b""
        try:
            assert len(await ask(server, post(json.dumps(chat()).encode()))) == 100
        except ConnectionResetError:
            assert reset
        async with client_of(server) as client:
            completion = await client.chat.completions.create(**chat())
    assert completion.choices[0].message.content == "Write a proposal."


async def test_a_stream_arrives_in_its_pieces() -> None:
    async with ModelServer(answer=Answer(pieces=["a", " b", "", "c"])) as server, client_of(server) as client:
        stream = await client.chat.completions.create(
            **chat(stream=True, stream_options={"include_usage": True})
        )
        chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert pieces == ["", "a", " b", "", "c", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == 3


async def test_a_stream_is_cut_into_words_by_default() -> None:
    async with ModelServer(answer=" Dear client,  I can.\n") as server, client_of(server) as client:
        stream = await client.chat.completions.create(**chat(stream=True))
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == " Dear client,  I can.\n"
    assert len([piece for piece in pieces if piece]) == 4


async def test_a_stream_to_an_http_1_0_client_ends_with_the_connection() -> None:
    body = json.dumps(chat(stream=True)).encode()
    data = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with ModelServer() as server:
        answer = await ask(server, data)
    assert b"chunked" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")


async def test_delays_come_from_the_answer_or_the_server() -> None:
    async with ModelServer(delay=0.2, script=[Answer(delay=0.0)]) as server, client_of(server) as client:
        started = time.perf_counter()
        await client.chat.completions.create(**chat())
        undelayed = time.perf_counter() - started
        started = time.perf_counter()
        await client.chat.completions.create(**chat())
        delayed = time.perf_counter() - started
    assert delayed >= 0.2
    assert undelayed < delayed


async def test_a_delay_may_be_computed() -> None:
    async with (
        ModelServer(delay=lambda request: len(request.prompt) / 100) as server,
        client_of(server) as client,
    ):
        started = time.perf_counter()
        await client.chat.completions.create(**chat())
    assert time.perf_counter() - started >= 0.17


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
def test_an_impossible_delay_is_refused(delay: float) -> None:
    with pytest.raises(ValueError, match="delay"):
        ModelServer(delay=delay)


async def test_requests_in_flight_and_connections_are_counted() -> None:
    async with ModelServer(delay=30) as server, client_of(server) as client:
        calls = [asyncio.create_task(client.chat.completions.create(**chat())) for _ in range(20)]
        counts = await server.wait_for(lambda counts: counts.in_flight == 20)
        assert (counts.requests, counts.peak_in_flight, counts.open_connections) == (20, 20, 20)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        counts = await server.wait_for(lambda counts: counts.in_flight == 0)
        assert (counts.abandoned, counts.answered, counts.peak_in_flight) == (20, 0, 20)
        with pytest.raises(TimeoutError, match="in_flight=0"):
            await server.wait_for(lambda counts: counts.in_flight == 1, timeout=0.05)


async def test_models_and_health() -> None:
    async with ModelServer(models=["one", "two"]) as server, client_of(server) as client:
        assert [model.id for model in (await client.models.list()).data] == ["one", "two"]
        health = await ask(server, b"GET /api/health HTTP/1.0\r\n\r\n")
        assert (status_of(health), body_of(health)) == (200, {"status": "ok"})
        server.application.healthy = False
        assert status_of(await ask(server, b"GET /api/health HTTP/1.0\r\n\r\n")) == 503


async def test_a_required_key_is_checked() -> None:
    async with ModelServer(api_key="other") as server, client_of(server) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(**chat())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("HEAD", "/v1/models", 200),
    ],
)
async def test_other_paths_and_methods(method: str, path: str, status: int) -> None:
    async with ModelServer() as server:
        answer = await ask(server, f"{method} {path} HTTP/1.0\r\n\r\n".encode())
    assert status_of(answer) == status
    assert (status == 405) == (b"\r\nAllow: " in answer)
    if method == "HEAD":
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"model": 1, "messages": []}',
        b'{"model": "m", "messages": [1]}',
    ],
)
async def test_a_request_that_is_none_gets_400(body: bytes) -> None:
    async with ModelServer() as server:
        answer = await ask(server, post(body))
    assert status_of(answer) == 400
    assert body_of(answer)["error"]["type"] == "invalid_request_error"


async def test_an_answer_function_that_fails_gives_500(capfd: pytest.CaptureFixture[str]) -> None:
    async with ModelServer(answer=lambda request: [][1]) as server:
        answer = await ask(server, post(json.dumps(chat()).encode()))
        counts = server.statistics
    assert status_of(answer) == 500
    assert "IndexError" in body_of(answer)["error"]["message"]
    assert "IndexError" in capfd.readouterr().err
    assert (counts.answered, counts.in_flight) == (1, 0)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with ModelServer(delay=lambda request: 0.05 if request.prompt == "1" else 0.0) as server:
        first, second = (json.dumps(chat(messages=[{"role": "user", "content": n}])).encode() for n in "12")
        answer = await ask(server, post(first, headers=b"") + post(second))
    assert answer.index(b'"content": "1"') < answer.index(b'"content": "2"')


async def test_a_chunked_body_and_expect_continue() -> None:
    body = json.dumps(chat()).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    async with ModelServer() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert status_of(await reader.read()) == 200
        writer.close()
        await writer.wait_closed()


async def test_what_is_too_large_is_refused_even_while_it_is_being_sent() -> None:
    async with ModelServer(limits=Limits(body=1000)) as server:
        assert status_of(await ask(server, post(b"x" * 300_000))) == 413
        assert status_of(await ask(server, b"nonsense\r\n\r\n")) == 400


async def test_a_slow_reader_gets_everything() -> None:
    text = "x" * 8_000_000
    async with ModelServer(answer=text) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1000)
        writer.write(post(json.dumps(chat()).encode()))
        await server.wait_for(lambda counts: counts.requests == 1)
        answer = await reader.read()
        assert body_of(answer)["choices"][0]["message"]["content"] == text
        writer.close()
        await writer.wait_closed()


def test_in_a_thread_it_serves_synchronous_code() -> None:
    with ModelServer(answer="hello") as server:
        with openai.OpenAI(base_url=server.base_url, api_key="key") as client:
            completion = client.chat.completions.create(**chat())
        assert completion.choices[0].message.content == "hello"
        assert server.requests[0].prompt == "Write a proposal."
    with pytest.raises(RuntimeError, match="not been started"):
        _ = server.base_url


def test_it_listens_on_loopback_alone_and_stops_in_mid_answer() -> None:
    with ModelServer(delay=60) as server:
        port = server.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(chat()), {"Content-Type": "application/json"}
        )
        assert {item.getsockname()[0] for item in _listening_sockets(server)} == {"127.0.0.1"}
    connection.close()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=10):
        pass


def _listening_sockets(server: ModelServer) -> Any:
    assert server._listener is not None
    return server._listener.sockets


async def test_it_can_be_started_again_but_not_twice() -> None:
    server = ModelServer()
    for _ in range(2):
        async with server:
            with pytest.raises(RuntimeError, match="already"):
                await server.start()
    await server.stop()


async def test_keeping_requests_can_be_left() -> None:
    async with ModelServer(record=False) as server, client_of(server) as client:
        await client.chat.completions.create(**chat())
        assert server.requests == []
        assert server.statistics.requests == 1


def test_content_parts_make_up_the_prompt() -> None:
    parts: list[Mapping[str, Any]] = [
        {"type": "text", "text": "a"},
        {"type": "image_url"},
        {"type": "text", "text": "b"},
    ]
    with (
        ModelServer() as server,
        openai.OpenAI(base_url=server.base_url, api_key="key") as client,
    ):
        completion = client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": parts}],  # type: ignore[list-item, misc]
        )
    assert completion.choices[0].message.content == "ab"


def test_stopping_closes_connections_that_were_just_accepted() -> None:
    for _ in range(50):
        with ModelServer() as server:
            connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        for connection in connections:
            connection.close()
    gc.collect()


@pytest.mark.parametrize("name", ["script", "models"])
def test_a_string_is_no_list(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name} has to be a list, not str"):
        ModelServer(**{name: "abc"})


async def test_an_answerer_that_exits_fails_its_own_request_alone(capfd: pytest.CaptureFixture[str]) -> None:
    def answer(request: RecordedRequest) -> str:
        return sys.exit(3) if b"exit" in request.body else "still here"

    with ModelServer(answer=answer) as server:
        client = client_of(server)
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(**chat(user="exit"))
        answered = await client.chat.completions.create(**chat())
        assert answered.choices[0].message.content == "still here"
        await client.close()
    assert "SystemExit" in capfd.readouterr().err
