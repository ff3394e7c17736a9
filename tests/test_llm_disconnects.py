"""When a client disconnects during a stream, the request to the model server is closed.

This holds with and without the garbage collector.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.requests import Request
from starlette.responses import Response

from arbitrageai_native import AsyncOpenAI, LLMService
from arbitrageai_native.llm_health_check import LLMHealthChecker
from arbitrageai_native.testing import Answer, ModelServer
from tests.keys import KEY
from tests.servers.uvicorn import serving

pytestmark = pytest.mark.holds_the_loop("uvicorn and FastAPI run in it")

LEAVERS = 10
PATHS = ("/documented", "/checker", "/generator", "/expression", "/client")

# The answer takes a minute, longer than the test waits, so its end does not close the request.
ANSWER = Answer(pieces=[f"w{number} " for number in range(600)], piece_delay=0.1)


class OtherChecker(LLMHealthChecker):
    """A subclass of the package's checker, so that Python code counts the streams."""


def application(base_url: str, middleware: bool) -> FastAPI:
    service = LLMService(base_url, KEY, model="m", enable_circuit_breaker=False)
    counted = LLMService(base_url, KEY, model="m", enable_circuit_breaker=False)
    counted._health_checker = OtherChecker()
    client = AsyncOpenAI(base_url=base_url, api_key=KEY)
    app = FastAPI()

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
        for path in PATHS:
            await asyncio.gather(*(leave(port, path) for _ in range(LEAVERS)))
        everybody = LEAVERS * len(PATHS)
        await model.wait_for(lambda counts: counts.abandoned == everybody)
        assert model.statistics.answered == 0
