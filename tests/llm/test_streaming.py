"""Streams: pieces as they come, the end told truthfully, an early end without leftovers."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arbitrageai_native import AsyncOpenAI, LLMService, OpenAI, _native, exceptions
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import DONE, Connection, FaultyServer, chunk
from testing_support.waiting import until

Serve = Callable[..., FaultyServer]

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def service(server: FaultyServer, **settings: Any) -> LLMService:
    settings = {"enable_circuit_breaker": False, "max_retries": 0, **settings}
    return LLMService(base_url=server.base_url, api_key=KEY, **settings)


async def collect(pieces: Any) -> list[str]:
    return [piece async for piece in pieces]


async def test_pieces_and_what_is_known_after_them(serve: Serve) -> None:
    usage = chunk(None, "stop", usage=USAGE)
    client = service(serve(faulty.stream(chunk("Grü"), chunk(""), chunk("ße"), usage, DONE)))
    blocking = client.complete_streaming("hi")
    asynchronous = client.complete_streaming_async("hi")
    assert (blocking.model, blocking.usage, blocking.finish_reason) == (None, None, None)
    assert list(blocking) == await collect(asynchronous) == ["Grü", "ße"]
    for pieces in (blocking, asynchronous):
        assert (pieces.model, pieces.usage, pieces.finish_reason) == ("served-model", USAGE, "stop")
    assert list(blocking) == []
    assert await collect(asynchronous) == []


def test_the_request_asks_for_a_stream(serve: Serve) -> None:
    server = serve(faulty.stream(chunk("a"), DONE))
    list(service(server).complete_streaming("hi", 0, 5, "be brief", stream_options={"include_usage": True}))
    assert server.requests[0].json == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "temperature": 0,
        "max_tokens": 5,
        "stream_options": {"include_usage": True},
        "stream": True,
    }


async def test_nothing_is_sent_before_the_first_piece_is_asked_for(serve: Serve) -> None:
    server = serve(faulty.stream(chunk("a"), DONE))
    pieces = service(server).complete_streaming_async("hi")
    await asyncio.sleep(0.05)
    assert server.requests == []
    assert await pieces.__anext__() == "a"


async def test_pieces_come_as_the_server_sends_them(serve: Serve) -> None:
    client = service(serve(faulty.stream(*(chunk(str(i)) for i in range(4)), DONE, pause=0.2)))
    started = time.monotonic()
    times = [time.monotonic() - started async for _ in client.complete_streaming_async("hi")]
    assert len(times) == 4
    assert times[-1] - times[0] > 0.4


@pytest.mark.parametrize("seed", range(20))
def test_how_the_stream_is_cut_makes_no_difference(seed: int, serve: Serve) -> None:
    chance = random.Random(seed)
    texts = ["".join(chance.choices('aé世\U0001f600\n"\\ ', k=chance.randint(1, 8))) for _ in range(8)]
    whole = b"\xef\xbb\xbf: hello\r\n\r\n" + b"".join(
        chunk(text).replace(b"\n", chance.choice([b"\n", b"\r\n", b"\r"])) for text in texts
    )
    whole += DONE
    cuts = sorted(chance.sample(range(len(whole)), 30))
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert "".join(service(serve(faulty.stream(*parts))).complete_streaming("hi")) == "".join(texts)


async def test_a_stream_may_take_longer_than_its_timeout(serve: Serve) -> None:
    client = service(serve(faulty.stream(*(chunk("x") for _ in range(8)), DONE, pause=0.15)))
    assert len(await collect(client.complete_streaming_async("hi", timeout=0.6))) == 8
    with pytest.raises(exceptions.APITimeoutError, match="deadline"):
        await collect(client.complete_streaming_async("hi", deadline=0.6))


async def test_a_failure_before_the_head_is_retried_and_one_after_it_is_not(serve: Serve) -> None:
    server = serve(faulty.answer(status=500), faulty.close, faulty.stream(chunk("a"), DONE))
    client = service(server, max_retries=2, retry_base=0.01)
    assert await collect(client.complete_streaming_async("hi")) == ["a"]
    assert len(server.requests) == 3
    server = serve(faulty.stream(), faulty.stream(chunk("a"), DONE))
    with pytest.raises(exceptions.APIConnectionError):
        await collect(service(server, max_retries=2).complete_streaming_async("hi"))
    assert len(server.requests) == 1


@pytest.mark.parametrize("way", ["aclose", "async with", "forgotten", "cancelled", "close", "with"])
async def test_leaving_early_closes_the_request(way: str, serve: Serve) -> None:
    left = asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(connection: Connection) -> bool:
        faulty.stream(chunk("a"), ending="hang")(connection)
        loop.call_soon_threadsafe(left.set)
        return False

    client = service(serve(endless))
    if way in ("close", "with"):
        blocking = client.complete_streaming("hi")
        assert next(blocking) == "a"
        if way == "close":
            blocking.close()
        else:
            with blocking:
                pass
        assert list(blocking) == []
    else:
        pieces = client.complete_streaming_async("hi")
        assert await pieces.__anext__() == "a"
        if way == "aclose":
            await pieces.aclose()
        elif way == "async with":
            async with pieces:
                pass
        elif way == "cancelled":
            waiting = asyncio.ensure_future(pieces.__anext__())
            await asyncio.sleep(0.02)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await pieces.aclose()
        del pieces
    await asyncio.wait_for(left.wait(), 5)
    await until(lambda: _native.requests_under_way() == 0)


async def test_closing_ends_a_wait_for_the_next_piece(serve: Serve) -> None:
    client = service(serve(faulty.stream(chunk("a"), ending="hang")))
    pieces = client.complete_streaming_async("hi")
    assert await pieces.__anext__() == "a"
    waiting = asyncio.ensure_future(pieces.__anext__())
    await asyncio.sleep(0.02)
    await pieces.aclose()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(waiting, 5)


async def test_a_cancelled_wait_loses_no_piece(serve: Serve) -> None:
    count = 60
    client = service(serve(faulty.stream(*(chunk(f"{i} ") for i in range(count)), DONE, pause=0.01)))
    pieces = client.complete_streaming_async("hi")
    found: list[str] = []
    while len(found) < count:
        try:
            found.append(await asyncio.wait_for(pieces.__anext__(), random.uniform(0.001, 0.02)))
        except asyncio.TimeoutError:
            continue
    assert found == [f"{i} " for i in range(count)]


async def test_giving_up_the_wait_for_the_first_piece_does_not_give_up_the_call(serve: Serve) -> None:
    def late(connection: Connection) -> bool:
        connection.pause(0.3)
        return faulty.stream(chunk("a"), DONE)(connection)

    server = serve(late)
    pieces = service(server).complete_streaming_async("hi")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(pieces.__anext__(), 0.05)
    assert await collect(pieces) == ["a"]
    assert len(server.requests) == 1


async def test_a_slow_reader_slows_the_server_and_loses_nothing(serve: Serve) -> None:
    sent = 0
    text = "x" * 10_000

    def plenty(connection: Connection) -> bool:
        nonlocal sent
        connection.send(faulty.head(200, "Content-Type: text/event-stream", "Connection: close"))
        for _ in range(4000):
            connection.send(chunk(text))
            sent += 1
        connection.send(DONE)
        return False

    pieces = service(serve(plenty)).complete_streaming_async("hi")
    assert await pieces.__anext__() == text
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.3)
        assert sent < 3000, "the stream is read though nobody asks"
    assert len(await collect(pieces)) == 3999


async def test_pieces_that_wait_are_handed_over_together(serve: Serve) -> None:
    texts = [f"{number} " for number in range(200)]
    pieces = service(serve(faulty.stream(chunk("first"), *map(chunk, texts), DONE))).complete_streaming_async(
        "hi"
    )
    assert await pieces.__anext__() == "first"
    await asyncio.sleep(0.3)  # by now all have come in
    batches = []
    while (batch := await pieces._native.next_async(True)) is not None:
        batches.append(batch)
    assert list(pieces._ready) + [text for batch in batches for text in batch] == texts
    assert len(batches) <= 3


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("kind", ["asynchronous", "blocking"])
async def test_memory_stays_bounded_however_slow_the_reader_is(kind: str, serve: Serve) -> None:
    sent = 0
    part = chunk("x" * 100_000)

    def endless(connection: Connection) -> bool:
        nonlocal sent
        connection.send(faulty.head(200, "Content-Type: text/event-stream", "Connection: close"))
        while True:
            connection.send(part)
            sent += len(part)

    client = service(serve(endless))
    before = resident_bytes()
    if kind == "blocking":
        blocking = client.complete_streaming("hi")
        for _ in range(3):
            assert len(next(blocking)) == 100_000
            await asyncio.sleep(0.2)
        blocking.close()
    else:
        async with client.complete_streaming_async("hi") as pieces:
            for _ in range(3):
                assert len(await pieces.__anext__()) == 100_000
                await asyncio.sleep(0.2)
    assert 0 < sent < 32 * 2**20, "more than the sockets hold was read"
    assert resident_bytes() - before < 32 * 2**20


async def test_the_connection_is_used_again_after_done(serve: Serve) -> None:
    server = serve(faulty.stream(chunk("a"), DONE))
    client = service(server)
    for _ in range(4):
        assert await collect(client.complete_streaming_async("hi")) == ["a"]
        await until(lambda: _native.requests_under_way() == 0)
    assert server.connections == 1


async def test_a_stream_counts_for_the_circuit_by_its_end(serve: Serve) -> None:
    server = serve(faulty.stream(chunk("a")))
    client = service(server, enable_circuit_breaker="always")
    for _ in range(3):
        with pytest.raises(exceptions.APIConnectionError):
            await collect(client.complete_streaming_async("hi"))
    with pytest.raises(exceptions.CircuitBreakerError):
        await collect(client.complete_streaming_async("hi"))
    assert len(server.requests) == 3


# Cancelled waits, and loops that an exception leaves

GRACE = 1.0
"""How many seconds a stream may be continued after a wait was cut short or an exception left its loop."""


def silent_after(*texts: str) -> Any:
    """A server that sends these pieces and then nothing; it sets its event `left` when the client leaves."""

    def act(connection: Connection) -> bool:
        faulty.stream(*map(chunk, texts), ending="hang")(connection)
        left.set()
        return False

    left = act.left = threading.Event()  # type: ignore[attr-defined]
    return act


async def test_a_failure_that_came_to_a_cancelled_wait_is_told_at_the_next(serve: Serve) -> None:
    for action, expected in (
        (faulty.close, exceptions.APIConnectionError),
        (faulty.stream(chunk("a"), DONE), None),
    ):
        pieces = service(serve(action)).complete_streaming_async("hi")
        first: Any = pieces.__anext__()
        waiter = first.send(None)
        waiter._asyncio_future_blocking = False
        await until(waiter.done)
        with pytest.raises(asyncio.CancelledError):  # the cancellation precedes the delivery
            first.throw(asyncio.CancelledError())
        if expected is None:
            assert await collect(pieces) == ["a"]
        else:
            with pytest.raises(expected):
                await collect(pieces)
        assert await collect(pieces) == []


class Interrupt(BaseException):
    """The exception of a signal handler, like `KeyboardInterrupt`."""


@pytest.mark.parametrize("ending", ["finish", "close"])
@pytest.mark.parametrize("kind", ["native", "counted", "foreign"])
def test_a_blocking_wait_that_a_signal_ends_can_be_made_again(kind: str, ending: str, serve: Serve) -> None:
    let_on = threading.Event()

    def act(connection: Connection) -> bool:
        connection.send(faulty.head(200, "Content-Type: text/event-stream", "Connection: close"))
        let_on.wait(20)
        connection.send(chunk("a") + chunk("b") + (DONE if ending == "finish" else b""))
        return False

    server = serve(act)
    client = service(server)
    if kind == "counted":
        client._health_checker = type("Checker", (), {"should_allow_request": lambda *_: True})()
        client._health_checker.record_success = client._health_checker.record_failure = lambda *_: None
    elif kind == "foreign":
        client.client = _Injected(OpenAI(base_url=server.base_url, api_key=KEY))
    pieces = client.complete_streaming("hi")

    def raise_interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, raise_interrupt)
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(Interrupt):
            next(pieces)
    finally:
        signal.signal(signal.SIGUSR1, before)
    let_on.set()
    if ending == "finish":
        assert list(pieces) == ["a", "b"]
    else:
        assert [next(pieces), next(pieces)] == ["a", "b"]
        with pytest.raises(exceptions.APIConnectionError):
            next(pieces)


class _Injected:
    """A client that is not an instance of the package's classes."""

    def __init__(self, client: Any) -> None:
        self.chat = client.chat


