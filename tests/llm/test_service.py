"""`LLMService` as code that was written for the original uses it."""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints
from unittest.mock import MagicMock, patch

import openai
import pytest

import arbitrageai_native
from arbitrageai_native import llm_health_check, llm_service
from arbitrageai_native.llm_health_check import CircuitBreakerError
from arbitrageai_native.llm_service import LLMService, ModelConfig
from testing_support.keys import KEY
from testing_support.machine import Stopwatch
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import FaultyServer

Serve = Callable[..., FaultyServer]

VARIABLES = (
    "API_KEY",
    "BASE_URL",
    "CLOUD_MODEL",
    "DISTILLED_MODEL_NAME",
    "LOCAL_API_KEY",
    "LOCAL_BASE_URL",
    "LOCAL_MODEL",
    "OLLAMA_URL",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "TASK_MODEL_MAP",
    "TASK_USE_LOCAL_MAP",
    "USE_LOCAL_BY_DEFAULT",
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(llm_service, "_default_model_config", None)
    monkeypatch.setattr(llm_health_check, "_global_health_checker", None)


def service(server: FaultyServer, **settings: Any) -> LLMService:
    return LLMService(base_url=server.base_url, api_key=KEY, **settings)


# The request and the result


async def test_of_content_in_parts_the_text_is_the_result(serve: Serve) -> None:
    parts = [{"type": "thinking", "thinking": []}, *({"type": "text", "text": text} for text in "ab")]
    answer = await service(serve(faulty.answer(faulty.completion(parts)))).complete_async("hi", raw=True)
    assert answer["content"] == "ab"
    assert answer["raw"]["choices"][0]["message"]["content"] == parts


async def test_a_completion_is_a_plain_dict(serve: Serve) -> None:
    client = service(serve(faulty.answer()))
    for result in (client.complete("hi"), await client.complete_async("hi")):
        assert type(result) is dict
        assert result.pop("response_time_ms") > 0
        assert result == {
            "content": "hello",
            "model": "served-model",
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            "finish_reason": "stop",
            "stealth_mode_used": False,
        }


def test_the_request_is_the_originals(serve: Serve) -> None:
    server = serve(faulty.answer())
    client = service(server, model="m", default_temperature=0.2, default_max_tokens=5)
    client.complete("hi")
    client.complete("hi", 0, 7, "be brief", top_p=0.5)
    first, second = server.requests
    assert (first.method, first.target) == ("POST", "/v1/chat/completions")
    assert first.header("authorization") == f"Bearer {KEY}"
    assert first.json == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.2,
        "max_tokens": 5,
    }
    assert second.json == {
        "model": "m",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
        "temperature": 0,
        "max_tokens": 7,
        "top_p": 0.5,
    }


def test_what_a_server_leaves_out_has_a_value(serve: Serve) -> None:
    body = {"choices": [{"message": {"content": None}}]}
    result = service(serve(faulty.answer(body)), model="asked").complete("hi")
    assert result["content"] is None
    assert result["model"] == "asked"
    assert result["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def test_a_whole_chat_with_tools_and_all_that_was_sent(serve: Serve) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "bid", "arguments": "{}"}}]
    body = faulty.completion(None, service_tier="x", big=2**63, small=-1, ratio=0.5, yes=True)
    body["choices"][0]["message"] |= {"tool_calls": calls, "reasoning_content": "hm"}
    server = serve(faulty.answer(body))
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    client = service(server)
    result = client.complete(messages=messages, tools=[{"type": "function"}], raw=True, system_prompt="s")
    assert result["tool_calls"] == calls
    assert result["raw"] == body
    assert server.requests[0].json["messages"] == [{"role": "system", "content": "s"}, *messages]
    assert "raw" not in server.requests[0].json
    assert "raw" not in client.complete(messages=messages)


def test_nothing_that_the_server_sends_is_lost(serve: Serve) -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}
    message = {"role": "assistant", "content": "a", "reasoning_content": "hm", "reasoning": {"x": [1, None]}}
    choices = [
        {"index": index, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
        for index in range(3)
    ]
    details = {"completion_tokens_details": {"reasoning_tokens": 9}}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, **details}
    body = faulty.completion(
        choices=choices, usage=usage, system_fingerprint="f", of_a_server_of_its_own=True
    )
    server = serve(faulty.answer(body))
    client = service(server)
    result = client.complete("hi", n=3, logprobs=True, top_logprobs=2, raw=True)
    assert result["raw"] == body
    assert {name: server.requests[0].json[name] for name in ("n", "logprobs", "top_logprobs")} == {
        "n": 3,
        "logprobs": True,
        "top_logprobs": 2,
    }
    answer = client.client.chat.completions.create(model="m", messages=[], n=3)
    assert answer.model_dump() == body
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.choices[2].logprobs.content[0].logprob == -0.5
    assert answer.choices[0].message.reasoning_content == "hm"
    assert answer.usage.completion_tokens_details.reasoning_tokens == 9


