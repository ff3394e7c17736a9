"""`llm_service`: clients put in the place of `service.client`, sentence by sentence."""

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock, patch

import openai
import pytest

from arbitrageai_native.testing import Failure, ModelServer
from testing_support.keys import KEY

LOCAL = "http://localhost:9/v1"


def answer(content: str | None = "from the mock") -> SimpleNamespace:
    """What a client of OpenAI's shape answers."""
    return SimpleNamespace(
        choices=[SimpleNamespace(message=SimpleNamespace(content=content))],
        model="mocked-model",
        usage=SimpleNamespace(prompt_tokens=1, completion_tokens=2, total_tokens=3),
    )


def chunk(content: str | None) -> SimpleNamespace:
    return SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(content=content))])


@pytest.fixture
def client() -> MagicMock:
    """A mock of OpenAI's shape that answers."""
    client = MagicMock()
    client.chat.completions.create.return_value = answer()
    return client


@pytest.fixture
def mocked(llm_service: Any, client: MagicMock) -> Any:
    """A service whose client was replaced by assignment."""
    service = llm_service.LLMService(base_url=LOCAL, api_key=KEY, enable_circuit_breaker=False)
    service.client = client
    return service


@pytest.fixture
def guarded(llm_service: Any, client: MagicMock) -> Any:
    """As `mocked`, with a breaker."""
    service = llm_service.LLMService(base_url=LOCAL, api_key=KEY)
    service.client = client
    return service


def test_the_default_client_has_the_sdks_shape(service: Any) -> None:
    response = service.client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hello"}], temperature=0.1, max_tokens=5, timeout=5
    )
    assert response.choices[0].message.content == "hello"
    assert response.model == "m"
    assert response.usage.prompt_tokens == 1


def test_the_default_client_streams(service: Any) -> None:
    chunks = service.client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hello"}], stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "hello"


def test_the_default_client_is_made_by_the_modules_openai(llm_service: Any) -> None:
    assert isinstance(llm_service.LLMService().client, llm_service.OpenAI)


def test_a_patched_openai_serves_every_method(llm_service: Any, client: MagicMock) -> None:
    with patch(f"{llm_service.__name__}.OpenAI", return_value=client):
        service = llm_service.LLMService(base_url="http://model.test/v1")
        assert service.complete_with_fallback("p")["content"] == "from the mock"
    assert service.complete("p")["content"] == "from the mock"
    assert asyncio.run(service.complete_async("p"))["content"] == "from the mock"
    client.chat.completions.create.return_value = iter([chunk("one"), chunk(None), chunk("two")])
    assert list(service.complete_streaming("p")) == ["one", "two"]


def test_complete_through_an_assigned_mock(mocked: Any, client: MagicMock) -> None:
    result = mocked.complete("hello", temperature=0.2, max_tokens=5, system_prompt="s", seed=7)
    assert isinstance(result.pop("response_time_ms"), float)
    assert result.pop("finish_reason", None) is None  # what this package adds
    assert result == {
        "content": "from the mock",
        "model": "mocked-model",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "stealth_mode_used": False,
    }
    client.chat.completions.create.assert_called_once_with(
        model="gpt-4o-mini",
        messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}],
        temperature=0.2,
        max_tokens=5,
        timeout=30,
        seed=7,
    )


async def test_complete_async_through_an_assigned_mock(mocked: Any, client: MagicMock) -> None:
    result = await mocked.complete_async("hello", timeout=3)
    assert (result["content"], result["model"]) == ("from the mock", "mocked-model")
    client.chat.completions.create.assert_called_once_with(
        model="gpt-4o-mini",
        messages=[{"role": "user", "content": "hello"}],
        temperature=0.7,
        max_tokens=1000,
        timeout=3,
    )


def test_a_bare_mock_answers_with_what_it_has(mocked: Any) -> None:
    mocked.client = MagicMock()
    mocked.client.chat.completions.create.return_value.choices[0].message.content = "deep"
    assert mocked.complete("p")["content"] == "deep"


def test_a_mock_put_onto_the_default_clients_create(service: Any, server: ModelServer) -> None:
    with patch.object(service.client.chat.completions, "create", return_value=answer()) as create:
        assert service.complete("p")["content"] == "from the mock"
        assert asyncio.run(service.complete_async("p"))["content"] == "from the mock"
    assert create.call_count == 2
    assert not server.requests


def test_streaming_through_an_assigned_mock(mocked: Any, client: MagicMock) -> None:
    client.chat.completions.create.return_value = [chunk("a"), chunk(""), chunk(None), chunk("b")]
    assert list(mocked.complete_streaming("p")) == ["a", "b"]
    assert client.chat.completions.create.call_args.kwargs["stream"] is True


