"""`unblock`: a blocking method of the service, called in a task, lets the event loop go on."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest

from arbitrageai_native import AsyncOpenAI, LLMService, OpenAI
from arbitrageai_native.llm import unblock
from arbitrageai_native.llm.unblock.portal import Worker, suspended
from arbitrageai_native.testing import ModelServer
from testing_support.keys import KEY
from testing_support.loops import LoopFactory

SECONDS = 0.3
WARNING = "arbitrageai_native.llm"


@pytest.fixture(autouse=True)
def unblocked() -> Iterator[None]:
    unblock.install()
    yield
    unblock.uninstall()


@pytest.fixture(scope="module")
def slow() -> Iterator[ModelServer]:
    """A model server that takes its time."""
    with ModelServer(answer="one two", delay=SECONDS) as server:
        yield server


def service_of(server: ModelServer, **settings: Any) -> LLMService:
    return LLMService(
        server.base_url, KEY, enable_circuit_breaker=False, **{"stealth_range": (0.1, 0.1), **settings}
    )


@pytest.fixture
def service(slow: ModelServer) -> LLMService:
    return service_of(slow)


def run(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Awaitable[Any]) -> Any:
    loop = new_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def most_at_once(calls: list[Callable[[], Any]]) -> tuple[list[Any], int]:
    """Make each call in a task; return the results, and how many calls were under way together."""
    under_way = most = 0

    async def one(call: Callable[[], Any]) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        result = call()
        under_way -= 1
        return result

    return await asyncio.gather(*map(one, calls)), most


def workers() -> int:
    gc.collect()
    return sum(type(found) is Worker for found in gc.get_objects())


# What goes on


def of(service: LLMService, method: str) -> Any:
    if method == "complete":
        return service.complete("x")["content"]
    if method == "stealth":
        found = service.complete("x", stealth_mode=True)
        assert found["stealth_mode_used"]
        return found["content"]
    if method == "fallback":
        return service.complete_with_fallback("x")["content"]
    if method == "many":
        (result,) = service.complete_many(["x"])
        return result["content"]  # type: ignore[index]
    if method == "streaming":
        return "".join(service.complete_streaming("x"))
    with OpenAI(base_url=service.base_url, api_key=KEY) as client:
        message: Any = {"role": "user", "content": "x"}
        return client.chat.completions.create(model="m", messages=[message]).choices[0].message.content


@pytest.mark.parametrize("method", ["complete", "stealth", "fallback", "many", "streaming", "client"])
def test_the_loop_goes_on_while_a_blocking_method_waits(
    method: str, service: LLMService, new_loop: LoopFactory, caplog: pytest.LogCaptureFixture
) -> None:
    results, most = run(new_loop, most_at_once([lambda: of(service, method)] * 5))
    assert results == ["one two"] * 5
    assert most == 5
    assert service.metrics()["blocking_calls_in_loop"] == 0
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_the_waits_between_the_attempts_of_a_fallback(new_loop: LoopFactory) -> None:
    broken = LLMService(
        "http://127.0.0.1:9/v1",
        KEY,
        max_retries=0,
        enable_circuit_breaker=False,
        enable_fallback=False,
        fallback_delays=(0.2, 0.2),
    )

    def call() -> str:
        with pytest.raises(Exception, match="Connection error"):
            broken.complete_with_fallback("x")
        return "failed"

    assert run(new_loop, most_at_once([call] * 3)) == (["failed"] * 3, 3)


def test_an_injected_synchronous_client_runs_in_a_worker_thread(service: LLMService) -> None:
    threads = []

    class Injected:
        chat: Any = None

        def create(self, **_: Any) -> Any:
            threads.append(threading.current_thread())
            time.sleep(0.1)
            with OpenAI(base_url=service.base_url, api_key=KEY) as client:
                return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])

    injected: Any = Injected()
    injected.chat = type("Chat", (), {"completions": injected})
    service.client = injected
    results, most = asyncio.run(most_at_once([lambda: service.complete("x")["content"]] * 3))
    assert (results, most) == (["one two"] * 3, 3)
    assert threading.main_thread() not in threads


def test_an_injected_asynchronous_client(service: LLMService) -> None:
    service.client = AsyncOpenAI(base_url=service.base_url, api_key=KEY)
    service.client.chat = type("Chat", (), {"completions": service.client.chat.completions})()
    assert asyncio.run(most_at_once([lambda: service.complete("x")["content"]] * 3))[1] == 3


def test_a_patched_sleep_is_called(service: LLMService, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("arbitrageai_native.llm_service.time", type("T", (), {"sleep": slept.append}))

    async def main() -> None:
        service.complete("x", stealth_mode=True)

    asyncio.run(main())
    assert slept == [0.1]


# Kinds of tasks


async def in_task_group(calls: list[Callable[[], Any]]) -> list[Any]:
    results: list[Any] = []

    async def one(call: Callable[[], Any]) -> None:
        results.append(call())

    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(one, call)
    return results


def test_tasks_of_anyio(service: LLMService) -> None:
    started = time.monotonic()
    results = anyio.run(in_task_group, [lambda: service.complete("x")["content"]] * 20)
    assert results == ["one two"] * 20
    assert time.monotonic() - started < 20 * SECONDS


if sys.version_info >= (3, 11):

    def test_a_task_group(service: LLMService) -> None:
        async def one() -> str:
            return str(service.complete("x")["content"])

        async def main() -> list[str]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one()) for _ in range(3)]
            return [task.result() for task in tasks]

        assert asyncio.run(main()) == ["one two"] * 3
        assert service.metrics()["blocking_calls_in_loop"] == 0


def test_again_and_again(service: LLMService) -> None:
    for _ in range(3):
        assert asyncio.run(most_at_once([lambda: service.complete("x")] * 2))[1] == 2


@pytest.mark.parametrize("wraps", [False, True])
def test_a_task_factory_of_the_application(service: LLMService, new_loop: LoopFactory, wraps: bool) -> None:
    made: list[Any] = []

    async def wrapped(coroutine: Awaitable[Any]) -> Any:
        return await coroutine

    def factory(loop: Any, coroutine: Any, **keywords: Any) -> asyncio.Task[Any]:
        made.append(coroutine.__qualname__)
        return asyncio.Task(wrapped(coroutine) if wraps else coroutine, loop=loop, **keywords)

    async def main() -> Any:
        asyncio.get_running_loop().set_task_factory(factory)
        return await most_at_once([lambda: service.complete("x")] * 3)

    assert run(new_loop, main())[1] == 3
    assert made[:3] == ["most_at_once.<locals>.one"] * 3


if sys.version_info >= (3, 12):

    def test_the_eager_task_factory(service: LLMService) -> None:
        async def main() -> Any:
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            outer = asyncio.create_task(most_at_once([lambda: service.complete("x")] * 3))
            return await outer

        assert asyncio.run(main())[1] == 3
        assert service.metrics()["blocking_calls_in_loop"] == 0


def test_tasks_that_began_before(service: LLMService) -> None:
    unblock.uninstall()

    async def one(begin: asyncio.Event) -> str:
        await begin.wait()
        return str(service.complete("x")["content"])

    async def main() -> None:
        begin = asyncio.Event()
        tasks = [asyncio.create_task(one(begin)) for _ in range(3)]
        await asyncio.sleep(0)
        unblock.install()
        begin.set()
        started = time.monotonic()
        assert await asyncio.gather(*tasks) == ["one two"] * 3
        # The task that runs at the time has its portal after its next wait.
        assert service.complete("x")["content"] == "one two"
        assert time.monotonic() - started < 4 * SECONDS

    asyncio.run(main())
    assert service.metrics()["blocking_calls_in_loop"] == 0


def test_tasks_of_a_loop_in_another_thread_that_began_before(service: LLMService) -> None:
    unblock.uninstall()
    begun, begin = threading.Event(), threading.Event()
    results: list[Any] = []

    async def main() -> None:
        begun.set()
        await asyncio.to_thread(begin.wait)
        results.extend((await most_at_once([lambda: service.complete("x")] * 2), service.complete("x")))

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    begun.wait()
    unblock.install()
    begin.set()
    thread.join()
    assert results[0][1] == 2
    assert service.metrics()["blocking_calls_in_loop"] == 0


def test_threads_and_code_without_a_loop_block_as_before(
    service: LLMService, caplog: pytest.LogCaptureFixture
) -> None:
    assert service.complete("x")["content"] == "one two"

    async def main() -> Any:
        return await asyncio.to_thread(service.complete, "x")

    assert asyncio.run(main())["content"] == "one two"
    assert caplog.messages == []


# As in a coroutine


def test_a_cancellation_reaches_the_plain_function(service: LLMService, new_loop: LoopFactory) -> None:
    seen: list[Any] = []

    def plain() -> None:
        try:
            service.complete("x")
        except asyncio.CancelledError as error:
            seen.append(error)
            raise
        finally:
            seen.append(service.complete("y")["content"])  # it may await further, as a coroutine may

    async def main() -> None:
        async def one() -> None:
            plain()

        task = asyncio.create_task(one())
        await asyncio.sleep(SECONDS / 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(new_loop, main())
    assert isinstance(seen[0], asyncio.CancelledError)
    assert seen[1] == "one two"


def test_a_time_limit_reaches_the_plain_function(service: LLMService) -> None:
    async def one() -> None:
        service.complete("x")

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(one(), SECONDS / 3)

    asyncio.run(main())


def test_nested_calls(service: LLMService, slow: ModelServer) -> None:
    inner = service_of(slow)

    class Asking:
        """An asynchronous client whose method makes a blocking call."""

        chat: Any = None

        async def create(self, **keywords: Any) -> Any:
            assert inner.complete("x")["content"] == "one two"
            client = AsyncOpenAI(base_url=inner.base_url, api_key=KEY)
            return await client.chat.completions.create(**keywords)

    asking: Any = Asking()
    asking.chat = type("Chat", (), {"completions": asking})
    service.client = asking
    results, most = asyncio.run(most_at_once([lambda: service.complete("x")["content"]] * 3))
    assert (results, most) == (["one two"] * 3, 3)
    assert inner.metrics()["blocking_calls_in_loop"] == 0


def test_context_variables_and_the_current_task(service: LLMService) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    def plain(number: int) -> None:
        variable.set(number)
        task = asyncio.current_task()
        service.complete("x")
        assert variable.get() == number
        assert asyncio.current_task() is task
        assert asyncio.get_running_loop() is not None

        def in_another_context() -> None:
            variable.set(-number)
            service.complete("x")
            assert variable.get() == -number

        contextvars.copy_context().run(in_another_context)
        assert variable.get() == number

    async def one(number: int) -> int:
        plain(number)
        await asyncio.sleep(0)
        return variable.get()

    async def main() -> list[int]:
        return await asyncio.gather(*map(one, range(1, 6)))

    assert asyncio.run(main()) == [1, 2, 3, 4, 5]


def test_a_traceback_names_the_lines_in_between() -> None:
    broken = LLMService("http://127.0.0.1:9/v1", KEY, max_retries=0, enable_circuit_breaker=False)

    def plain() -> None:
        broken.complete("x")

    async def outermost() -> None:
        plain()

    async def main() -> None:
        try:
            await asyncio.create_task(outermost())
        except Exception as error:
            names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
            assert names.index("outermost") + 1 == names.index("plain")
            assert names.index("plain") + 1 == names.index("complete")
            assert "_serve" not in names
        else:
            pytest.fail("nothing was raised")

    asyncio.run(main())


def test_a_task_looks_as_before(service: LLMService) -> None:
    async def with_a_name() -> None:
        service.complete("x")

    async def main() -> None:
        task = asyncio.create_task(with_a_name())
        assert "with_a_name" in repr(task)
        await asyncio.sleep(SECONDS / 3)
        assert task.get_coro().__qualname__.endswith("with_a_name")  # type: ignore[union-attr]
        await task

    asyncio.run(main())


def test_a_stream_that_is_left_early_is_closed(service: LLMService) -> None:
    async def main() -> None:
        with service.complete_streaming("x") as pieces:
            assert next(pieces)
        assert list(pieces) == []

    asyncio.run(main())


def test_random_calls_and_cancellations_leave_nothing(new_loop: LoopFactory) -> None:
    chance = random.Random(20)
    with ModelServer(delay=0.02) as server:
        service = service_of(server, stealth_range=(0, 0.02))

        def nested(depth: int) -> None:
            method = chance.choice(("complete", "stealth", "many", "streaming"))
            try:
                of_random(service, method)
            except asyncio.CancelledError:
                if chance.random() < 0.5:
                    of_random(service, "complete")
                raise
            if depth:
                nested(depth - 1)

        async def one() -> None:
            for _ in range(chance.randrange(3)):
                nested(chance.randrange(3))
                await asyncio.sleep(0)

        async def main() -> None:
            tasks = [asyncio.create_task(one()) for _ in range(60)]
            for task in chance.sample(tasks, 30):
                await asyncio.sleep(chance.random() / 200)
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), result
            assert len(asyncio.all_tasks()) == 1

        for _ in range(2):
            run(new_loop, main())
            assert suspended == {}
            assert workers() <= threading.active_count()  # each thread keeps one
        assert service.metrics()["blocking_calls_in_loop"] == 0


def of_random(service: LLMService, method: str) -> None:
    if method == "streaming":
        for _ in service.complete_streaming("x"):
            pass
    elif method == "many":
        service.complete_many(["a", "b"])
    else:
        service.complete("x", stealth_mode=method == "stealth")