def test_headers_and_the_idempotency_key(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    server = serve(faulty.answer())
    client = service(server, default_headers={"X-A": "1", "X-B": "2"})
    client.complete("hi", extra_headers={"x-b": "3"}, idempotency_key="mine")
    client.complete("hi")
    client.complete("hi", idempotency_key=False)
    first, second, third = server.requests
    assert [first.header(name) for name in ("openai-organization", "x-a", "x-b")] == ["org", "1", "3"]
    assert first.header("idempotency-key") == "mine"
    assert len(second.header("idempotency-key") or "") == 36
    assert third.header("idempotency-key") is None


@pytest.mark.parametrize("nothing", [openai.NOT_GIVEN, openai.omit])
async def test_what_the_sdk_calls_not_given_is_left_out(nothing: Any, serve: Serve) -> None:
    server = serve(faulty.answer())
    client = service(server)
    keywords: dict[str, Any] = {"top_p": nothing, "timeout": nothing, "extra_headers": nothing, "seed": 0}
    positional: dict[str, Any] = {"temperature": nothing, "max_tokens": nothing, "system_prompt": nothing}
    await client.complete_async("hi", **keywords, **positional)
    await client.complete_with_fallback_async("hi", **keywords, **positional)
    client.client.chat.completions.create(model="m", messages=[], stream=nothing, **keywords)
    for request in server.requests:
        assert request.json["seed"] == 0
        assert not {"top_p", "timeout", "extra_headers", "stream"} & request.json.keys()
    assert len(server.requests) == 3
    assert server.requests[0].json["temperature"] == 0.7
    assert server.requests[0].json["max_tokens"] == 1000
    assert [message["role"] for message in server.requests[0].json["messages"]] == ["user"]


async def test_an_applications_own_class_of_that_name_is_not_left_out(serve: Serve) -> None:
    class Omit(str):
        """Shares only its name with the SDK's."""

    server = serve(faulty.answer())
    await service(server).complete_async("hi", user=Omit("me"))
    assert server.requests[0].json["user"] == "me"


def test_a_connection_is_used_again(serve: Serve) -> None:
    server = serve(faulty.answer())
    client = service(server)
    for _ in range(5):
        client.complete("hi")
        time.sleep(0.1)  # the connection goes back to the pool just after the answer was given
    assert server.connections == 1


# Stealth mode


def test_stealth_mode_waits_by_one_sleep_of_the_modules_time(serve: Serve) -> None:
    client = service(serve(faulty.answer()))
    with patch("arbitrageai_native.llm_service.time.sleep") as sleep:
        result = client.complete("hi", stealth_mode=True)
    sleep.assert_called_once()
    assert 2 <= sleep.call_args.args[0] <= 5
    assert result["stealth_mode_used"] is True


async def test_stealth_mode_of_the_asynchronous_call_is_no_part_of_the_response_time(serve: Serve) -> None:
    client = service(serve(faulty.answer()), stealth_range=(0.5, 0.6))
    watch = Stopwatch()
    result = await client.complete_async("hi", stealth_mode=True)
    assert 0.5 <= watch.seconds < 3 + watch.held_up
    assert result["stealth_mode_used"] is True
    assert result["response_time_ms"] < 400


async def test_ten_stealthy_calls_take_no_longer_than_the_longest(serve: Serve) -> None:
    client = service(serve(faulty.answer()))
    watch = Stopwatch()
    results = await asyncio.gather(*(client.complete_async("hi", stealth_mode=True) for _ in range(10)))
    assert 2 <= watch.seconds < 5.3 + watch.held_up
    assert len(results) == 10


async def test_stealth_mode_under_a_running_loop_warns_at_the_callers_line(serve: Serve) -> None:
    client = service(serve(faulty.answer()))
    with patch("arbitrageai_native.llm_service.time.sleep"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
        result = client.complete("hi", stealth_mode=True)
    (warning,) = [warning for warning in caught if issubclass(warning.category, RuntimeWarning)]
    assert "complete_async()" in str(warning.message)
    assert (warning.filename, warning.lineno) == (__file__, line)
    assert result["content"] == "hello"
    assert client.metrics()["blocking_calls_in_loop"] == 1


async def test_a_deadline_covers_the_stealth_wait(serve: Serve) -> None:
    client = service(serve(faulty.answer()), stealth_range=(5, 5))
    with pytest.raises(TimeoutError):
        await client.complete_async("hi", stealth_mode=True, deadline=0.2)


def test_a_deadline_covers_the_blocking_stealth_wait(serve: Serve) -> None:
    client = service(serve(faulty.answer()), stealth_range=(5, 5))
    with pytest.raises(TimeoutError), patch("arbitrageai_native.llm_service.time.sleep") as sleep:
        client.complete("hi", stealth_mode=True, deadline=0.2)
    assert sleep.call_args.args == (0.2,)


# Coroutines


def test_asynchronous_methods_are_coroutine_functions_that_start_nothing_before_they_are_awaited(
    serve: Serve,
) -> None:
    server = serve(faulty.answer())
    client = service(server)
    for name in ("complete_async", "complete_with_fallback_async", "complete_many_async", "aclose"):
        assert inspect.iscoroutinefunction(getattr(client, name))
    pending = client.complete_async("hi")
    time.sleep(0.05)
    assert server.requests == []
    assert asyncio.run(pending)["content"] == "hello"


def test_one_service_serves_loop_after_loop_and_threads_at_once(serve: Serve) -> None:
    client = service(serve(faulty.answer()))

    async def several() -> None:
        await asyncio.gather(*(client.complete_async("hi") for _ in range(5)))

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        asyncio.run(several())
    for thread in threads:
        thread.join()
    assert client.metrics()["successes"] == 35


def test_a_service_made_before_a_fork_serves_parent_and_child(serve: Serve) -> None:
    client = service(serve(faulty.answer()))
    client.complete("before")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forking with threads
        child = os.fork()
    if child == 0:
        try:
            ok = client.complete("child")["content"] == "hello"
            ok = ok and asyncio.run(client.complete_async("child"))["content"] == "hello"
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    assert client.complete("parent")["content"] == "hello"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Configuration


def test_attributes_are_the_originals_and_writable(serve: Serve) -> None:
    client = LLMService()
    assert (client.base_url, client.api_key) == ("https://api.openai.com/v1", "dummy-key-for-local")
    assert (client.model, client.default_temperature, client.default_max_tokens) == ("gpt-4o-mini", 0.7, 1000)
    assert (client.enable_fallback, client.enable_circuit_breaker) == (True, True)
    assert client._is_local is False
    assert client._health_checker is None
    server = serve(faulty.answer())
    client.client = llm_service.OpenAI(base_url=server.base_url, api_key=f"other-{KEY}")
    client.default_max_tokens = 3
    client.set_model("m")
    client.complete("hi")
    assert server.requests[0].json["model"] == client.get_model() == "m"
    assert server.requests[0].json["max_tokens"] == 3
    assert server.requests[0].header("authorization") == f"Bearer other-{KEY}"


def test_the_client_is_made_by_the_modules_name_with_two_keywords() -> None:
    with patch("arbitrageai_native.llm_service.OpenAI") as made:
        client = LLMService(base_url="http://x/v1", api_key=KEY)
    made.assert_called_once_with(base_url="http://x/v1", api_key=KEY)
    assert client.client is made.return_value


@pytest.mark.parametrize("key", [None, ""])
def test_the_environment_says_what_is_not_given(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_URL", "http://localhost:1/v1")
    monkeypatch.setenv("API_KEY", f"from-environment-{KEY}")
    client = LLMService(api_key=key)
    assert (client.base_url, client.api_key) == ("http://localhost:1/v1", f"from-environment-{KEY}")
    assert client.is_local() is True
    status = client._health_checker.get_health_status("http://localhost:1/v1")  # type: ignore[union-attr]
    assert (status.failure_threshold, status.recovery_timeout_seconds) == (3, 60)  # type: ignore[union-attr]


def test_the_configuration_does_not_tell_the_key() -> None:
    assert LLMService(base_url="http://x/v1", api_key=KEY).get_config() == {
        "base_url": "http://x/v1",
        "model": "gpt-4o-mini",
        "temperature": 0.7,
        "max_tokens": 1000,
        "is_local": False,
        "enable_fallback": True,
    }


def test_a_model_configuration_chooses_by_task(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(
        cloud_model="c",
        local_model="l",
        local_base_url="http://localhost:2/v1",
        local_api_key=KEY,
        task_model_map={"complex": "special"},
        task_use_local_map={"basic_admin": True, "complex": False},
    )
    local = ("http://localhost:2/v1", KEY, True)
    cloud = ("https://api.openai.com/v1", "dummy-key-for-local", False)
    assert config.get_model_for_task("basic_admin") == ("l", *local)
    assert config.get_model_for_task("basic_admin", prefer_local=False) == ("l", *local)
    assert config.get_model_for_task("complex", prefer_local=True) == ("special", *cloud)
    assert config.get_model_for_task("other", prefer_local=True) == ("l", *local)
    assert config.get_model_for_task("other") == ("c", *cloud)
    monkeypatch.setenv("BASE_URL", "http://later/v1")
    assert config.get_model_for_task("other")[1] == "http://later/v1"


def test_a_model_configuration_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert vars(ModelConfig.from_env()) == vars(ModelConfig())
    assert ModelConfig().local_base_url == "http://localhost:11434/v1"
    monkeypatch.setenv("OLLAMA_URL", "http://ollama/v1")
    assert ModelConfig().local_base_url == "http://ollama/v1"
    monkeypatch.setenv("USE_LOCAL_BY_DEFAULT", "TRUE")
    monkeypatch.setenv("TASK_MODEL_MAP", '{"a": "m"}')
    monkeypatch.setenv("TASK_USE_LOCAL_MAP", "{oops")
    config = ModelConfig.from_env()
    assert (config.use_local_by_default, config.task_model_map, config.task_use_local_map) == (
        True,
        {"a": "m"},
        {},
    )
    assert "TASK_USE_LOCAL_MAP" in caplog.text


def test_constructors_make_instances_of_their_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(LLMService):
        pass

    config = ModelConfig(cloud_model="c", local_model="l", task_use_local_map={"basic_admin": True})
    llm_service.set_default_model_config(config)
    assert llm_service.get_default_model_config() is config
    made = [
        (Mine.for_task("anything"), "c", False),
        (Mine.for_basic_admin(), "l", True),
        (Mine.for_complex_task(default_temperature=0.1), "c", False),
        (Mine.for_distilled_task(), "distilled-llama3.2", True),
        (Mine.for_distilled_task("d"), "d", True),
        (Mine.with_local(), "l", True),
        (Mine.with_local("other"), "other", True),
        (Mine.with_cloud("big"), "big", False),
        (Mine.get_optimized_service(2999), "l", True),
        (Mine.get_optimized_service(3000), "c", False),
        (Mine.get_optimized_service(3000, min_cloud_revenue=3001), "l", True),
    ]
    for client, model, is_local in made:
        assert type(client) is Mine
        assert (client.model, client.is_local()) == (model, is_local)
    assert made[2][0].default_temperature == 0.1
    monkeypatch.setenv("DISTILLED_MODEL_NAME", "from-environment")
    assert Mine.for_distilled_task().model == "from-environment"


def test_the_modules_have_the_originals_names() -> None:
    assert arbitrageai_native.LLMService is llm_service.LLMService
    for name in ("asyncio", "time", "random", "os", "logger", "CircuitBreakerError", "OpenAI"):
        assert hasattr(llm_service, name)
    assert llm_service.MIN_CLOUD_REVENUE == 3000
    assert llm_service.logger.name == "arbitrageai_native.llm"
    assert llm_service.TASK_TYPE_BASIC_ADMIN == "basic_admin"


def test_a_dotenv_file_is_loaded_at_import_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("API_KEY=from-file\nBASE_URL=http://file/v1\n")
    program = "from arbitrageai_native import LLMService; s = LLMService(); print(s.api_key, s.base_url)"
    environment = {**os.environ, "BASE_URL": "http://environment/v1"}
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["from-file", "http://environment/v1"]


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = """
import sys, threading, arbitrageai_native
assert not {"asyncio", "dotenv", "rich", "arbitrageai_native._native"} & sys.modules.keys()
import arbitrageai_native.llm_service
assert not {"rich", "openai", "sqlalchemy", "opentelemetry"} & sys.modules.keys()
assert threading.active_count() == 1
assert {"LLMService", "OpenAI", "safe_sleep"} <= set(dir(arbitrageai_native))
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("method", ["complete", "complete_streaming", "complete_many_async", "get_config"])
def test_annotations_can_be_evaluated(method: str) -> None:
    assert "return" in get_type_hints(getattr(LLMService, method))


# Closing, copying


async def test_a_closed_service_refuses(serve: Serve) -> None:
    client = service(serve(faulty.answer()))
    async with client as entered:
        assert entered is client
    with pytest.raises(RuntimeError, match="closed"):
        await client.complete_async("hi")
    with service(serve(faulty.answer())) as other:
        assert other.complete("hi")
    with pytest.raises(RuntimeError, match="closed"):
        other.complete("hi")


def test_a_service_is_not_pickled_nor_is_the_key_in_what_is_shown() -> None:
    client = LLMService(base_url="http://x/v1", api_key=KEY)
    assert KEY not in f"{client!r} {client} {client.client!r} {client.client._native!r} {client.get_config()}"
    for copied in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="not pickled"):
            copied(client)
        with pytest.raises(TypeError, match="not pickled"):
            copied(client.client)
    config = ModelConfig(local_api_key=KEY, local_model="l")
    assert KEY.encode() not in pickle.dumps(config)
    assert pickle.loads(pickle.dumps(config)).local_model == "l"
    assert KEY not in repr(config)


@pytest.mark.parametrize("url", ["http://user:{}@localhost:1/v1", "http://{}@h/v1", "http://h/v1?api-key={}"])
def test_nothing_shows_a_secret_in_the_base_url(url: str) -> None:
    service = LLMService(base_url=url.format(KEY), api_key="k", max_retries=0)
    checker = service._health_checker
    shown = [repr(service), repr(service.client), str(service.get_config())]
    if checker is not None:
        for _ in range(3):
            checker.record_failure(service.base_url, "down")
        shown += [repr(checker.health_status[service.base_url])]
        shown += [str(checker.get_metrics_summary(service.base_url))]
        for call in (service.complete, lambda prompt: next(service.complete_streaming(prompt))):
            with pytest.raises(CircuitBreakerError) as refused:
                call("hi")
            shown += [str(refused.value), repr(refused.value)]
    assert not [text for text in shown if KEY in text]
    assert service.base_url == url.format(KEY)


@pytest.mark.parametrize("name", ["api_key", "base_url"])
def test_text_that_is_not_unicode_is_refused_without_quoting_it(name: str) -> None:
    value = f"http://{KEY}\udce9"
    with pytest.raises(ValueError, match=name) as refused:
        LLMService(**{"base_url": "http://h/v1", "api_key": "k", name: value})
    assert type(refused.value) is ValueError
    assert KEY not in repr(refused.value) + repr(refused.value.__cause__)


def test_mock_patch_makes_an_async_mock_of_an_asynchronous_method() -> None:
    with patch.object(LLMService, "complete_async", return_value={"content": "mocked"}):
        assert asyncio.run(LLMService().complete_async("hi")) == {"content": "mocked"}
    assert not isinstance(LLMService.complete_async, MagicMock)
