"""The client seam: whatever stands in `service.client` serves every method, and blocks no loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import openai
import pytest

from arbitrageai_native import AsyncOpenAI, LLMService, OpenAI, exceptions, llm_health_check
from arbitrageai_native.exceptions import CircuitBreakerError
from arbitrageai_native.llm import injected
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import DONE, FaultyServer, chunk

Serve = Callable[..., FaultyServer]


def completion(text: str) -> Any:
    message = SimpleNamespace(content=text)
    usage = SimpleNamespace(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    return SimpleNamespace(choices=[SimpleNamespace(message=message)], model="theirs", usage=usage)


def part(text: str | None) -> Any:
    return SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(content=text))])


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> LLMService:
    monkeypatch.setattr(llm_health_check, "_global_health_checker", None)
    service = LLMService(base_url="http://localhost:1/v1", api_key=KEY, model="m")
    service.client = MagicMock()
    service.client.chat.completions.create.return_value = completion("mocked")
    return service


async def test_a_mock_is_called_once_as_the_original_called_it(mocked: LLMService) -> None:
    for result in (mocked.complete("hi", top_p=0.5), await mocked.complete_async("hi", top_p=0.5)):
        assert result.pop("response_time_ms") >= 0
        assert result == {
            "content": "mocked",
            "model": "theirs",
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
            "finish_reason": None,
            "stealth_mode_used": False,
        }
    create = mocked.client.chat.completions.create
    assert create.call_count == 2
    create.assert_called_with(
        model="m",
        messages=[{"role": "user", "content": "hi"}],
        temperature=0.7,
        max_tokens=1000,
        top_p=0.5,
        timeout=30.0,
    )


async def test_a_method_that_was_replaced_on_the_native_client_is_called(serve: Serve) -> None:
    server = serve(faulty.answer())
    for replaced in (MagicMock(return_value=completion("new")), AsyncMock(return_value=completion("new"))):
        service = LLMService(base_url=server.base_url, api_key=KEY)
        service.client.chat.completions.create = replaced
        assert service.complete("hi")["content"] == "new"
        assert (await service.complete_async("hi"))["content"] == "new"
        assert replaced.call_count == 2
    assert server.requests == []


async def test_a_slow_synchronous_client_does_not_block_the_loop(mocked: LLMService) -> None:
    def slow(**_: Any) -> Any:
        time.sleep(0.5)
        return completion("slow")

    mocked.client.chat.completions.create = slow
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    started = time.monotonic()
    results = await asyncio.gather(*(mocked.complete_async("hi") for _ in range(20)))
    assert time.monotonic() - started < 9  # one after the other takes 10 s
    ticker.cancel()
    assert [result["content"] for result in results] == ["slow"] * 20
    assert ticks > 2


async def test_a_missing_usage_gives_zeros(mocked: LLMService) -> None:
    answer = completion("x")
    answer.usage = None
    mocked.client.chat.completions.create.return_value = answer
    expected = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    assert mocked.complete("hi")["usage"] == expected
    assert (await mocked.complete_async("hi"))["usage"] == expected


async def test_all_of_a_foreign_clients_exceptions_count_and_open_the_circuit(mocked: LLMService) -> None:
    error = ValueError("theirs")
    mocked.client.chat.completions.create.side_effect = error
    with pytest.raises(ValueError, match="theirs") as caught:
        mocked.complete("hi")
    assert caught.value is error
    for _ in range(2):
        with pytest.raises(ValueError, match="theirs"):
            await mocked.complete_async("hi")
    for call in (lambda: mocked.complete("hi"), lambda: list(mocked.complete_streaming("hi"))):
        with pytest.raises(CircuitBreakerError):
            call()
    with pytest.raises(CircuitBreakerError):
        await mocked.complete_async("hi")
    assert mocked.client.chat.completions.create.call_count == 3
    assert mocked.metrics()["failures"]["foreign"] == 3


async def test_a_cancelled_foreign_call_gives_the_probe_back(mocked: LLMService) -> None:
    metrics = mocked._health_checker.get_health_status(mocked.base_url)  # type: ignore[union-attr]
    metrics.state = llm_health_check.CircuitState.HALF_OPEN  # type: ignore[union-attr]
    started = asyncio.Event()

    async def endless(**_: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    create = mocked.client.chat.completions.create
    mocked.client.chat.completions.create = endless
    task = asyncio.create_task(mocked.complete_async("hi"))
    await started.wait()
    with pytest.raises(CircuitBreakerError):
        await mocked.complete_async("hi")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    mocked.client.chat.completions.create = create
    assert (await mocked.complete_async("hi"))["content"] == "mocked"


async def test_a_foreign_call_has_a_deadline(mocked: LLMService) -> None:
    async def endless(**_: Any) -> None:
        await asyncio.Event().wait()

    mocked.client.chat.completions.create = endless
    with pytest.raises(exceptions.APITimeoutError):
        await mocked.complete_async("hi", deadline=0.05)


@pytest.mark.parametrize(("wait", "deadline"), [(5.0, 0.1), (0.2, 0.4)])
async def test_a_foreign_calls_deadline_covers_its_stealth_wait(
    wait: float, deadline: float, mocked: LLMService
) -> None:
    client = LLMService(base_url="http://somewhere/v1", api_key=KEY, stealth_range=(wait, wait))
    client.client = mocked.client

    async def endless(**_: Any) -> None:
        await asyncio.Event().wait()

    client.client.chat.completions.create = endless
    started = time.monotonic()
    with pytest.raises(exceptions.APITimeoutError, match="deadline"):
        await client.complete_async("hi", stealth_mode=True, deadline=deadline)
    assert time.monotonic() - started < deadline + 5


async def test_foreign_streams_of_either_kind_serve_both_kinds_of_iteration(mocked: LLMService) -> None:
    texts = ["a", "", None, "b"]

    async def asynchronous() -> AsyncIterator[Any]:
        for text in texts:
            yield part(text)

    def synchronous() -> Iterator[Any]:
        yield from (part(text) for text in texts)

    for make in (synchronous, asynchronous, lambda: [part(text) for text in texts]):
        create = mocked.client.chat.completions.create
        create.side_effect = lambda make=make, **_: make()
        assert list(mocked.complete_streaming("hi")) == ["a", "b"]
        assert create.call_args.kwargs["stream"] is True
        assert [piece async for piece in mocked.complete_streaming_async("hi")] == ["a", "b"]


@pytest.mark.holds_the_loop("OpenAI's clients read the certificates when they are made")
async def test_openais_own_clients_serve_every_method(serve: Serve) -> None:
    plain = serve(faulty.answer())
    streaming = serve(faulty.stream(chunk("a"), chunk("b"), chunk(None, "stop"), DONE))
    for make in (openai.OpenAI, openai.AsyncOpenAI):
        for server in (plain, streaming):
            service = LLMService(base_url="http://nowhere/v1", api_key=KEY)
            service.client = make(base_url=server.base_url, api_key=KEY)
            if server is plain:
                # Its blocking calls run on another loop, and such a client belongs to one.
                if make is openai.OpenAI:
                    assert service.complete("hi", raw=True)["raw"]["id"] == "c-1"
                assert (await service.complete_async("hi"))["content"] == "hello"
            else:
                if make is openai.OpenAI:
                    assert list(service.complete_streaming("hi")) == ["a", "b"]
                pieces = service.complete_streaming_async("hi")
                assert [piece async for piece in pieces] == ["a", "b"]
                assert (pieces.model, pieces.finish_reason) == ("served-model", "stop")
            closed = service.client.close()
            if closed is not None:
                await closed


def test_an_asynchronous_client_serves_the_blocking_methods(serve: Serve) -> None:
    service = LLMService(base_url="http://nowhere/v1", api_key=KEY)
    server = serve(faulty.answer(), faulty.answer(), faulty.stream(chunk("a"), chunk(None, "stop"), DONE))
    service.client = openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY)
    assert [service.complete("hi")["content"] for _ in range(2)] == ["hello"] * 2
    assert list(service.complete_streaming("hi")) == ["a"]
    injected.wait_for(service.client.close())


# The native clients


async def test_native_clients_have_openais_shape(serve: Serve) -> None:
    server = serve(faulty.answer())
    arguments: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    with OpenAI(base_url=server.base_url, api_key=KEY) as client:
        answer = client.chat.completions.create(**arguments)
    assert answer.choices[0].message.content == "hello"
    assert (answer.model, answer.usage.total_tokens) == ("served-model", 7)
    assert answer.choices[0].message.tool_calls is None
    assert answer.model_dump() == faulty.completion()
    assert answer["model"] == "served-model"
    with pytest.raises(AttributeError, match="nonsense"):
        _ = answer.nonsense
    async with AsyncOpenAI(base_url=server.base_url, api_key=KEY) as client:
        assert await client.chat.completions.create(**arguments) == answer
    assert server.requests[0].json == arguments
    with pytest.raises(TypeError, match="model"):
        OpenAI(base_url=server.base_url, api_key=KEY).chat.completions.create(messages=[])


async def test_native_clients_stream_chunks(serve: Serve) -> None:
    server = serve(faulty.stream(chunk("a"), chunk("b"), chunk(None, "stop"), DONE))
    arguments: dict[str, Any] = {"model": "m", "messages": [], "stream": True}
    chunks = list(OpenAI(base_url=server.base_url, api_key=KEY).chat.completions.create(**arguments))
    assert [part.choices[0].delta.content for part in chunks] == ["a", "b", None]
    client = AsyncOpenAI(base_url=server.base_url, api_key=KEY)
    stream = await client.chat.completions.create(**arguments)
    assert [part async for part in stream] == chunks
    assert stream.finish_reason == "stop"


def test_a_native_client_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(exceptions.OpenAIError, match="OPENAI_API_KEY"):
        OpenAI()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://environment/v1")
    assert repr(OpenAI()) == "OpenAI(base_url='http://environment/v1')"


async def test_an_asynchronous_native_client_may_be_the_services(serve: Serve) -> None:
    service = LLMService(base_url="http://nowhere/v1", api_key=KEY)
    service.client = AsyncOpenAI(base_url=serve(faulty.answer()).base_url, api_key=KEY)
    assert service.complete("hi")["content"] == "hello"
    assert (await service.complete_async("hi"))["content"] == "hello"
