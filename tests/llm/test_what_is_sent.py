"""What is sent is what the caller means: members, keys, headers, limits; and what is misspelt is told."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from arbitrageai_native import AsyncOpenAI, LLMService, OpenAI, exceptions
from arbitrageai_native.llm.keywords import meant
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import DONE, FaultyServer, chunk

Serve = Callable[..., FaultyServer]
HI = [{"role": "user", "content": "hi"}]


def service(server: FaultyServer, **settings: Any) -> LLMService:
    return LLMService(
        base_url=server.base_url, **{"api_key": KEY, "enable_circuit_breaker": False, **settings}
    )


# Members


@pytest.mark.parametrize(
    ("defaults", "keywords", "members"),
    [
        ({}, {}, {"temperature": 0.7, "max_tokens": 1000}),
        ({}, {"temperature": 0, "max_tokens": 0}, {"temperature": 0, "max_tokens": 0}),
        ({}, {"temperature": None, "max_tokens": None}, {"temperature": 0.7, "max_tokens": 1000}),
        ({"default_temperature": None, "default_max_tokens": None}, {}, {}),
        ({}, {"max_completion_tokens": 5}, {"temperature": 0.7, "max_completion_tokens": 5}),
        ({}, {"extra_body": {"max_completion_tokens": 5}}, {"temperature": 0.7, "max_completion_tokens": 5}),
        (
            {},
            {"max_completion_tokens": 5, "max_tokens": 6},
            {"temperature": 0.7, "max_tokens": 6, "max_completion_tokens": 5},
        ),
        ({}, {"max_completion_tokens": openai.omit}, {"temperature": 0.7, "max_tokens": 1000}),
        (
            {},
            {"stop": None, "tools": openai.NOT_GIVEN, "seed": openai.omit, "top_p": 0.5},
            {"temperature": 0.7, "max_tokens": 1000, "top_p": 0.5},
        ),
        ({}, {"extra_body": {"stop": None}}, {"temperature": 0.7, "max_tokens": 1000, "stop": None}),
        ({}, {"model": None}, {"temperature": 0.7, "max_tokens": 1000}),
    ],
    ids=lambda value: str(value)[:50],
)
@pytest.mark.holds_the_loop("the SDK's client is made in it")
@pytest.mark.parametrize("through", ["native", "sdk"])
async def test_members_can_be_left_out(
    defaults: dict[str, Any], keywords: dict[str, Any], members: dict[str, Any], through: str, serve: Serve
) -> None:
    server = serve(faulty.answer(), faulty.answer(), faulty.stream(chunk("a"), DONE))
    client = service(server, model="m", **defaults)
    with contextlib.ExitStack() as stack:
        if through == "sdk":
            theirs = openai.OpenAI(base_url=server.base_url, api_key=KEY)
            client.client = stack.enter_context(theirs)
        client.complete("hi", **keywords)
        await client.complete_async("hi", **keywords)
        assert list(client.complete_streaming("hi", **keywords)) == ["a"]
    expected = {"model": "m", "messages": HI, **members}
    assert [request.json for request in server.requests] == [expected, expected, {**expected, "stream": True}]


def test_a_prompt_may_be_a_list_of_content_parts(serve: Serve) -> None:
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    server = serve(faulty.answer())
    client = service(server)
    client.complete(parts, system_prompt="brief")
    client.complete_many([parts])  # type: ignore[list-item]
    assert server.requests[0].json["messages"][1] == {"role": "user", "content": parts}
    assert server.requests[1].json["messages"] == [{"role": "user", "content": parts}]


BIG = 10**400 + 7


@pytest.mark.parametrize("kind", ["service", "client", "sdk"])
def test_keys_and_integers_are_sent_as_the_sdk_sends_them(kind: str, serve: Serve) -> None:
    server = serve(faulty.answer())
    odd: Any = {50256: -100, 1.5: 1, True: 2, None: 3, -(2**70): 2**70}
    keywords: Any = {"logit_bias": odd, "seed": BIG, "metadata": {"deep": [{1: -BIG}]}}
    if kind == "service":
        service(server).complete("hi", **keywords)
    else:
        kinds: Any = OpenAI if kind == "client" else openai.OpenAI
        with kinds(base_url=server.base_url, api_key=KEY) as client:
            client.chat.completions.create(model="m", messages=HI, **keywords)
    sent = server.requests[0].json
    bias = {"50256": -100, "1.5": 1, "true": 2, "null": 3, str(-(2**70)): 2**70}
    assert sent["logit_bias"] == bias
    assert (sent["seed"], sent["metadata"]) == (BIG, {"deep": [{"1": -BIG}]})


@pytest.mark.parametrize("sdk", [False, True], ids=["ours", "the SDK"])
def test_headers_may_be_bytes(sdk: bool, serve: Serve) -> None:
    server = serve(faulty.answer())
    latin = b"caf" if sdk else b"caf\xe9"  # the SDK takes ASCII alone
    headers: Any = {"X-A": latin, b"X-B": b"b", "X-C": "c"}
    kind: Any = openai.OpenAI if sdk else OpenAI
    with kind(base_url=server.base_url, api_key=KEY) as client:
        client.chat.completions.create(model="m", messages=HI, extra_headers=headers)
    found = [server.requests[0].header(name) for name in ("X-A", "X-B", "X-C")]
    assert found == [latin.decode("latin-1"), "b", "c"]
    if not sdk:
        service(server, default_headers=headers).complete("hi")
        assert server.requests[1].header("X-A") == "caf\xe9"
        with pytest.raises(ValueError, match=r"extra_headers.*X-A"):
            service(server).complete("hi", extra_headers={"X-A": b"a\r\nX-B: b"})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding"])
def test_headers_of_the_framing_are_refused(name: str, serve: Serve) -> None:
    server = serve(faulty.answer())
    with pytest.raises(ValueError, match=f"extra_headers.*{name}"):
        service(server).complete("hi", extra_headers={name: "5"})
    with pytest.raises(ValueError, match=name):
        service(server, default_headers={name: "chunked"}).complete("hi")
    assert server.requests == []


async def test_a_timeout_may_be_httpx_own(serve: Serve) -> None:
    server = serve(faulty.hang)
    for timeout in (
        httpx.Timeout(0.2),
        httpx.Timeout(30, read=0.2),
        httpx.Timeout(None, read=0.2, connect=9),
    ):
        with pytest.raises(exceptions.APITimeoutError, match=r"timeout of 0\.2 s"):
            await service(server, max_retries=0).complete_async("hi", timeout=timeout)
        with pytest.raises(exceptions.APITimeoutError, match=r"timeout of 0\.2 s"):
            service(server, max_retries=0, timeout=timeout).complete("hi")
    without: Any = httpx.Timeout(None)
    answered = service(serve(faulty.answer(before_head=0.05)), timeout=0.01).complete("hi", timeout=without)
    assert answered["content"] == "hello"


# Misspelt keywords


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("timout", "timeout"),
        ("tiemout", "timeout"),
        ("timeouts", "timeout"),
        ("temprature", "temperature"),
        ("max_token", "max_tokens"),
        ("deadine", "deadline"),
        ("sytem_prompt", "system_prompt"),
        ("top_q", "top_p"),
        ("tool", "tools"),
    ],
)
async def test_a_keyword_that_is_nearly_known_warns_and_is_sent(name: str, other: str, serve: Serve) -> None:
    server = serve(faulty.answer())
    client = service(server)
    keywords: dict[str, Any] = {name: 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client.complete("hi", **keywords)
        await client.complete_async("hi", **keywords)
        if name != "sytem_prompt":  # a client has none
            create: Any = OpenAI(base_url=server.base_url, api_key=KEY).chat.completions.create
            create(model="m", messages=HI, **keywords)
    assert len(caught) == len(server.requests) >= 2
    for warning in caught:
        assert (warning.category, warning.filename) == (UserWarning, __file__)
        assert f"{name} is" in str(warning.message)
        assert f"did you mean {other}?" in str(warning.message)
    assert all(request.json[name] == 1 for request in server.requests)


def test_other_keywords_do_not_warn(serve: Serve) -> None:
    server = serve(faulty.answer())
    others = [
        "top_k",
        "models",
        "min_p",
        "keep_alive",
        "think",
        "provider",
        "n",
        "x",
        "num_ctx",
        "min_tokens",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        service(server).complete("hi", **dict.fromkeys(others, 1), top_p=1, timeout=5)
    assert all(server.requests[0].json[name] == 1 for name in others)


def test_one_edit_is_one_edit() -> None:
    assert meant("stopp", {"stop"}) == meant("sto_p", {"stop"}) == "stop"
    for other in ("abdc", "xabcd", "abcdx", "abcx", "bacd", "abbcd"):
        assert meant("abcd", {other}) == other
    for name, known in [
        ("abcd", "badc"),
        ("abcd", "abcdef"),
        ("abcd", "abxy"),
        ("abc", "abcd"),
        ("stop", "stop"),
    ]:
        assert meant(name, {known}) is None, (name, known)


@pytest.mark.parametrize(
    ("name", "other"), [("timout", "timeout"), ("fallback_delay", "fallback_delays"), ("http", "http2")]
)
def test_a_setting_that_is_nearly_known_is_refused_with_its_name(name: str, other: str) -> None:
    with pytest.raises(TypeError, match=f"{name} is not a setting: did you mean {other}?"):
        LLMService(**{name: 1})
    with pytest.raises(TypeError, match="is not a setting"):
        OpenAI(api_key=KEY, **{name: 1})


def test_a_string_is_no_list_of_prompts(serve: Serve) -> None:
    client = service(serve(faulty.answer()))
    for prompts in ("abc", b"abc", {"prompt": "abc"}):
        with pytest.raises(exceptions.InvalidArgumentTypeError, match="prompts has to be a list of prompts"):
            client.complete_many(prompts)  # type: ignore[arg-type]


# Keys


def bearers(server: FaultyServer) -> list[str]:
    return [(request.header("authorization") or "").removeprefix("Bearer ") for request in server.requests]


class Rotating:
    """Gives another key each time, and notes in which thread it was asked."""

    def __init__(self) -> None:
        self.asked: list[threading.Thread] = []

    def __call__(self) -> str:
        self.asked.append(threading.current_thread())
        return f"{KEY}-{len(self.asked)}"

    async def later(self) -> str:
        await asyncio.sleep(0)
        return self()


@pytest.mark.parametrize("how", ["synchronous", "asynchronous"])
async def test_a_key_may_be_a_function_that_is_asked_for_each_call(how: str, serve: Serve) -> None:
    rotating = Rotating()
    key: Any = rotating if how == "synchronous" else rotating.later
    streamed = faulty.stream(chunk("a"), DONE)
    server = serve(*[faulty.answer()] * 4, streamed, streamed, faulty.answer())
    client = service(server, api_key=key)
    await asyncio.to_thread(client.complete, "hi")
    await client.complete_async("hi")
    await AsyncOpenAI(base_url=server.base_url, api_key=key).chat.completions.create(model="m", messages=HI)
    native = OpenAI(base_url=server.base_url, api_key=key)
    await asyncio.to_thread(native.chat.completions.create, model="m", messages=HI)
    assert await asyncio.to_thread(lambda: list(client.complete_streaming("hi"))) == ["a"]
    stream = client.complete_streaming_async("hi")
    assert len(rotating.asked) == 5
    assert [piece async for piece in stream] == ["a"]
    assert (stream.model, stream.finish_reason, stream.reasoning) == ("served-model", None, None)
    assert bearers(server) == [f"{KEY}-{number}" for number in range(1, 7)]
    if how == "synchronous":
        assert threading.current_thread() not in rotating.asked, "it may block"
    assert KEY not in repr(client) + repr(native) + str(client.get_config())


async def test_a_function_of_a_key_that_fails_or_takes_too_long_is_told(serve: Serve) -> None:
    server = serve(faulty.answer())

    def broken() -> str:
        raise LookupError("no token")

    async def slow() -> str:
        await asyncio.sleep(60)
        return KEY

    for call in (
        service(server, api_key=broken).complete,
        OpenAI(base_url="http://x/v1", api_key=broken)._native.create,
    ):
        with pytest.raises(LookupError, match="no token"):
            call(None if call.__name__ == "create" else "hi")
    with pytest.raises(LookupError):
        await service(server, api_key=broken).complete_async("hi")
    with pytest.raises(exceptions.APITimeoutError, match="deadline"):
        await service(server, api_key=slow).complete_async("hi", deadline=0.1)
    with pytest.raises(TypeError, match="api_key has to return a string, not int"):
        service(server, api_key=lambda: 5).complete("hi")
    with pytest.raises(LookupError):
        await anext(service(server, api_key=broken).complete_streaming_async("hi"))
    assert server.requests == []


async def test_another_key_or_url_of_a_client_takes_effect(serve: Serve) -> None:
    first, second = serve(faulty.answer()), serve(faulty.answer())
    client = service(first)
    native: Any = client.client
    client.complete("hi")
    native.api_key = f"{KEY}-new"
    await client.complete_async("hi")
    native.base_url = second.base_url
    client.complete("hi")
    assert (bearers(first), bearers(second)) == ([KEY, f"{KEY}-new"], [f"{KEY}-new"])
    assert (native.api_key, native.base_url) == (f"{KEY}-new", second.base_url)
    for name, value in [("api_key", 5), ("base_url", None), ("api_key", None)]:
        with pytest.raises(TypeError, match=name):
            setattr(native, name, value)
    with pytest.raises(ValueError, match="api_key is not valid Unicode"):
        native.api_key = "\udc80"
    assert (native.api_key, native.base_url) == (f"{KEY}-new", second.base_url)


def test_the_idempotency_key_is_the_services_own_and_no_clients(serve: Serve) -> None:
    server = serve(faulty.answer())
    service(server).complete("hi")
    service(server, idempotency_key=False).complete("hi")
    OpenAI(base_url=server.base_url, api_key=KEY).chat.completions.create(model="m", messages=HI)
    sent = [request.header("idempotency-key") is not None for request in server.requests]
    assert sent == [True, False, False]


# Secrets in URLs


async def test_user_and_password_of_a_url_are_sent_and_not_shown(serve: Serve) -> None:
    server = serve(faulty.answer(), faulty.answer(status=500))
    url = server.base_url.replace("://", f"://user:{KEY}%40@")
    client = LLMService(base_url=url, api_key=KEY, enable_circuit_breaker="always", max_retries=0)
    client.complete("hi")
    (ours,) = (request.header("authorization") for request in server.requests)
    assert ours == f"Basic {base64.b64encode(f'user:{KEY}@'.encode()).decode()}"
    shown = [repr(client), repr(client.client), str(client.get_config()), repr(client._health_checker)]
    for _ in range(4):
        with pytest.raises(Exception) as caught:
            await client.complete_async("hi")
        shown.append(f"{caught.value!r} {caught.value}")
    checker = client._health_checker
    assert checker is not None
    shown += [repr(checker.get_health_status(url)), str(checker.get_metrics_summary(url))]
    unreachable = LLMService(
        base_url=f"http://user:{KEY}@127.0.0.1:9/v1?key={KEY}", api_key=KEY, max_retries=0
    )
    with pytest.raises(exceptions.APIConnectionError, match=r"http://127\.0\.0\.1:9: ") as refused:
        await unreachable.complete_async("hi")
    shown.append(f"{refused.value!r} {refused.value.__cause__!r}")
    assert not [text for text in shown if KEY in text]


# Patched standard libraries


@pytest.mark.parametrize(
    ("module", "question"),
    [("gevent.monkey", "is_module_patched"), ("eventlet.patcher", "is_monkey_patched")],
)
def test_a_patched_standard_library_is_told(
    module: str, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.ModuleType(module)
    setattr(fake, question, lambda name: name == "socket")
    monkeypatch.setitem(sys.modules, module, fake)
    for make in (lambda: LLMService(base_url="http://x/v1"), lambda: OpenAI(api_key=KEY)):
        with pytest.warns(RuntimeWarning, match=f"{module.partition('.')[0]} has patched") as caught:
            make()
        assert len(caught) == 1
    setattr(fake, question, lambda name: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OpenAI(api_key=KEY)