async def test_a_loop_that_a_time_limit_ends_can_be_taken_up_again(serve: Serve) -> None:
    count = 40
    client = service(serve(faulty.stream(*(chunk(f"{i} ") for i in range(count)), DONE, pause=0.02)))
    pieces = client.complete_streaming_async("hi")
    found: list[str] = []

    async def go_on() -> None:
        async for piece in pieces:
            found.append(piece)

    rounds = 0
    while True:
        rounds += 1
        try:
            await asyncio.wait_for(go_on(), random.uniform(0.01, 0.1))
            break
        except asyncio.TimeoutError:
            continue
    assert found == [f"{i} " for i in range(count)]
    assert rounds > 3


async def give_up(waiting: Any, when: Callable[[], bool] | None = None) -> BaseException:
    """Cancel an awaitable. Returns the exception, whose traceback keeps the frames and their objects."""
    task = asyncio.ensure_future(waiting)
    await (asyncio.sleep(0.05) if when is None else until(when))
    task.cancel()
    try:
        await task
    except asyncio.CancelledError as error:
        return error
    pytest.fail("it was not cancelled")


@pytest.mark.parametrize("kind", ["service", "client", "counted", "injected"])
async def test_a_single_wait_that_was_cut_and_not_made_again_closes_the_stream_and_says_so(
    kind: str, serve: Serve
) -> None:
    action = silent_after("a")
    server = serve(action)
    client = service(server)
    own = AsyncOpenAI(base_url=server.base_url, api_key=KEY)
    pieces: Any
    if kind == "client":
        pieces = await own.chat.completions.create(model="m", messages=[], stream=True)
    else:
        if kind == "counted":
            client._health_checker = type("Checker", (), {"should_allow_request": lambda *_: True})()
        elif kind == "injected":
            client.client = _Injected(own)
        pieces = client.complete_streaming_async("hi")
    await pieces.__anext__()
    kept = await give_up(pieces.__anext__())
    await until(action.left.is_set)
    await until(lambda: _native.requests_under_way() == 0)
    with pytest.raises(exceptions.ClientClosedError, match="continued the iteration within 1 s"):
        await pieces.__anext__()
    assert await collect(pieces) == []
    assert kept.__traceback__ is not None


