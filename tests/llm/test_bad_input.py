"""What no request can be made of is told by the argument's name."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import math
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from arbitrageai_native import LLMService, OpenAI, exceptions, safe_sleep
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import FaultyServer

Serve = Callable[..., FaultyServer]

CYCLE: list[Any] = []
CYCLE.append(CYCLE)

# The arguments, the kind of error, and what its message names.
BAD_CALLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prompt": 5}, TypeError, "prompt"),
    ({"prompt": None}, TypeError, "prompt"),
    ({"prompt": "lone \ud800 surrogate"}, ValueError, r"messages\[0\]\[.content.\]"),
    ({"prompt": "a", "messages": []}, TypeError, "messages"),
    ({"prompt": None, "messages": "hi"}, TypeError, "messages"),
    ({"system_prompt": 5}, TypeError, "system_prompt"),
    ({"temperature": math.nan}, ValueError, "temperature.*NaN"),
    ({"temperature": math.inf}, ValueError, "temperature.*inf"),
    ({"top_p": {1, 2}}, TypeError, "top_p.*set"),
    ({"stop": b"bytes"}, TypeError, "stop.*bytes"),
    ({"tools": [{"function": object()}]}, TypeError, r"tools\[0\]\[.function.\].*object"),
    ({"seed": decimal.Decimal(1)}, TypeError, "seed.*Decimal"),
    ({"metadata": {(1,): "x"}}, TypeError, "metadata.*key of type tuple"),
    ({"metadata": {math.nan: "x"}}, ValueError, "metadata.*key NaN"),
    ({"metadata": CYCLE}, ValueError, "metadata"),
    ({"stream": True}, TypeError, "stream"),
    ({"timeout": -1}, ValueError, "timeout.*-1"),
    ({"timeout": math.nan}, ValueError, "timeout.*NaN"),
    ({"timeout": "soon"}, TypeError, "timeout"),
    ({"timeout": True}, TypeError, "timeout"),
    ({"deadline": -0.5}, ValueError, "deadline"),
    ({"max_retries": -1}, ValueError, "max_retries"),
    ({"max_retries": 1.5}, TypeError, "max_retries"),
    ({"retry_jitter": 2}, ValueError, "retry_jitter"),
    ({"retry_base": None}, ValueError, "retry_base"),
    ({"max_body_bytes": 0}, ValueError, "max_body_bytes"),
    ({"idempotency_key": 5}, TypeError, "idempotency_key"),
    ({"idempotency_key": "a\r\nb"}, ValueError, "idempotency_key"),
    ({"extra_headers": {"X-A": "1\r\nX-Injected: 2"}}, ValueError, "extra_headers.*X-A"),
    ({"extra_headers": {"X A:": "1"}}, ValueError, "extra_headers.*X A:"),
    ({"extra_headers": {"X-A": []}}, TypeError, "extra_headers"),
    ({"extra_headers": 5}, TypeError, "extra_headers"),
    ({"extra_query": "a=b"}, TypeError, "extra_query"),
    ({"extra_body": 5}, TypeError, "extra_body"),
    ({"model": 5}, TypeError, "model.*5"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), BAD_CALLS, ids=lambda value: str(value)[:40])
async def test_a_bad_argument_is_named(
    arguments: dict[str, Any], kind: type[Exception], text: str, serve: Serve
) -> None:
    server = serve(faulty.answer())
    client = LLMService(base_url=server.base_url, api_key=KEY)
    arguments = {"prompt": "hi", **arguments}
    with pytest.raises(kind, match=text) as caught:
        client.complete(**arguments)
    assert isinstance(caught.value, exceptions.OpenAIError)
    with pytest.raises(kind, match=text):
        await client.complete_async(**arguments)
    assert server.requests == []


BAD_SETTINGS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"unknown": 1}, TypeError, "unknown"),
    ({"timeout": -1}, ValueError, "timeout"),
    ({"connect_timeout": "x"}, TypeError, "connect_timeout"),
    ({"max_connections": 0}, ValueError, "max_connections"),
    ({"http2": "yes"}, TypeError, "http2"),
    ({"http2": 1}, TypeError, "http2"),
    ({"stealth_range": (3, 2)}, ValueError, "stealth_range"),
    ({"stealth_range": 3}, TypeError, "stealth_range"),
    ({"stealth_range": "25"}, TypeError, "stealth_range"),
    ({"stealth_range": (1,)}, TypeError, r"stealth_range.*\(1,\)"),
    ({"stealth_range": (math.nan, 2)}, ValueError, "stealth_range.*nan"),
    ({"base_url": 5}, TypeError, "base_url"),
    ({"api_key": 5}, TypeError, "api_key"),
    ({"model": 5}, TypeError, "model.*5"),
    ({"default_temperature": "hot"}, TypeError, "default_temperature.*'hot'"),
    ({"default_max_tokens": "few"}, TypeError, "default_max_tokens.*'few'"),
    ({"default_headers": 5}, TypeError, "default_headers"),
    ({"enable_circuit_breaker": "allways"}, ValueError, "enable_circuit_breaker.*'allways'"),
    ({"enable_circuit_breaker": 2}, TypeError, "enable_circuit_breaker.*2"),
    ({"fallback_timeouts": (1, 2)}, TypeError, r"fallback_timeouts.*\(1, 2\)"),
    ({"fallback_timeouts": "abc"}, TypeError, "fallback_timeouts.*'abc'"),
    ({"fallback_timeouts": "123"}, TypeError, "fallback_timeouts.*'123'"),
    ({"fallback_timeouts": (1, 2, -3)}, ValueError, "fallback_timeouts.*-3"),
    ({"fallback_delays": 5}, TypeError, "fallback_delays.*5"),
    ({"fallback_delays": (1, None)}, TypeError, "fallback_delays.*None"),
    ({"fallback_delays": (1, math.inf)}, ValueError, "fallback_delays.*inf"),
    ({"deadline": "soon"}, TypeError, "deadline"),
    ({"deadline": math.nan}, ValueError, "deadline.*NaN"),
]


@pytest.mark.parametrize(("settings", "kind", "text"), BAD_SETTINGS, ids=lambda value: str(value)[:40])
def test_a_bad_setting_is_named(settings: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        LLMService(**{"base_url": "http://x/v1", **settings})


def test_settings_that_make_sense_are_taken() -> None:
    for breaker in (True, False, None, "always"):
        LLMService(enable_circuit_breaker=breaker)  # type: ignore[arg-type]
    LLMService(fallback_timeouts=(1, None, 3.5), fallback_delays=(0, 0), stealth_range=(0, 0))
    LLMService(default_temperature=None, default_max_tokens=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "kind"), [("soon", TypeError), (math.nan, ValueError), (-1, ValueError)])
async def test_a_bad_deadline_of_a_call_with_fallback_is_named(value: Any, kind: type[Exception]) -> None:
    client = LLMService(base_url="http://x/v1")
    with pytest.raises(kind, match="deadline") as caught:
        client.complete_with_fallback("hi", deadline=value)
    assert isinstance(caught.value, exceptions.OpenAIError)
    with pytest.raises(kind, match="deadline"):
        await client.complete_with_fallback_async("hi", deadline=value)


def test_bad_arguments_of_a_client_are_named() -> None:
    with pytest.raises(TypeError, match="default_headers"):
        OpenAI(api_key=KEY, default_headers=5)  # type: ignore[arg-type]
    create = OpenAI(api_key=KEY).chat.completions.create
    with pytest.raises(TypeError, match=r"model.*5"):
        create(model=5, messages=[])  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="extra_body"):
        create(model="m", messages=[], extra_body=5)  # type: ignore[call-overload]


@pytest.mark.parametrize("base_url", ["nonsense", "ftp://x/v1", "http://", "//x", "http://[::1/v1"])
async def test_what_is_no_url_is_told_at_the_call(base_url: str) -> None:
    client = LLMService(base_url=base_url, api_key=KEY)
    for call in (lambda: client.complete("hi"), lambda: list(client.complete_streaming("hi"))):
        with pytest.raises(ValueError, match="base_url") as caught:
            call()
        assert KEY not in str(caught.value)
    with pytest.raises(ValueError, match="base_url"):
        await client.complete_async("hi")


def test_passwords_and_keys_are_not_told() -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        LLMService(base_url="ftp://user:password@x/v1", api_key=KEY).complete("hi")
    assert "password" not in str(caught.value)
    with pytest.raises(ValueError, match="api_key") as caught:
        LLMService(base_url="http://x/v1", api_key=f"{KEY}\n{KEY}").complete("hi")
    assert KEY not in str(caught.value)


def test_what_json_libraries_accept_is_accepted(serve: Serve) -> None:
    class Model:
        def model_dump(self, mode: str) -> dict[str, Any]:
            return {"mode": mode}

    server = serve(faulty.answer())
    client = OpenAI(base_url=server.base_url, api_key=KEY)
    when = datetime.datetime(2026, 1, 2, 3, 4, 5)
    client.chat.completions.create(
        model="m", messages=(), when=when, made=Model(), big=2**64 - 1, nested=[[None, True, 1.5, "é"]]
    )
    assert server.requests[0].json == {
        "model": "m",
        "messages": [],
        "when": "2026-01-02T03:04:05",
        "made": {"mode": "json"},
        "big": 2**64 - 1,
        "nested": [[None, True, 1.5, "é"]],
    }


class Changing:
    """An object that changes its container while its attributes are read."""

    def __init__(self, change: Callable[[], object], by: str) -> None:
        def changed(*_: object, **__: object) -> str:
            change()
            return "x"

        if by != "__getattr__":
            setattr(self, by, changed)
        self._changed = changed

    def __getattr__(self, name: str) -> Any:
        if name in ("model_dump", "isoformat"):
            self._changed()
        raise AttributeError(name)


@pytest.mark.parametrize("by", ["model_dump", "isoformat", "__getattr__"])
@pytest.mark.parametrize("change", ["grows", "shrinks"])
@pytest.mark.parametrize("kind", ["dict", "list"])
async def test_what_changes_while_it_is_read_does_no_harm(
    kind: str, change: str, by: str, serve: Serve
) -> None:
    """The call raises a documented exception or none, never the native module's panic (a `BaseException`)."""
    client = LLMService(base_url=serve(faulty.answer()).base_url, api_key=KEY, enable_circuit_breaker=False)

    def held() -> Any:
        container: Any = {} if kind == "dict" else []
        numbers = iter(range(1000, 100_000))

        def grow() -> None:
            for number in [next(numbers) for _ in range(100)]:
                if kind == "dict":
                    container[str(number)] = 1
                else:
                    container.append(1)

        changing = Changing(grow if change == "grows" else container.clear, by)
        if kind == "dict":
            container.update(a=1, m=changing, z=2)
        else:
            container.extend([1, changing, 2])
        return container

    create = client.client.chat.completions.create
    calls: list[Callable[..., Any]] = [
        lambda **arguments: client.complete_async("hi", **arguments),
        lambda **arguments: asyncio.to_thread(client.complete, "hi", **arguments),
        lambda **arguments: asyncio.to_thread(create, model="m", messages=[], **arguments),
    ]
    for call in calls:
        for name in ("metadata", "extra_body"):
            try:
                await call(**{name: {"x": held()}})
            except exceptions.InvalidArgumentTypeError:
                assert by == "__getattr__"  # JSON can't express this type, so the call refuses it


