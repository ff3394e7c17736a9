"""When a client disconnects during a stream, the request to the model server is closed.

This holds with and without the garbage collector.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.requests import Request
from starlette.responses import Response

from arbitrageai_native import AsyncOpenAI, LLMService
from arbitrageai_native.llm_health_check import LLMHealthChecker
from arbitrageai_native.testing import Answer, ModelServer
from testing_support.keys import KEY
from testing_support.servers.uvicorn import serving

pytestmark = pytest.mark.holds_the_loop("uvicorn and FastAPI run in it")

LEAVERS = 10
PATHS = ("/documented", "/checker", "/generator", "/expression", "/client")
WAITS = ("/while", "/class", "/timeout", "/scope", "/counted", "/injected")
"""Routes that wait for each piece by itself, not in an `async for` over the stream."""

# The answer takes five minutes, longer than the test waits, so its end does not close the request. A route
# waits for pieces nearly all the time, so that a client's leaving nearly always cuts a wait.
ANSWER = Answer(pieces=[f"w{number} " for number in range(600)], piece_delay=0.5)


class OtherChecker(LLMHealthChecker):
    """A subclass of the package's checker, so that Python code counts the streams."""


class Injected:
    """None of the package's classes."""

    def __init__(self, client: Any) -> None:
        self.chat = client.chat


class OneByOne:
    def __init__(self, stream: AsyncIterator[str]) -> None:
        self.stream = stream

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        return await anext(self.stream)


@contextlib.asynccontextmanager
async def cancel_scope() -> AsyncIterator[None]:
    with anyio.fail_after(0.2):
        yield


@contextlib.asynccontextmanager
async def time_limit() -> AsyncIterator[None]:
    if sys.version_info >= (3, 11):
        async with asyncio.timeout(0.2):
            yield
    else:
        with anyio.fail_after(0.2):
            yield


def application(base_url: str, middleware: bool) -> FastAPI:
    service = LLMService(base_url, KEY, model="m", enable_circuit_breaker=False)
    counted = LLMService(base_url, KEY, model="m", enable_circuit_breaker=False)
    counted._health_checker = OtherChecker()
    client = AsyncOpenAI(base_url=base_url, api_key=KEY)
    injected = LLMService(base_url, KEY, model="m", enable_circuit_breaker=False)
    injected.client = Injected(client)
    app = FastAPI()

    async def one_by_one(stream: AsyncIterator[str]) -> AsyncIterator[str]:
        while (piece := await anext(stream, None)) is not None:
            yield piece

    async def kept_alive(
        stream: AsyncIterator[str], limit: Callable[[], contextlib.AbstractAsyncContextManager[None]]
    ) -> AsyncIterator[str]:
        while True:
            try:
                async with limit():
                    piece = await anext(stream)
            except TimeoutError:
                yield ": still at it\n"
            except StopAsyncIteration:
                return
            else:
                yield piece

    @app.get("/documented")
    async def documented() -> StreamingResponse:
        return StreamingResponse(service.complete_streaming_async("x"))

    @app.get("/checker")
    async def checker() -> StreamingResponse:
        return StreamingResponse(counted.complete_streaming_async("x"))

    @app.get("/generator")
    async def generator() -> StreamingResponse:
        async def pieces() -> AsyncIterator[str]:
            stream = service.complete_streaming_async("x")
            async for piece in stream:
                yield piece

        return StreamingResponse(pieces())

    @app.get("/expression")
    async def expression() -> StreamingResponse:
        return StreamingResponse(piece async for piece in service.complete_streaming_async("x"))

    @app.get("/client")
    async def of_client() -> StreamingResponse:
        messages = [{"role": "user", "content": "x"}]
        stream = await client.chat.completions.create(model="m", messages=messages, stream=True)

        async def pieces() -> AsyncIterator[str]:
            async for chunk in stream:
                yield chunk.choices[0].delta.content or ""

        return StreamingResponse(pieces())

    def add(path: str, body: Callable[[], AsyncIterator[str]]) -> None:
        @app.get(path)
        async def waits() -> StreamingResponse:
            return StreamingResponse(body())

    add("/while", lambda: one_by_one(service.complete_streaming_async("x")))
    add("/counted", lambda: one_by_one(counted.complete_streaming_async("x")))
    add("/injected", lambda: one_by_one(injected.complete_streaming_async("x")))
    add("/class", lambda: OneByOne(service.complete_streaming_async("x")))
    add("/timeout", lambda: kept_alive(service.complete_streaming_async("x"), time_limit))
    add("/scope", lambda: kept_alive(service.complete_streaming_async("x"), cancel_scope))

    if middleware:

        @app.middleware("http")
        async def add_nothing(
            request: Request, call_next: Callable[[Request], Awaitable[Response]]
        ) -> Response:
            return await call_next(request)

    return app


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def leave(port: int | None, path: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await reader.readuntil(b"w3 ")
    writer.close()


@pytest.mark.parametrize("middleware", [False, True], ids=["plain", "middleware"])
async def test_the_request_of_a_client_that_left_is_closed(middleware: bool, no_collector: None) -> None:
    async with (
        ModelServer(answer=ANSWER, record=False) as model,
        serving(application(model.base_url, middleware)) as url,
    ):
        port = urlsplit(url).port
        paths = (*PATHS, *WAITS)
        await asyncio.gather(*(leave(port, path) for path in paths for _ in range(LEAVERS)))
        everybody = LEAVERS * len(paths)
        await model.wait_for(lambda counts: counts.abandoned > 0.7 * everybody, timeout=60)
        # A route that is cancelled while it passes a piece on is suspended at its `yield`, as it is while a
        # slow client reads. That nobody goes on with it, only the collector finds out.
        gc.collect()
        await model.wait_for(lambda counts: counts.abandoned == everybody, timeout=20)
        assert model.statistics.answered == 0