async def test_a_piece_that_came_after_a_cut_wait_is_not_lost_with_the_rest(serve: Serve) -> None:
    let_on, came = threading.Event(), threading.Event()

    def act(connection: Connection) -> bool:
        faulty.stream(chunk("a"), ending="nothing")(connection)
        let_on.wait(20)
        data = chunk("b")
        connection.send(b"%x\r\n%s\r\n" % (len(data), data))
        connection.hang()
        came.set()
        return False

    pieces = service(serve(act)).complete_streaming_async("hi")
    assert await pieces.__anext__() == "a"
    await give_up(pieces.__anext__())
    let_on.set()
    await until(came.is_set)
    assert await pieces.__anext__() == "b"
    with pytest.raises(exceptions.ClientClosedError, match="cut short"):
        await pieces.__anext__()


@pytest.mark.parametrize("kind", ["service", "client"])
async def test_a_loop_that_was_left_by_a_cancellation_and_not_taken_up_is_closed_and_says_so(
    kind: str, serve: Serve
) -> None:
    action = silent_after("a", "b")
    server = serve(action)
    pieces: Any
    if kind == "service":
        pieces = service(server).complete_streaming_async("hi")
    else:
        client = AsyncOpenAI(base_url=server.base_url, api_key=KEY)
        pieces = await client.chat.completions.create(model="m", messages=[], stream=True)
    received = []

    async def read() -> None:
        async for piece in pieces:
            received.append(piece)

    kept = await give_up(read(), lambda: len(received) == 2)
    await until(action.left.is_set)
    await until(lambda: _native.requests_under_way() == 0)
    with pytest.raises(exceptions.ClientClosedError, match="continued the iteration within 1 s"):
        await pieces.__anext__()
    assert kept.__traceback__ is not None