@pytest.mark.better(raises=openai.OpenAIError)  # there each attempt has a client of its own
def test_fallback_through_an_assigned_mock(mocked: Any, client: MagicMock, llm_service: Any) -> None:
    client.chat.completions.create.side_effect = [OSError("gone"), answer("second")]
    with patch(f"{llm_service.__name__}.time.sleep"):
        result = mocked.complete_with_fallback("p")
    assert (result["content"], result["attempt"]) == ("second", 1)


def test_an_injected_client_is_called_once_per_call(mocked: Any, client: MagicMock) -> None:
    client.chat.completions.create.side_effect = ConnectionError("gone")
    with pytest.raises(ConnectionError, match="gone"):
        mocked.complete("p")
    assert client.chat.completions.create.call_count == 1
    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(mocked.complete_async("p"))
    assert client.chat.completions.create.call_count == 2


def test_an_injected_client_does_its_own_retries(mocked: Any, server: ModelServer) -> None:
    mocked.client = openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=1)
    server.script(*[Failure(500, headers={"retry-after-ms": "1"})] * 3)
    with mocked.client, pytest.raises(openai.InternalServerError):
        mocked.complete("p")
    assert len(server.requests) == 2


async def test_the_sdks_synchronous_client(mocked: Any, server: ModelServer) -> None:
    with openai.OpenAI(base_url=server.base_url, api_key=KEY) as mocked.client:
        assert (await mocked.complete_async("one"))["content"] == "one"
        assert mocked.complete("two")["content"] == "two"
        assert "".join(mocked.complete_streaming("three")) == "three"


@pytest.mark.better(raises=AttributeError)
async def test_the_sdks_asynchronous_client(mocked: Any, server: ModelServer) -> None:
    async with openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY) as mocked.client:
        assert (await mocked.complete_async("one"))["content"] == "one"
        pieces = [piece async for piece in mocked.complete_streaming_async("two")]
        assert "".join(pieces) == "two"


@pytest.mark.better(raises=AttributeError)
async def test_an_awaitable_answer_is_awaited(mocked: Any) -> None:
    mocked.client = MagicMock()
    mocked.client.chat.completions.create = AsyncMock(return_value=answer())
    assert (await mocked.complete_async("p"))["content"] == "from the mock"


@pytest.mark.better(raises=AttributeError)
async def test_an_asynchronous_stream_of_an_injected_client(mocked: Any) -> None:
    async def chunks() -> AsyncIterator[SimpleNamespace]:
        yield chunk("a")
        yield chunk(None)
        yield chunk("b")

    mocked.client = MagicMock()
    mocked.client.chat.completions.create = AsyncMock(return_value=chunks())
    assert [piece async for piece in mocked.complete_streaming_async("p")] == ["a", "b"]


@pytest.mark.better
async def test_complete_async_with_a_slow_synchronous_client_does_not_block_the_loop(
    mocked: Any, client: MagicMock
) -> None:
    def slow(**_: Any) -> SimpleNamespace:
        time.sleep(1)
        return answer()

    client.chat.completions.create.side_effect = slow
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    assert (await mocked.complete_async("p"))["content"] == "from the mock"
    await asyncio.sleep(0.05)
    ticker.cancel()
    assert longest < 0.5


def test_the_breaker_counts_an_injected_clients_failures(
    guarded: Any, client: MagicMock, health: Any, llm_service: Any
) -> None:
    client.chat.completions.create.side_effect = ValueError("anything")
    for _ in range(3):
        with pytest.raises(ValueError, match="anything"):
            guarded.complete("p")
    assert health.get_health_checker().get_health_status(LOCAL).state is health.CircuitState.OPEN
    with pytest.raises(llm_service.CircuitBreakerError):
        guarded.complete("p")
    assert client.chat.completions.create.call_count == 3


async def test_the_breaker_counts_an_injected_clients_successes(guarded: Any, health: Any) -> None:
    await guarded.complete_async("p")
    guarded.complete("p")
    metrics = health.get_health_checker().get_health_status(LOCAL)
    assert (metrics.total_requests, metrics.total_failures) == (2, 0)
    assert len(metrics.response_times) == 2


async def test_the_stealth_delay_with_an_injected_client(mocked: Any, llm_service: Any) -> None:
    with patch(f"{llm_service.__name__}.random.uniform", return_value=0.2):
        start = time.monotonic()
        await mocked.complete_async("p", stealth_mode=True)
    assert time.monotonic() - start >= 0.19


def test_a_checker_put_in_the_place_of_the_services(mocked: Any, llm_service: Any) -> None:
    mocked._health_checker = MagicMock()
    mocked._health_checker.should_allow_request.return_value = False
    with pytest.raises(llm_service.CircuitBreakerError):
        mocked.complete("p")
    mocked._health_checker.should_allow_request.return_value = True
    mocked.complete("p")
    mocked._health_checker.record_success.assert_called_once()
