"""Every kind of failure in every phase gives the documented error, in time; and blocks no loop."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from arbitrageai_native import LLMService, _native, exceptions
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import DONE, FaultyServer, chunk
from testing_support.waiting import until

DEADLINE = 0.6

BODY = len(json.dumps(faulty.completion()))

COMPLETIONS: dict[str, tuple[faulty.Action, type[Exception]]] = {
    "no answer": (faulty.hang, exceptions.APITimeoutError),
    "close": (faulty.close, exceptions.APIConnectionError),
    "reset": (faulty.reset, exceptions.APIConnectionError),
    "not http": (faulty.raw(b"SSH-2.0-OpenSSH\r\n"), exceptions.APIConnectionError),
    "half a head": (faulty.raw(b"HTTP/1.1 200 OK\r\nContent-"), exceptions.APIConnectionError),
    "half a head, then silence": (faulty.raw(b"HTTP/1.1 200 OK\r\nCo", "hang"), exceptions.APITimeoutError),
    "late head": (faulty.answer(before_head=5), exceptions.APITimeoutError),
    "late body": (faulty.answer(before_body=5), exceptions.APITimeoutError),
    "cut at the first byte": (faulty.cut(0), exceptions.APIConnectionError),
    "cut in the middle": (faulty.cut(BODY // 2), exceptions.APIConnectionError),
    "cut before the last byte": (faulty.cut(BODY - 1), exceptions.APIConnectionError),
    "reset in the body": (faulty.cut(20, ending="reset"), exceptions.APIConnectionError),
    "silence in the body": (faulty.cut(20, ending="hang"), exceptions.APITimeoutError),
    "bad chunk size": (
        faulty.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        exceptions.APIConnectionError,
    ),
    "400": (faulty.answer(status=400), exceptions.BadRequestError),
    "401": (faulty.answer(status=401), exceptions.AuthenticationError),
    "403": (faulty.answer(status=403), exceptions.PermissionDeniedError),
    "404": (faulty.answer(status=404), exceptions.NotFoundError),
    "409": (faulty.answer(status=409), exceptions.ConflictError),
    "418": (faulty.answer(status=418), exceptions.APIStatusError),
    "422": (faulty.answer(status=422), exceptions.UnprocessableEntityError),
    "429": (faulty.answer(status=429), exceptions.RateLimitError),
    "500": (faulty.answer(status=500), exceptions.InternalServerError),
    "503": (faulty.answer(b"<html>busy", status=503), exceptions.InternalServerError),
    "empty body": (faulty.answer(b""), exceptions.APIResponseValidationError),
    "html": (faulty.answer(b"<html>hello</html>"), exceptions.APIResponseValidationError),
    "json of another shape": (faulty.answer({"hello": 1}), exceptions.APIResponseValidationError),
    "a list": (faulty.answer([1, 2]), exceptions.APIResponseValidationError),
    "an error beside choices": (
        faulty.answer(faulty.completion(error={"message": "boom"})),
        exceptions.APIResponseValidationError,
    ),
    "a failed choice": (
        faulty.answer({"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}),
        exceptions.APIResponseValidationError,
    ),
    "no choices": (faulty.answer({"choices": []}), exceptions.APIResponseValidationError),
    "invalid utf-8": (faulty.answer(b'{"choices": "\xff"}'), exceptions.APIResponseValidationError),
    "deep json": (faulty.answer(b"[" * 100_000), exceptions.APIResponseValidationError),
    "too long": (faulty.answer(b" " * 5000), exceptions.APIResponseValidationError),
}

# What happens, the error, and the pieces that come before it.
STREAMS: dict[str, tuple[faulty.Action, type[Exception], list[str]]] = {
    "no answer": (faulty.hang, exceptions.APITimeoutError, []),
    "close": (faulty.close, exceptions.APIConnectionError, []),
    "500": (faulty.answer(status=500), exceptions.InternalServerError, []),
    "silence before the first piece": (faulty.stream(ending="hang"), exceptions.APITimeoutError, []),
    "only comments": (faulty.stream(*[b": ping\n\n"] * 99, pause=0.1), exceptions.APITimeoutError, []),
    "silence after a piece": (faulty.stream(chunk("a"), ending="hang"), exceptions.APITimeoutError, ["a"]),
    "cut in an event": (
        faulty.stream(chunk("a"), chunk("b")[:9], ending="close"),
        exceptions.APIConnectionError,
        ["a"],
    ),
    "cut after a finish_reason": (
        faulty.stream(chunk("a", "stop"), ending="close"),
        exceptions.APIConnectionError,
        ["a"],
    ),
    "reset after a finish_reason": (
        faulty.stream(chunk("a", "stop"), pause=0.05, ending="reset"),
        exceptions.APIConnectionError,
        ["a"],
    ),
    "cut after an event": (faulty.stream(chunk("a"), ending="close"), exceptions.APIConnectionError, ["a"]),
    "ended after an event": (faulty.stream(chunk("a")), exceptions.APIConnectionError, ["a"]),
    "ended without framing": (
        faulty.stream(chunk("a"), chunked=False),
        exceptions.APIConnectionError,
        ["a"],
    ),
    "empty": (faulty.stream(), exceptions.APIConnectionError, []),
    "reset": (faulty.stream(chunk("a"), ending="reset"), exceptions.APIConnectionError, ["a"]),
    "error event": (
        faulty.stream(chunk("a"), b'data: {"error": {"message": "overloaded"}}\n\n'),
        exceptions.APIError,
        ["a"],
    ),
    "not json": (faulty.stream(chunk("a"), b"data: oops\n\n"), exceptions.APIResponseValidationError, ["a"]),
    "html": (faulty.answer(b"<html>hello</html>"), exceptions.APIResponseValidationError, []),
    "an event that is too long": (
        faulty.stream(b"data: " + b"x" * 5000),
        exceptions.APIResponseValidationError,
        [],
    ),
}


def service(base_url: str, **settings: Any) -> LLMService:
    settings = {"max_retries": 0, "max_body_bytes": 4000, **settings}
    return LLMService(base_url=base_url, api_key=KEY, enable_circuit_breaker=False, **settings)


@pytest.mark.parametrize("fault", COMPLETIONS)
@pytest.mark.parametrize("limit", ["deadline", "timeout"])
async def test_a_completion_fails_as_documented_and_in_time(
    fault: str, limit: str, serve: Callable[..., FaultyServer]
) -> None:
    action, expected = COMPLETIONS[fault]
    client = service(serve(action).base_url)

    async def fail() -> float:
        started = time.monotonic()
        with pytest.raises(expected) as caught:
            await client.complete_async("hi", **{limit: DEADLINE})
        assert type(caught.value) is expected
        assert isinstance(caught.value, exceptions.OpenAIError)
        return time.monotonic() - started

    await in_time(fail)


@pytest.mark.parametrize(
    "fault", ["no answer", "close", "late head", "silence in the body", "cut in the middle"]
)
@pytest.mark.parametrize("limit", ["deadline", "timeout"])
async def test_the_blocking_methods_fail_as_the_others_do(
    fault: str, limit: str, serve: Callable[..., FaultyServer]
) -> None:
    action, expected = COMPLETIONS[fault]
    client = service(serve(action).base_url)

    async def fail(call: Callable[[], object]) -> float:
        started = time.monotonic()
        with pytest.raises(expected) as caught:
            await asyncio.to_thread(call)
        assert type(caught.value) is expected
        return time.monotonic() - started

    await in_time(lambda: fail(lambda: client.complete("hi", **{limit: DEADLINE})))
    await in_time(lambda: fail(lambda: list(client.complete_streaming("hi", **{limit: DEADLINE}))))


async def in_time(fail: Callable[[], Awaitable[float]]) -> None:
    """Expect that it waits for nothing but the deadline.

    The bound has room for a busy machine, and none for what the servers do after 5 s. The same to the
    millisecond, on a clock that stands still while there is anything left to do: `src/llm/tests/limits.rs`.
    """
    assert await fail() < 4


@pytest.mark.parametrize("fault", STREAMS)
async def test_a_stream_fails_as_documented_and_in_time_after_the_pieces_that_came(
    fault: str, serve: Callable[..., FaultyServer]
) -> None:
    action, expected, expected_pieces = STREAMS[fault]
    client = service(serve(action).base_url)

    async def fail() -> float:
        started = time.monotonic()
        pieces = []
        with pytest.raises(expected) as caught:
            async for piece in client.complete_streaming_async("hi", timeout=DEADLINE):
                pieces.append(piece)
                started = time.monotonic()
        assert type(caught.value) is expected
        assert pieces == expected_pieces
        return time.monotonic() - started

    await in_time(fail)


@pytest.fixture
def unaccepting() -> Iterator[str]:
    base_url, free = faulty.unaccepting()
    yield base_url
    free()


@pytest.mark.parametrize("limit", ["deadline", "timeout", "connect_timeout"])
async def test_a_connection_that_is_never_made_is_a_timeout(limit: str, unaccepting: str) -> None:
    client = service(unaccepting)

    async def fail() -> float:
        started = time.monotonic()
        with pytest.raises(exceptions.APITimeoutError) as caught:
            await client.complete_async("hi", **{limit: DEADLINE})
        assert isinstance(caught.value, TimeoutError)
        return time.monotonic() - started

    await in_time(fail)


async def test_a_refused_connection_is_told_with_its_cause() -> None:
    with pytest.raises(exceptions.APIConnectionError) as caught:
        await service(faulty.refusing()).complete_async("hi")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_phases_have_limits_of_their_own(serve: Callable[..., FaultyServer]) -> None:
    late_head = service(serve(faulty.answer(before_head=5)).base_url, first_byte_timeout=0.2)
    with pytest.raises(exceptions.APITimeoutError, match="first byte"):
        await late_head.complete_async("hi")
    late_body = service(serve(faulty.answer(before_body=5)).base_url, idle_timeout=0.2)
    with pytest.raises(exceptions.APITimeoutError, match="idle"):
        await late_body.complete_async("hi")


async def test_no_timeout_means_none(serve: Callable[..., FaultyServer]) -> None:
    client = service(serve(faulty.answer(before_head=0.5)).base_url, timeout=0.1)
    assert (await client.complete_async("hi", timeout=None))["content"] == "hello"


def test_what_the_server_said_is_told(serve: Callable[..., FaultyServer]) -> None:
    error = {"message": "too fast", "type": "limits", "param": "p", "code": 7}
    action = faulty.answer({"error": error}, status=429, headers=["X-Request-Id: r-1", "Retry-After: 300"])
    server = serve(action)
    with pytest.raises(exceptions.RateLimitError) as caught:
        service(server.base_url, max_retries=2).complete("hi")
    told = caught.value
    assert str(told) == told.message == "Error code: 429 - too fast"
    assert (told.status_code, told.request_id, told.body) == (429, "r-1", error)
    assert (told.code, told.type, told.param) == ("7", "limits", "p")
    assert told.response.headers["retry-after"] == "300"
    assert len(server.requests) == 1, "a wait of more than 120 s is not made"


def test_an_answer_that_is_in_order_is_none_of_these(serve: Callable[..., FaultyServer]) -> None:
    client = service(serve(faulty.answer()).base_url)
    assert client.complete("hi")["content"] == "hello"
    done = service(serve(faulty.stream(chunk("a"), chunk("b"), DONE)).base_url)
    assert list(done.complete_streaming("hi")) == ["a", "b"]


async def test_nothing_is_left_under_way(serve: Callable[..., FaultyServer]) -> None:
    client = service(serve(faulty.hang).base_url)
    calls = [asyncio.create_task(client.complete_async("hi")) for _ in range(20)]
    await until(lambda: _native.requests_under_way() == 20)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: _native.requests_under_way() == 0)


@pytest.fixture
def servers_in_a_process_of_their_own() -> Iterator[dict[str, str]]:
    """Their base URLs by kind of failure; here their threads would hold this process's GIL."""
    command = [sys.executable, "-m", "tests.llm.test_failures"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        assert process.stdin is not None
        process.stdin.close()


def serve_every_failure() -> None:
    """Serve until stdin ends."""
    actions = {f"completion: {kind}": action for kind, (action, _) in COMPLETIONS.items()}
    actions |= {f"stream: {kind}": action for kind, (action, *_) in STREAMS.items()}
    servers = {kind: FaultyServer(action) for kind, action in actions.items()}
    print(json.dumps({kind: server.base_url for kind, server in servers.items()}), flush=True)
    sys.stdin.read()


async def fail_again_and_again(kind: str, base_url: str, start: float, end: float) -> int:
    """How often it failed until `end`."""
    await asyncio.sleep(start - time.monotonic())
    client = service(base_url)
    failures = 0
    while time.monotonic() < end or not failures:
        try:
            if kind.startswith("completion"):
                await client.complete_async("hi", timeout=DEADLINE)
            else:
                async for _ in client.complete_streaming_async("hi", timeout=DEADLINE):
                    pass
        except exceptions.OpenAIError:
            failures += 1
        await asyncio.sleep(0.05)
    return failures


async def test_no_failure_blocks_the_loop(servers_in_a_process_of_their_own: dict[str, str]) -> None:
    """The watch over every test's loop (`tests/llm/loop_watch.py`) says whether."""
    base_urls = servers_in_a_process_of_their_own
    begin = time.monotonic()
    # One after the other: all at once would be much for a loop, without any of them blocking it.
    starts = [begin + DEADLINE * number / len(base_urls) for number in range(len(base_urls))]
    failures = await asyncio.gather(
        *(
            fail_again_and_again(*item, start, begin + 3)
            for item, start in zip(base_urls.items(), starts, strict=True)
        )
    )
    assert min(failures) >= 1


if __name__ == "__main__":
    serve_every_failure()