async def test_an_iterator_in_hand_survives_waits_cut_short(serve: Serve) -> None:
    count = 30
    client = service(serve(faulty.stream(*(chunk(f"{i} ") for i in range(count)), DONE, pause=0.02)))
    pieces = client.complete_streaming_async("hi")
    iterator: Any = pieces.__aiter__()
    assert iterator.__aiter__() is iterator
    found: list[str] = []
    while len(found) < count:
        try:
            found.append(await asyncio.wait_for(iterator.__anext__(), random.uniform(0.001, 0.04)))
        except asyncio.TimeoutError:
            continue
    assert found == [f"{i} " for i in range(count)]
    assert iterator.model == "served-model"
    await iterator.aclose()


async def test_a_loop_whose_body_raised_is_closed_though_its_stream_is_kept(serve: Serve) -> None:
    action = silent_after("a", "b")
    pieces = service(serve(action)).complete_streaming_async("hi")
    with pytest.raises(ZeroDivisionError):
        async for _ in pieces:
            1 / 0  # noqa: B018
    await until(action.left.is_set)
    assert await pieces.__anext__() == "b"  # this piece had arrived before the request was closed
    with pytest.raises(exceptions.ClientClosedError):
        await pieces.__anext__()


@pytest.mark.parametrize("way", ["break", "single waits", "another wait", "another loop"])
async def test_who_has_the_stream_in_hand_may_take_his_time(way: str, serve: Serve) -> None:
    let_on = threading.Event()

    def act(connection: Connection) -> bool:
        faulty.stream(chunk("a"), ending="nothing")(connection)
        let_on.wait(20)
        data = chunk("b") + DONE
        connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        return True

    pieces = service(serve(act)).complete_streaming_async("hi")
    other = None
    if way == "break":
        async for piece in pieces:
            assert piece == "a"
            break
    elif way == "another loop":
        other = asyncio.ensure_future(collect(pieces))
        await asyncio.sleep(0.05)
        await give_up(collect(pieces))
    else:
        assert await pieces.__anext__() == "a"
        if way == "another wait":
            other = asyncio.ensure_future(collect(pieces))
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pieces.__anext__(), 0.05)
    await asyncio.sleep(1.3 * GRACE)
    let_on.set()
    if other is not None:
        assert (await other)[-1] == "b"
    else:
        assert await collect(pieces) == ["b"]