def test_a_dict_that_another_thread_changes_does_no_harm() -> None:
    client = LLMService(base_url=faulty.refusing(), api_key=KEY, enable_circuit_breaker=False)
    shared = {str(number): datetime.datetime(2026, 1, 1) for number in range(100)}
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            shared["more"] = datetime.datetime(2026, 1, 1)
            shared.pop("more")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            client.complete_streaming("hi", metadata=shared)  # converts the dict at once
    finally:
        stop.set()
        thread.join()


def _raising(*_: object, **__: object) -> Any:
    raise RuntimeError("hostile")


HOSTILE: dict[str, Any] = {
    "model_dump": type("M", (), {"model_dump": _raising}),
    "no method": type("M", (), {"model_dump": 5}),
    "isoformat": type("M", (), {"isoformat": _raising}),
    "__getattr__": type("M", (), {"__getattr__": _raising}),
    "__getattribute__": type("M", (), {"__getattribute__": _raising}),
    "__class__": type("M", (), {"__class__": property(_raising)}),
    "__iter__": type("M", (dict,), {"__iter__": _raising, "__len__": _raising, "keys": _raising}),
    "__len__": type("M", (list,), {"__iter__": _raising, "__len__": _raising}),
    "__str__": type("M", (int,), {"__str__": _raising, "__repr__": _raising, "__int__": _raising}),
    "__float__": type("M", (), {"__float__": _raising, "__index__": _raising}),
    "__hash__": type("M", (str,), {"__hash__": _raising, "__eq__": _raising, "__str__": _raising}),
    "itself": type("M", (), {"model_dump": lambda self, **_: self}),
}


