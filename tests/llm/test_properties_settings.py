"""Any value of any type as a setting: accepted, and no call fails by it, or refused by name and at once."""

from __future__ import annotations

import asyncio
import datetime
import decimal
import enum
import fractions
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbitrageai_native import AsyncOpenAI, LLMService, OpenAI, exceptions, safe_sleep
from arbitrageai_native.llm.settings import CALL_SETTINGS, ClientSettings
from arbitrageai_native.llm_health_check import ExponentialBackoff
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import FaultyServer
from tests.properties import ANY_TEXT, examples

pytestmark = pytest.mark.holds_the_loop("examples are drawn between the calls")


class Kind(str, enum.Enum):
    A = "cancel"


ANY_VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63) - 1, 10**400]),
    st.floats(),
    st.sampled_from([0.0, -0.0, 1e-320, 1e19, 1e308]),
    st.integers(1, 100),
    st.floats(0.001, 100),
    ANY_TEXT,
    st.sampled_from(["", "True", "1", "always", "http://127.0.0.1:9/v1"]),
    st.binary(max_size=4),
    st.lists(st.integers() | ANY_TEXT | st.floats(), max_size=3),
    st.tuples(st.floats(), st.floats()),
    st.dictionaries(ANY_TEXT, ANY_TEXT | st.none() | st.integers(), max_size=2),
    st.builds(decimal.Decimal, st.integers()),
    st.builds(fractions.Fraction, st.integers(), st.integers(1)),
    st.complex_numbers(),
    st.sampled_from([object(), int, Kind.A, print, datetime.timedelta(seconds=3), ...]),
)

# In seconds and numbers: the settings of services, clients and calls that native code keeps.
SETTINGS = sorted({*CALL_SETTINGS, *ClientSettings.__optional_keys__})


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with FaultyServer(faulty.answer()) as started:
        yield started


def refusal_of(name: str, make: Any) -> Exception | None:
    """Return the refusal by which something was not made; it names the argument."""
    refusal = None
    try:
        make()
    except (ValueError, TypeError) as error:
        refusal = error
    assert refusal is None or name in str(refusal), repr(refusal)
    return refusal


@given(name=st.sampled_from(SETTINGS), value=ANY_VALUE)
@examples(60)
def test_a_setting_is_refused_when_it_is_given_or_never(server: FaultyServer, name: str, value: Any) -> None:
    given = {"base_url": server.base_url, "api_key": KEY, "max_retries": 0, name: value}
    made: list[Any] = []
    refusals = [
        refusal_of(name, lambda: made.append(LLMService(**given, enable_circuit_breaker=False))),
        refusal_of(name, lambda: made.append(OpenAI(**given))),
        refusal_of(name, lambda: AsyncOpenAI(**given)),
    ]
    if any(refusals):
        assert all(isinstance(refusal, exceptions.OpenAIError) for refusal in refusals), refusals
        return
    service, client = made
    for call in (
        lambda: service.complete("hi"),
        lambda: list(service.complete_streaming("hi")),
        lambda: asyncio.run(service.complete_async("hi")),
        lambda: client.chat.completions.create(model="m", messages=[]),
    ):
        try:
            call()
        except (ValueError, TypeError):
            raise
        except exceptions.APIError:
            pass  # a time limit, or the longest body


@given(name=st.sampled_from(sorted(CALL_SETTINGS)), value=ANY_VALUE)
@examples(60)
def test_a_setting_of_one_call_is_refused_as_that_of_a_service(
    server: FaultyServer, name: str, value: Any
) -> None:
    given = {"base_url": server.base_url, "api_key": KEY, "max_retries": 0}
    service = LLMService(**given, enable_circuit_breaker=False)
    client = OpenAI(**given)
    refused = refusal_of(name, lambda: OpenAI(**{**given, name: value}))
    for call in (
        lambda: service.complete("hi", **{name: value}),
        lambda: service.complete_streaming("hi", **{name: value}),
        lambda: asyncio.run(service.complete_async("hi", **{name: value})),
        lambda: service.complete_streaming_async("hi", **{name: value}),
        lambda: client.chat.completions.create(model="m", messages=[], **{name: value}),
    ):
        try:
            call()
        except exceptions.APIError:
            assert refused is None
        except (ValueError, TypeError) as error:
            assert refused is not None
            assert str(error) == str(refused)  # noqa: PT017
        else:
            assert refused is None


@given(name=st.sampled_from(["base_url", "api_key", "prompt", "system_prompt", "messages"]), value=ANY_VALUE)
@example("base_url", "http:///v1")
@examples(60)
def test_what_a_request_is_made_of_is_sent_or_refused_by_name(
    server: FaultyServer, name: str, value: Any
) -> None:
    given: dict[str, Any] = {"base_url": server.base_url, "api_key": KEY, "enable_circuit_breaker": False}
    if name == "api_key" and isinstance(value, str):
        value = f"{KEY}{value}"
    arguments: dict[str, Any] = {} if name == "messages" else {"prompt": "hi"}
    (given if name in given else arguments)[name] = value

    def call() -> None:
        try:
            LLMService(**given, max_retries=0, connect_timeout=0.2).complete(**arguments)
        except exceptions.APIError:
            assert name == "base_url"

    refusal_of("prompt" if value is None else name, call)


@given(
    headers=st.one_of(st.dictionaries(ANY_TEXT, ANY_TEXT | st.none() | st.integers(), max_size=3), ANY_VALUE)
)
@example({"Content-Length": "5"})
@example({"X-\ud800": "a"})
@examples(60)
def test_headers_and_parameters_are_sent_or_refused_by_name(server: FaultyServer, headers: Any) -> None:
    service = LLMService(base_url=server.base_url, api_key=KEY, enable_circuit_breaker=False)
    server.requests.clear()
    if refusal_of("extra_headers", lambda: service.complete("hi", extra_headers=headers)) is None:
        for header, text in (headers or {}).items():
            if text is not None:
                sent = server.requests[-1].header(header)
                assert sent is not None
                assert sent.encode("latin-1").decode() == str(text).strip(" \t")
        assert server.requests[-1].json["model"]
    server.requests.clear()
    if refusal_of("extra_query", lambda: service.complete("hi", extra_query=headers)) is None:
        assert len(server.requests) == 1


@given(seconds=ANY_VALUE)
@examples(40)
def test_a_time_to_sleep_is_refused_by_name(seconds: Any) -> None:
    async def begin() -> None:
        sleep = asyncio.ensure_future(safe_sleep(seconds))
        await asyncio.wait([sleep], timeout=0.001)
        if not sleep.done():
            sleep.cancel()
        else:
            sleep.result()

    refusal_of("seconds", lambda: asyncio.run(begin()))


@given(
    attempt=st.integers(),
    initial=st.integers(0, 10**6),
    most=st.integers(0, 10**6),
    base=st.floats(1, 1e6),
    jitter=st.floats(0, 1),
)
@examples(60)
def test_a_wait_of_a_backoff_lies_within_its_bounds(
    attempt: int, initial: int, most: int, base: float, jitter: float
) -> None:
    delay = ExponentialBackoff(initial, most, base, jitter).get_delay_ms(attempt)
    if attempt < 0:
        assert delay == 0
    else:
        assert 1 <= delay <= max(1, most * (1 + jitter))
        assert delay >= min(initial, most) * (1 - jitter) - 1