async def test_the_traceback_of_a_cancelled_wait_does_not_keep_the_stream(serve: Serve) -> None:
    action = silent_after("a")
    gc.disable()
    try:
        pieces = service(serve(action)).complete_streaming_async("hi")
        assert await pieces.__anext__() == "a"
        kept = await give_up(pieces.__anext__())
        del pieces
        await until(action.left.is_set)
        assert kept.__traceback__ is not None
    finally:
        gc.enable()


async def test_close_begins_when_it_is_called_and_may_be_awaited(serve: Serve) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for way in ("forgotten", "awaited", "a task's", "waited for"):
            action = silent_after("a")
            pieces = service(serve(action)).complete_streaming_async("hi")
            assert await pieces.__anext__() == "a"
            closing = pieces.close()
            await until(action.left.is_set)
            if way == "awaited":
                assert await closing is None  # type: ignore[func-returns-value]
            elif way == "a task's":
                await asyncio.create_task(closing)
            elif way == "waited for":
                await asyncio.wait_for(closing, 1)
            del closing
            assert await collect(pieces) == []


# Ends of a stream that are not the end of the answer


@pytest.mark.parametrize("reason", ["", " ", "null"])
async def test_a_stream_cut_after_an_empty_finish_reason_raises(reason: str, serve: Serve) -> None:
    client = service(serve(faulty.stream(chunk("a", reason), chunk("b", reason))))
    with pytest.raises(exceptions.APIConnectionError, match="finish_reason"):
        list(client.complete_streaming("hi"))
    pieces = client.complete_streaming_async("hi")
    assert [await pieces.__anext__(), await pieces.__anext__()] == ["a", "b"]
    assert pieces.finish_reason is None
    with pytest.raises(exceptions.APIConnectionError, match="finish_reason"):
        await pieces.__anext__()


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"object": "error", "message": "engine died", "code": 500}',
        b'event: error\ndata: {"message": "engine died"}',
        b"event: error\ndata: engine died",
        b'data: {"detail": "engine died"}',
        b'data: {"message": "engine died"}',
        b'data: {"error": "engine died"}',
        b'data: {"errors": [{"message": "engine died"}]}',
        b'data: {"choices": [{"index": 0, "delta": {}, "error": {"message": "engine died"}}]}',
        b'data: {"choices": [{"delta": {}, "finish_reason": "error", "error": "engine died"}]}',
        b"event: ERROR\ndata: engine died",
    ],
)
async def test_an_error_in_any_dialect_is_told_in_the_servers_words(event: bytes, serve: Serve) -> None:
    server = serve(faulty.stream(chunk("a"), event + b"\n\n", DONE))
    pieces: Any = service(server).complete_streaming_async("hi")
    client = AsyncOpenAI(base_url=server.base_url, api_key=KEY)
    chunks: Any = await client.chat.completions.create(model="m", messages=[], stream=True)
    for items in (pieces, chunks):
        await items.__anext__()
        with pytest.raises(exceptions.APIError, match="engine died"):
            await items.__anext__()


