"""What a user may write: type checkers find nothing in it."""

from __future__ import annotations

import asyncio
from typing import Any

import openai

import arbitrageai_native
from arbitrageai_native import AsyncOpenAI, BidLockManager, LLMService, OpenAI
from arbitrageai_native.exceptions import LockLostError, RateLimitError
from arbitrageai_native.llm.results import Completion, ServiceMetrics
from arbitrageai_native.llm.streams import AsyncStream, Stream


async def calls(service: LLMService) -> str:
    tool = {"type": "function", "function": {"name": "bid"}}
    answer = await service.complete_async(
        "hi", temperature=0, timeout=5, deadline=None, max_retries=3, tools=[tool], seed=1, stop=["."]
    )
    count: int = answer["usage"]["total_tokens"]
    for call in answer.get("tool_calls", []):
        print(call["function"]["arguments"])
    chat = await service.complete_async(messages=[{"role": "user", "content": "hi"}], raw=True)
    print(chat.get("raw"), count, chat["response_time_ms"] / 1000)
    await service.complete_async("hi", extra_body={"of_my_server": 1}, extra_headers={"x": "y"})
    keywords: dict[str, Any] = {"top_p": 0.5}
    await service.complete_async("hi", **keywords)
    fallen = await service.complete_with_fallback_async("hi", idle_timeout=3)
    print(fallen["attempt"], fallen["fallback_used"], fallen.get("original_error"))
    return (answer["content"] or "").upper()


def blocking_calls(service: LLMService) -> Completion:
    prompts: list[str | dict[str, Any]] = ["a", {"prompt": "b", "temperature": 0}]
    answers = service.complete_many(prompts, concurrency=2, max_tokens=5)
    print([answer["content"] for answer in answers if not isinstance(answer, Exception)])
    with service.complete_streaming("hi", top_p=1) as pieces:
        print("".join(pieces), pieces.finish_reason)
    service.complete_with_fallback("hi", logit_bias={50256: -100})
    metrics: ServiceMetrics = service.metrics()
    print(metrics["failures"]["timeout"], arbitrageai_native.metrics()["locks"]["held"])
    return service.complete("hi", stealth_mode=True)


async def streams(service: LLMService) -> None:
    async with service.complete_streaming_async("hi") as pieces:
        async for piece in pieces:
            print(piece.upper())
    usage = pieces.usage
    if usage is not None:
        print(usage["prompt_tokens"])


async def clients(client: OpenAI, other: AsyncOpenAI) -> None:
    messages = [{"role": "user", "content": "hi"}]
    answer = client.chat.completions.create(model="m", messages=messages, temperature=0, timeout=3)
    print(answer.choices[0].message.content)
    chunks: Stream[Any] = client.chat.completions.create(model="m", messages=messages, stream=True)
    print(list(chunks))
    later: AsyncStream[Any] = await other.chat.completions.create(model="m", messages=messages, stream=True)
    async for chunk in later:
        print(chunk.choices)
    print((await other.chat.completions.create(model="m", messages=messages)).usage)


def injected(service: LLMService) -> None:
    for client in (
        openai.OpenAI(api_key="k"),
        openai.AsyncOpenAI(api_key="k"),
        OpenAI(api_key="k"),
        AsyncOpenAI(api_key="k"),
    ):
        service.client = client


async def locks(manager: BidLockManager) -> None:
    async with manager.with_lock("upwork", "1", timeout=5) as lease:
        print(lease.fencing_token, lease.key)
    if await manager.acquire_lock("upwork", "1"):
        await manager.release_lock("upwork", "1")
    taken = await manager.try_lock("upwork", "1")
    if taken is not None:
        await taken.release()
    if held := await manager.try_lock("upwork", "1"):
        async with held as again:
            print(again.remaining)
    async with await manager.acquire_lease("upwork", "1") as lease:
        print(lease.holder_id)


def decorated(manager: BidLockManager) -> None:
    @manager.with_lock("upwork", "1", timeout=5)
    async def place(posting: str, *, price: int = 1) -> str:
        return posting * price

    @manager.with_lock_sync("upwork", "1")
    def place_in_a_thread(posting: str) -> str:
        return posting

    async def use() -> None:
        print((await place("a", price=2)).upper(), place_in_a_thread("b").upper())
        # The parameters keep their types: otherwise mypy would call these comments superfluous.
        await place(5)  # type: ignore[arg-type]
        place_in_a_thread(5)  # type: ignore[arg-type]

    asyncio.run(use())


async def errors(service: LLMService) -> None:
    try:
        await service.complete_async("hi")
    except RateLimitError as error:
        print(error.status_code, error.request_id)
    except LockLostError:
        raise


class Loud(LLMService):
    """A subclass whose methods know fewer keywords by name."""

    def complete(self, *args: Any, **kwargs: Any) -> Completion:
        """Shout."""
        answer = super().complete(*args, **kwargs)
        answer["content"] = f"{answer['content']}!"
        return answer


if __name__ == "__main__":
    asyncio.run(streams(Loud.with_local("llama3.2", timeout=5)))
    BidLockManager(ttl=60, database_url="sqlite:///locks.db")
