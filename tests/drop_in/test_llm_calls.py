"""`llm_service`: `complete` and `complete_async`, requests, results, delays, errors, sentence by sentence."""

import asyncio
import inspect
import time
import warnings
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any
from unittest.mock import AsyncMock, MagicMock, patch

import pytest

from arbitrageai_native.testing import Answer, Failure, ModelServer
from testing_support.keys import KEY
from testing_support.machine import Stopwatch

Call = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture(params=["complete", "complete_async"])
def call(request: pytest.FixtureRequest, service: Any) -> Call:
    """Either method, as a coroutine function; the blocking one runs in a thread."""
    if request.param == "complete_async":
        method: Call = service.complete_async
        return method

    async def in_thread(*args: Any, **kwargs: Any) -> dict[str, Any]:
        result: dict[str, Any] = await asyncio.to_thread(service.complete, *args, **kwargs)
        return result

    return in_thread


@pytest.fixture
def no_stealth_delay(llm_service: Any) -> Any:
    """Let the stealth delay be 0.05 s, whatever is asked for; gives the mock of `random.uniform`."""
    with patch(f"{llm_service.__name__}.random.uniform", return_value=0.05) as uniform:
        yield uniform


async def test_the_result_is_a_plain_dict(call: Call, server: ModelServer) -> None:
    server.script(
        Answer(
            "hello",
            model="m-1",
            usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        )
    )
    result = await call("p")
    assert type(result) is dict
    assert isinstance(result.pop("response_time_ms"), float)
    assert result.pop("finish_reason", "stop") == "stop"  # what this package adds
    result.pop("request_id", None)
    assert result == {
        "content": "hello",
        "model": "m-1",
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        "stealth_mode_used": False,
    }
    assert type(result["usage"]) is dict


async def test_null_content_is_none(call: Call, server: ModelServer) -> None:
    server.script(Answer(None))
    assert (await call("p"))["content"] is None


async def test_the_request_by_default(call: Call, server: ModelServer) -> None:
    await call("hello")
    assert server.requests[0].json == {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": "hello"}],
        "temperature": 0.7,
        "max_tokens": 1000,
    }
    assert server.requests[0].api_key == KEY


async def test_the_system_message_comes_first(call: Call, server: ModelServer) -> None:
    await call("hello", system_prompt="be kind")
    assert server.requests[0].json["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
    ]


async def test_arguments_by_position(call: Call, server: ModelServer) -> None:
    await call("hello", 0.1, 5, "be kind")
    body = server.requests[0].json
    assert (body["temperature"], body["max_tokens"], body["messages"][0]["content"]) == (0.1, 5, "be kind")


@pytest.mark.better
async def test_an_explicit_temperature_of_0_is_sent(call: Call, server: ModelServer) -> None:
    await call("hello", temperature=0)
    assert server.requests[0].json["temperature"] == 0


async def test_further_keywords_go_into_the_body(call: Call, server: ModelServer) -> None:
    keywords = {
        "top_p": 0.5,
        "stop": ["\n"],
        "seed": 7,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "response_format": {"type": "json_object"},
    }
    await call("hello", **keywords)
    body = server.requests[0].json
    assert {name: body[name] for name in keywords} == keywords


async def test_extra_headers_are_headers(call: Call, server: ModelServer) -> None:
    await call("hello", extra_headers={"X-Trace": "t-1"})
    assert server.requests[0].headers["x-trace"] == "t-1"
    assert "extra_headers" not in server.requests[0].json


async def test_extra_query_is_in_the_query(call: Call, server: ModelServer) -> None:
    await call("hello", extra_query={"version": "2"})
    assert server.requests[0].query == "version=2"
    assert "extra_query" not in server.requests[0].json


async def test_extra_body_is_merged_into_the_body(call: Call, server: ModelServer) -> None:
    await call("hello", extra_body={"top_k": 3, "max_tokens": 9})
    body = server.requests[0].json
    assert (body["top_k"], body["max_tokens"]) == (3, 9)
    assert "extra_body" not in body


async def test_timeout_is_no_member_of_the_body_and_limits_each_try(
    service: Any, server: ModelServer, errors: Any
) -> None:
    server.script(*[Answer("late", delay=10)] * 3)
    watch = Stopwatch()
    with pytest.raises(errors.APITimeoutError):
        await service.complete_async("hello", timeout=0.2)
    assert 0.6 <= watch.seconds < 5 + watch.held_up
    assert len(server.requests) == 3
    assert all("timeout" not in request.json for request in server.requests)


async def test_each_try_has_30_seconds_by_default(service: Any) -> None:
    recorded = MagicMock()
    recorded.chat.completions.create.side_effect = ValueError("recorded")
    service.client = recorded
    with pytest.raises(ValueError, match="recorded"):
        await service.complete_async("p")
    assert recorded.chat.completions.create.call_args.kwargs["timeout"] == 30