class Hostile(Mapping[str, Any]):
    """A mapping whose methods violate the protocol of mappings."""

    def __init__(self, how: str) -> None:
        self._how = how

    def __getitem__(self, key: str) -> Any:
        return _raising()

    def __len__(self) -> int:
        return -1 if self._how == "len" else 2**62

    def __iter__(self) -> Any:
        return _raising() if self._how == "iter" else iter(["a"])

    def items(self) -> Any:
        return {"none": None, "no pairs": [1, 2], "triples": [(1, 2, 3)]}.get(self._how) or _raising()


@pytest.mark.holds_the_loop("calls that are refused at once, many in one go")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_objects_raise_what_programs_can_catch(name: str, serve: Serve) -> None:
    client = LLMService(base_url=serve(faulty.answer()).base_url, api_key=KEY, enable_circuit_breaker=False)
    for argument in (
        "metadata",
        "temperature",
        "stop",
        "extra_headers",
        "extra_query",
        "timeout",
        "max_retries",
    ):
        for wrap in (lambda value: value, lambda value: [value], lambda value: {"a": value}):
            with contextlib.suppress(Exception):
                await client.complete_async("hi", **{argument: wrap(HOSTILE[name]())})


@pytest.mark.holds_the_loop("calls that are refused at once, many in one go")
@pytest.mark.parametrize("how", ["len", "iter", "none", "no pairs", "triples", "raises"])
async def test_hostile_mappings_raise_what_programs_can_catch(how: str, serve: Serve) -> None:
    client = LLMService(base_url=serve(faulty.answer()).base_url, api_key=KEY, enable_circuit_breaker=False)
    for argument in ("metadata", "extra_headers", "extra_query", "extra_body"):
        with pytest.raises(Exception, match=r"hostile|items|iterable|pairs|negative|__len__"):
            await client.complete_async("hi", **{argument: Hostile(how)})