@pytest.mark.parametrize(
    "event",
    [
        b"event: error",
        b"event: error\ndata:",
        b'data: {"error": {}}',
        b'data: {"error": ""}',
        b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}',
    ],
)
async def test_an_error_without_words_raises(event: bytes, serve: Serve) -> None:
    client = service(serve(faulty.stream(chunk("a"), event + b"\n\n", DONE)))
    blocking = client.complete_streaming("hi")
    assert next(blocking) == "a"
    with pytest.raises(exceptions.APIError, match="An error occurred during streaming"):
        next(blocking)


async def test_a_stream_cut_in_the_middle_of_an_event_raises_though_it_has_a_finish_reason(
    serve: Serve,
) -> None:
    for rest in (b'data: {"error": {"mess', b"data: {}\n"):
        client = service(serve(faulty.stream(chunk("a"), chunk(None, "stop"), rest)))
        pieces = client.complete_streaming_async("hi")
        assert await pieces.__anext__() == "a"
        with pytest.raises(exceptions.APIConnectionError, match="in the middle of an event"):
            await pieces.__anext__()
    whole = service(serve(faulty.stream(chunk("a"), chunk(None, "stop"))))
    assert await collect(whole.complete_streaming_async("hi")) == ["a"]


async def test_content_in_parts_is_read_and_content_that_is_no_text_raises(serve: Serve) -> None:
    parts: Any = [{"type": "text", "text": "b"}, {"type": "thinking", "thinking": []}]
    client = service(serve(faulty.stream(chunk("a"), chunk(parts), DONE)))
    assert await collect(client.complete_streaming_async("hi")) == ["a", "b"]
    number: Any = 5
    client = service(serve(faulty.stream(chunk("a"), chunk(number), DONE)))
    with pytest.raises(exceptions.APIResponseValidationError, match="not a string or a list of parts"):
        await collect(client.complete_streaming_async("hi"))