@pytest.mark.better(raises=AttributeError)
async def test_a_missing_usage_gives_zeros(call: Call, server: ModelServer) -> None:
    server.script(Answer("hello", usage={}))
    assert (await call("p"))["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


# Stealth


def test_a_client_that_is_put_in_during_the_stealth_delay_makes_the_call(
    llm_service: Any, service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MagicMock()
    client.chat.completions.create.return_value.choices[0].message.content = "from the new one"
    monkeypatch.setattr(llm_service.time, "sleep", lambda _seconds: setattr(service, "client", client))
    assert service.complete("p", stealth_mode=True)["content"] == "from the new one"


@pytest.mark.usefixtures("no_stealth_delay")
def test_complete_says_that_stealth_mode_was_used(service: Any) -> None:
    assert service.complete("p", stealth_mode=True)["stealth_mode_used"] is True
    assert service.complete("p")["stealth_mode_used"] is False


@pytest.mark.better
@pytest.mark.usefixtures("no_stealth_delay")
async def test_complete_async_says_that_stealth_mode_was_used(service: Any) -> None:
    assert (await service.complete_async("p", stealth_mode=True))["stealth_mode_used"] is True


def test_the_stealth_delay_of_complete_is_one_sleep_of_2_to_5_seconds(service: Any, llm_service: Any) -> None:
    waits = []
    with patch(f"{llm_service.__name__}.time.sleep") as sleep:
        for _ in range(20):
            service.complete("p", stealth_mode=True)
            ((seconds,), keywords) = sleep.call_args
            waits.append(seconds)
            assert not keywords
    assert sleep.call_count == 20
    assert all(2 <= seconds <= 5 for seconds in waits)
    assert len(set(waits)) > 10


def test_without_stealth_mode_nothing_sleeps(service: Any, llm_service: Any) -> None:
    with patch(f"{llm_service.__name__}.time.sleep") as sleep:
        service.complete("p")
    sleep.assert_not_called()


def test_the_delay_comes_before_the_request(service: Any, llm_service: Any, server: ModelServer) -> None:
    asleep = patch(f"{llm_service.__name__}.time.sleep", side_effect=KeyError("asleep"))
    with asleep, pytest.raises(KeyError, match="asleep"):
        service.complete("p", stealth_mode=True)
    assert not server.requests


async def test_the_stealth_delay_of_complete_async(service: Any, server: ModelServer) -> None:
    begun = time.monotonic()
    await service.complete_async("p", stealth_mode=True)
    assert 1.99 <= server.requests[0].received_at - begun <= 6


async def test_the_stealth_delay_of_complete_async_is_a_uniform_random_number(
    service: Any, no_stealth_delay: Any
) -> None:
    await service.complete_async("p", stealth_mode=True)
    no_stealth_delay.assert_called_once_with(2, 5)


async def test_response_time_leaves_the_delay_out(call: Call, server: ModelServer, llm_service: Any) -> None:
    server.script(Answer("hello", delay=0.05))
    with patch(f"{llm_service.__name__}.random.uniform", return_value=1.0):
        result = await call("p", stealth_mode=True)
    assert 45 <= result["response_time_ms"] < 900


@pytest.mark.usefixtures("no_stealth_delay")
async def test_complete_with_stealth_mode_under_a_running_loop_warns_and_goes_on(service: Any) -> None:
    with pytest.warns(RuntimeWarning, match="complete_async") as warned:
        result = service.complete("p", stealth_mode=True)
    assert result["content"] == "p"
    assert warned[0].filename == __file__


@pytest.mark.usefixtures("no_stealth_delay")
def test_complete_with_stealth_mode_warns_only_under_a_running_loop(service: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        service.complete("p", stealth_mode=True)


# Coroutine functions


def test_complete_async_is_a_coroutine_function(llm_service: Any) -> None:
    assert inspect.iscoroutinefunction(llm_service.LLMService.complete_async)
    assert inspect.iscoroutinefunction(llm_service.LLMService().complete_async)


async def test_patching_complete_async_makes_an_async_mock(llm_service: Any) -> None:
    with patch(f"{llm_service.__name__}.LLMService.complete_async") as mock:
        assert isinstance(mock, AsyncMock)
        mock.return_value = {"content": "mocked"}
        assert await llm_service.LLMService().complete_async("p") == {"content": "mocked"}


def test_complete_async_may_be_called_without_a_running_loop(service: Any) -> None:
    coroutine = service.complete_async("hello")
    assert inspect.iscoroutine(coroutine)
    assert asyncio.run(coroutine)["content"] == "hello"


async def test_tasks_and_task_groups_accept_what_complete_async_returns(service: Any) -> None:
    assert (await asyncio.create_task(service.complete_async("one")))["content"] == "one"
    if hasattr(asyncio, "TaskGroup"):  # newer than Python 3.10
        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.complete_async("two"))
        assert task.result()["content"] == "two"


async def test_nothing_starts_before_it_is_awaited(service: Any, server: ModelServer) -> None:
    coroutine = service.complete_async("never")
    await asyncio.sleep(0.05)
    coroutine.close()
    await service.complete_async("sent")
    assert [request.prompt for request in server.requests] == ["sent"]


def test_a_service_serves_one_loop_after_the_other(service: Any) -> None:
    for prompt in ("one", "two"):
        assert asyncio.run(service.complete_async(prompt))["content"] == prompt


@pytest.mark.better
async def test_complete_async_does_not_block_the_loop(service: Any, server: ModelServer) -> None:
    server.script(Answer("late", delay=0.5))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await service.complete_async("p")
    ticker.cancel()
    assert ticks >= 10


@pytest.mark.better
async def test_calls_run_at_the_same_time(service: Any, server: ModelServer) -> None:
    server.script(*[Answer("late", delay=0.2)] * 8)
    await asyncio.gather(*(service.complete_async("p") for _ in range(8)))
    assert server.statistics.peak_in_flight > 1


# Errors and retries


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_transient_statuses_are_tried_again_twice(call: Call, server: ModelServer, status: int) -> None:
    server.script(*[Failure(status, headers={"retry-after-ms": "1"})] * 2, Answer("third"))
    assert (await call("p"))["content"] == "third"
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_other_statuses_are_not_tried_again(
    call: Call, server: ModelServer, errors: Any, status: int
) -> None:
    server.script(Failure(status))
    with pytest.raises(errors.APIStatusError):
        await call("p")
    assert len(server.requests) == 1


async def test_after_two_retries_the_error_is_raised(call: Call, server: ModelServer, errors: Any) -> None:
    server.script(*[Failure(500, headers={"retry-after-ms": "1"})] * 4)
    with pytest.raises(errors.InternalServerError):
        await call("p")
    assert len(server.requests) == 3


async def test_the_waits_grow_from_half_a_second_with_jitter(service: Any, server: ModelServer) -> None:
    server.script(Failure(500), Failure(500), Answer("third"))
    await service.complete_async("p")
    first, second, third = (request.received_at for request in server.requests)
    assert 0.37 <= second - first <= 0.9
    assert 0.74 <= third - second <= 1.5


async def test_connection_errors_are_tried_again(service: Any, errors: Any, unused_tcp_port: int) -> None:
    service.client = type(service.client)(base_url=f"http://127.0.0.1:{unused_tcp_port}/v1", api_key=KEY)
    start = time.monotonic()
    with pytest.raises(errors.APIConnectionError):
        await service.complete_async("p")
    assert time.monotonic() - start >= 0.37 + 0.75


async def test_retry_after_in_seconds_is_obeyed(service: Any, server: ModelServer) -> None:
    server.script(Failure(429, headers={"Retry-After": "1"}))
    await service.complete_async("p")
    first, second = (request.received_at for request in server.requests)
    assert 0.99 <= second - first < 2


async def test_retry_after_as_a_date_is_obeyed(service: Any, server: ModelServer) -> None:
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=2.5), usegmt=True)
    server.script(Failure(429, headers={"Retry-After": soon}))
    await service.complete_async("p")
    first, second = (request.received_at for request in server.requests)
    assert 1 < second - first < 3.5