async def test_no_number_of_seconds_is_too_large(serve: Serve) -> None:
    server = serve(faulty.answer(status=503))
    client = LLMService(base_url=server.base_url, api_key=KEY, enable_circuit_breaker=False)
    with pytest.raises(exceptions.InternalServerError):
        await client.complete_async("hi", deadline=60, retry_base=1e19, retry_cap=1e19)
    with pytest.raises(exceptions.InternalServerError):
        [_ async for _ in client.complete_streaming_async("hi", deadline=60, retry_base=1e19, retry_cap=1e19)]
    for name in ("timeout", "deadline", "first_byte_timeout", "idle_timeout", "connect_timeout"):
        for seconds in (1e9, 1e18, 9.2e18, 1e19, 1e300, math.inf):
            with pytest.raises(exceptions.InternalServerError):
                await client.complete_async("hi", max_retries=0, **{name: seconds})


def padded(size: int) -> list[bytes]:
    """A completion of so many bytes, in parts."""
    start, end = b'{"choices": [{"message": {"content": "', b'"}}]}'
    part = b"x" * 2**20
    whole, rest = divmod(size - len(start) - len(end), len(part))
    return [start, *[part] * whole, part[:rest], end]


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("surplus", [0, 1])
def test_a_body_may_have_64_mib_and_no_more(status: int, surplus: int, serve: Serve) -> None:
    size = 64 * 2**20 + surplus
    sent = 0

    def plenty(connection: faulty.Connection) -> bool:
        nonlocal sent
        connection.send(faulty.head(status, "Content-Type: application/json", length=size))
        for part in padded(size):
            connection.send(part)
            sent += len(part)
        return True

    client = LLMService(base_url=serve(plenty).base_url, api_key=KEY, max_retries=0)
    if status == 500:
        with pytest.raises(exceptions.InternalServerError) as caught:
            client.complete("hi")
        assert len(caught.value.body) == 2**20  # type: ignore[arg-type]
        assert sent < 32 * 2**20, "the client read the whole body"
    elif surplus:
        with pytest.raises(exceptions.APIResponseValidationError, match=str(64 * 2**20)):
            client.complete("hi")
    else:
        assert len(client.complete("hi")["content"]) > 63 * 2**20


