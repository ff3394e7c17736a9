"""Streams: pieces as they come, the end told truthfully, an early end without leftovers."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arbitrageai_native import LLMService, _native, exceptions
from tests.keys import KEY
from tests.servers import faulty_http as faulty
from tests.servers.faulty_http import DONE, Connection, FaultyServer, chunk

Serve = Callable[..., FaultyServer]

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def service(server: FaultyServer, **settings: Any) -> LLMService:
    settings = {"enable_circuit_breaker": False, "max_retries": 0, **settings}
    return LLMService(base_url=server.base_url, api_key=KEY, **settings)


async def collect(pieces: Any) -> list[str]:
    return [piece async for piece in pieces]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("the condition did not come true within 5 s")


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
    assert times[0] < 0.35
    assert all(times[i + 1] - times[i] > 0.1 for i in range(3))


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