async def test_choices_without_end_are_an_error(serve: Serve) -> None:
    events = b"".join(b'data: {"choices": [{"index": %d, "delta": {}}]}\n\n' % index for index in range(1000))
    with pytest.raises(exceptions.APIResponseValidationError, match="more than 512 choices"):
        await collect(service(serve(faulty.stream(events, DONE))).complete_streaming_async("hi"))


# Foreign clients


@pytest.mark.holds_the_loop("OpenAI's client imports and builds its types at its first use")
@pytest.mark.parametrize("kind", ["generator", "thread"])
async def test_a_wait_given_up_ends_no_foreign_stream_in_silence(kind: str, serve: Serve) -> None:
    import openai

    let_on = threading.Event()

    def act(connection: Connection) -> bool:
        faulty.stream(chunk("a"), ending="nothing")(connection)
        let_on.wait(20)
        data = chunk("b") + DONE
        connection.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
        return True

    server = serve(act)
    client = service(server)
    made = openai.AsyncOpenAI if kind == "generator" else openai.OpenAI
    client.client = await asyncio.to_thread(made, base_url=server.base_url, api_key=KEY, max_retries=0)
    pieces = client.complete_streaming_async("hi")
    assert await pieces.__anext__() == "a"
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(pieces.__anext__(), 0.1)
    let_on.set()
    if kind == "thread":
        assert await collect(pieces) == ["b"]
    else:
        with pytest.raises(exceptions.APIConnectionError, match="a cancelled wait ended"):
            await collect(pieces)


class Source:
    """An injected client and its endless stream, which outlives its waits."""

    def __init__(self) -> None:
        self.chat = self.completions = self
        self.closed = False
        self.pieces: asyncio.Queue[str] = asyncio.Queue()

    async def create(self, **_: object) -> Source:
        return self

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> Any:
        delta = type("Delta", (), {"content": await self.pieces.get()})
        return type("Chunk", (), {"choices": [type("Choice", (), {"delta": delta})]})

    async def close(self) -> None:
        self.closed = True


async def test_an_injected_stream_whose_wait_was_cut_is_closed_if_nobody_comes_back(serve: Serve) -> None:
    told: list[str] = []
    checker = {
        "should_allow_request": lambda *_: True,
        "record_success": lambda *_: told.append("success"),
        "record_failure": lambda *_: told.append("failure"),
    }
    client = service(serve(faulty.close))
    client._health_checker = type("Checker", (), checker)()
    client.client = source = Source()  # type: ignore[assignment]
    pieces: Any = client.complete_streaming_async("hi")
    for text in "abc":
        source.pieces.put_nowait(text)
        assert await pieces.__anext__() == text
        await give_up(pieces.__anext__())
        await asyncio.sleep(GRACE / 2)
    assert not source.closed, "it was taken up again each time"
    await until(lambda: source.closed)
    source.pieces.put_nowait("d")
    with pytest.raises(exceptions.ClientClosedError, match="continued the iteration within 1 s"):
        await pieces.__anext__()
    assert await collect(pieces) == []
    assert told == []