@pytest.fixture(scope="module")
def long_error() -> bytes:
    return b'{"error":{"message":"x","x":[' + b"{}," * 5_000_000 + b"{}]}}"


@pytest.mark.parametrize("status", [400, 500])
def test_no_tree_is_made_of_a_long_error_body(status: int, long_error: bytes, serve: Serve) -> None:
    server = serve(faulty.answer(long_error, status=status))
    client = LLMService(base_url=server.base_url, api_key=KEY, max_retries=1, retry_base=0)
    with pytest.raises(exceptions.APIStatusError, match=f"Error code: {status}") as caught:
        client.complete("hi")
    assert isinstance(caught.value.body, str)
    assert caught.value.body == long_error[: 2**20].decode()
    with pytest.raises(exceptions.APIStatusError):
        list(client.complete_streaming("hi"))


def test_an_endless_body_is_not_read_to_its_end(serve: Serve) -> None:
    left = threading.Event()

    def endless(connection: faulty.Connection) -> bool:
        connection.send(faulty.head(200, "Transfer-Encoding: chunked"))
        try:
            while True:
                connection.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        finally:
            left.set()

    client = LLMService(base_url=serve(endless).base_url, api_key=KEY, max_retries=0)
    with pytest.raises(exceptions.APIResponseValidationError, match="longer than 1000000 bytes"):
        client.complete("hi", max_body_bytes=1_000_000)
    assert left.wait(5), "the request was not closed"


@pytest.mark.parametrize(
    "body", [b"\xff\xfe", b'{"error": {"message": "\xff"}}', b"<html>\xe9</html>", b"[", b"null"]
)
@pytest.mark.parametrize("status", [400, 429, 500])
def test_an_error_answer_is_told_by_its_status_whatever_its_body(
    status: int, body: bytes, serve: Serve
) -> None:
    client = LLMService(
        base_url=serve(faulty.answer(body, status=status)).base_url, api_key=KEY, max_retries=0
    )
    with pytest.raises(exceptions.APIStatusError, match=f"Error code: {status}") as caught:
        client.complete("hi")
    assert caught.value.status_code == status
    with pytest.raises(exceptions.APIStatusError, match=f"Error code: {status}"):
        list(client.complete_streaming("hi"))


def test_a_redirect_within_the_server_is_followed_and_one_to_another_is_an_error(serve: Serve) -> None:
    other = serve(faulty.answer())
    elsewhere = [f"Location: {other.base_url}/chat/completions"]
    server = serve(faulty.answer(status=307, headers=elsewhere))
    with pytest.raises(exceptions.APIStatusError) as caught:
        LLMService(base_url=server.base_url, api_key=KEY).complete("hi")
    assert caught.value.status_code == 307
    assert other.requests == []
    server = serve(faulty.answer(status=307, headers=["Location: /other"]), faulty.answer())
    assert LLMService(base_url=server.base_url, api_key=KEY).complete("hi")["content"] == "hello"
    assert server.requests[1].header("authorization") == f"Bearer {KEY}"


def test_repeated_headers_do_no_harm(serve: Serve) -> None:
    headers = ["X-Request-Id: a", "X-Request-Id: b", "Retry-After: 0.1", "Retry-After: 0.1"]
    client = LLMService(base_url=serve(faulty.answer(status=400, headers=headers)).base_url, api_key=KEY)
    with pytest.raises(exceptions.BadRequestError) as caught:
        client.complete("hi")
    assert caught.value.response.headers["x-request-id"] == "a, b"


@pytest.mark.parametrize(("seconds", "kind"), [(math.nan, ValueError), ("1", TypeError)])
async def test_safe_sleep_refuses_what_is_no_time(seconds: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="seconds"):
        await safe_sleep(seconds)


async def test_safe_sleep_sleeps() -> None:
    await safe_sleep(0)
    await safe_sleep(0.01)