async def test_x_should_retry_is_obeyed(call: Call, server: ModelServer, errors: Any) -> None:
    server.script(Failure(500, headers={"x-should-retry": "false"}))
    with pytest.raises(errors.InternalServerError):
        await call("p")
    server.script(Failure(400, headers={"x-should-retry": "true", "retry-after-ms": "1"}))
    await call("p")
    assert len(server.requests) == 3


async def test_a_wait_over_120_seconds_is_not_made(call: Call, server: ModelServer, errors: Any) -> None:
    server.script(Failure(429, headers={"Retry-After": "121"}))
    with pytest.raises(errors.RateLimitError):
        await call("p")
    assert len(server.requests) == 1


def test_the_hierarchy_of_errors(errors: Any) -> None:
    assert issubclass(errors.APIError, errors.OpenAIError)
    assert issubclass(errors.APIConnectionError, errors.APIError)
    assert issubclass(errors.APITimeoutError, errors.APIConnectionError)
    assert issubclass(errors.APIStatusError, errors.APIError)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (503, "InternalServerError"),
    ],
)
async def test_statuses_have_their_errors(
    call: Call, server: ModelServer, errors: Any, status: int, name: str
) -> None:
    headers = {"x-request-id": "r-1", "x-should-retry": "false"}
    server.script(Failure(status, "no luck", headers=headers, code="c"))
    with pytest.raises(errors.APIStatusError) as caught:
        await call("p")
    assert type(caught.value) is getattr(errors, name)
    assert caught.value.status_code == status
    assert caught.value.request_id == "r-1"
    assert caught.value.body["code"] == "c"
    assert "no luck" in caught.value.message
    assert "no luck" in str(caught.value)
