"""Against OpenAI's own package, as the reference client: the same requests, tries, waits and errors."""

from __future__ import annotations

import email.utils
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import openai._base_client
import pytest

from arbitrageai_native import LLMService, OpenAI
from testing_support.keys import KEY
from testing_support.machine import Stopwatch
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import DONE, Action, FaultyServer, chunk

# The reference's backoff is scaled down with ours, so that the scripts take seconds, not minutes.
BASE, CAP = 0.1, 0.3

MESSAGES = [{"role": "user", "content": "Grüße, 世界 \U0001f600"}]

TOOL = {
    "type": "function",
    "function": {
        "name": "bid",
        "parameters": {"type": "object", "properties": {"amount": {"type": "number"}}},
    },
}

REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "zero temperature": {"temperature": 0},
    "sampling": {"top_p": 0.9, "seed": 7, "stop": ["\n", "END"], "presence_penalty": -0.5},
    "tools": {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
    "schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "strict": True, "schema": {"type": "object"}},
        }
    },
    "logprobs": {"logprobs": True, "top_logprobs": 3, "n": 2},
    "null": {"stop": None, "user": "u"},
    "extras": {"extra_body": {"keep_alive": "5m", "temperature": 0.1}},
    "images": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is it?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": []},
        ]
    },
}


@pytest.fixture(autouse=True)
def fast_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", BASE)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", CAP)


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("streaming", [False, True])
def test_the_same_request_is_sent(name: str, streaming: bool) -> None:
    arguments = {"model": "m", "messages": MESSAGES, "temperature": 0.7, "max_tokens": 9, **REQUESTS[name]}
    action = faulty.stream(chunk("a"), DONE) if streaming else faulty.answer()
    if streaming:
        arguments["stream"] = True
    with FaultyServer(action) as server:
        with openai.OpenAI(base_url=server.base_url, api_key=KEY) as reference:
            theirs = reference.chat.completions.create(**arguments)
            ours = OpenAI(base_url=server.base_url, api_key=KEY).chat.completions.create(**arguments)
            if streaming:
                assert [part.choices[0].delta.content for part in ours] == [
                    part.choices[0].delta.content for part in theirs
                ]
            else:
                assert ours.choices[0].message.content == theirs.choices[0].message.content
                assert ours.usage.model_dump() == theirs.usage.model_dump(exclude_unset=True)
                assert ours.model_dump() == theirs.model_dump(exclude_unset=True)
        first, second = server.requests
    assert second.json == first.json
    assert (second.method, second.target) == (first.method, first.target)
    for header in ("authorization", "content-type", "accept"):
        assert second.header(header) == first.header(header)


def test_the_service_sends_what_the_original_sent() -> None:
    with FaultyServer(faulty.answer()) as server:
        with openai.OpenAI(base_url=server.base_url, api_key=KEY) as reference:
            reference.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],
                temperature=0.7,
                max_tokens=1000,
                timeout=30.0,
                top_p=0.5,
                extra_headers={"X-A": "b"},
                extra_query={"q": "1"},
            )
        service = LLMService(base_url=server.base_url, api_key=KEY)
        service.complete(
            "p", system_prompt="s", top_p=0.5, extra_headers={"X-A": "b"}, extra_query={"q": "1"}
        )
        first, second = server.requests
    assert second.json == first.json
    assert second.target == first.target
    assert second.header("x-a") == first.header("x-a")


def http_date(seconds: float) -> str:
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


def failing(status: int, *headers: str) -> Action:
    return faulty.answer(status=status, headers=headers)


OK = faulty.answer()
BODY = len(json.dumps(faulty.completion()))

# The name, the script, and what the client is given.
SCRIPTS: dict[str, tuple[list[Action], dict[str, Any]]] = {
    "500 once": ([failing(500), OK], {}),
    "500 for ever": ([failing(500)], {}),
    "no retries": ([failing(500)], {"max_retries": 0}),
    "four retries": ([failing(502)], {"max_retries": 4}),
    "503, 429, answer": ([failing(503), failing(429), OK], {}),
    "408": ([failing(408)], {}),
    "409": ([failing(409)], {}),
    "400": ([failing(400)], {}),
    "401": ([failing(401)], {}),
    "403": ([failing(403)], {}),
    "404": ([failing(404)], {}),
    "422": ([failing(422)], {}),
    "418": ([failing(418)], {}),
    "retry-after in seconds": ([failing(429, "Retry-After: 0.7"), OK], {}),
    "retry-after in milliseconds": ([failing(429, "Retry-After-Ms: 600"), OK], {}),
    "both": ([failing(429, "Retry-After: 3", "Retry-After-Ms: 500"), OK], {}),
    "retry-after that is no number": ([failing(503, "Retry-After: soon"), OK], {}),
    "retry-after of zero": ([failing(503, "Retry-After: 0"), OK], {}),
    "retry-after of three minutes": ([failing(503, "Retry-After: 180"), OK], {}),
    "x-should-retry: true": ([failing(400, "X-Should-Retry: true"), OK], {}),
    "x-should-retry: false": ([failing(500, "X-Should-Retry: false"), OK], {}),
    "closed": ([faulty.close], {}),
    "reset, then an answer": ([faulty.reset, OK], {}),
    "cut in the body": ([faulty.cut(BODY // 2)], {}),
    "no answer": ([faulty.hang], {"timeout": 0.4, "max_retries": 1}),
    "late body": ([faulty.answer(before_body=3)], {"timeout": 0.4, "max_retries": 1}),
}


def outcome(client: Any, settings: dict[str, Any], is_reference: bool) -> tuple[str, Any, str]:
    """The error's name, status and message, or the content."""
    if is_reference:
        client = client.with_options(**settings)
        settings = {}
    try:
        answer = client.chat.completions.create(model="m", messages=MESSAGES, **settings)
    except Exception as error:
        # Where both have nothing but the phase to tell, the texts are each one's own.
        status = getattr(error, "status_code", None)
        return type(error).__name__, status, str(error) if status is not None else ""
    return "", None, answer.choices[0].message.content


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_same_failures_lead_to_the_same_tries_waits_and_errors(name: str) -> None:
    script, settings = SCRIPTS[name]
    watch = Stopwatch()
    with FaultyServer(*script) as theirs, FaultyServer(*script) as ours:
        reference = openai.OpenAI(base_url=theirs.base_url, api_key=KEY)
        native = OpenAI(base_url=ours.base_url, api_key=KEY, retry_base=BASE, retry_cap=CAP)
        with reference, ThreadPoolExecutor(2) as pool:
            expected = pool.submit(outcome, reference, settings, True)
            found = pool.submit(outcome, native, settings, False)
            assert found.result() == expected.result()
        assert len(ours.requests) == len(theirs.requests)
        for our_wait, their_wait in zip(ours.waits, theirs.waits, strict=True):
            # Either may be a quarter shorter than the longest backoff, and the machine may be busy.
            assert abs(our_wait - their_wait) < CAP / 4 + 0.25 + watch.held_up


def test_a_date_as_retry_after_is_waited_for_alike() -> None:
    date = f"Retry-After: {http_date(4)}"
    with FaultyServer(failing(503, date), OK) as theirs, FaultyServer(failing(503, date), OK) as ours:
        reference = openai.OpenAI(base_url=theirs.base_url, api_key=KEY)
        native = OpenAI(base_url=ours.base_url, api_key=KEY)
        with reference, ThreadPoolExecutor(2) as pool:
            expected = pool.submit(outcome, reference, {}, True)
            found = pool.submit(outcome, native, {}, False)
            assert found.result() == expected.result()
        # The date has whole seconds, of which starting took some; without it, the wait is 0.8 s at most.
        assert [1 < waits[0] < 20 for waits in (ours.waits, theirs.waits)] == [True, True]


def test_the_waits_are_the_references_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with FaultyServer(failing(500)) as theirs, FaultyServer(failing(500)) as ours:
        reference = openai.OpenAI(base_url=theirs.base_url, api_key=KEY)
        native = OpenAI(base_url=ours.base_url, api_key=KEY)
        with reference, ThreadPoolExecutor(2) as pool:
            expected = pool.submit(outcome, reference, {}, True)
            found = pool.submit(outcome, native, {}, False)
            assert found.result() == expected.result()
        for waits in (ours.waits, theirs.waits):
            assert [0.375 <= waits[0] < 5, 0.75 <= waits[1] < 5] == [True, True]


def test_a_stream_cut_before_its_end_is_complete_for_the_reference_and_an_error_here() -> None:
    with FaultyServer(faulty.stream(chunk("a"))) as server:
        arguments = {"model": "m", "messages": MESSAGES, "stream": True}
        with openai.OpenAI(base_url=server.base_url, api_key=KEY) as reference:
            assert len(list(reference.chat.completions.create(**arguments))) == 1
        native = OpenAI(base_url=server.base_url, api_key=KEY)
        with pytest.raises(Exception, match=r"before \[DONE\]"):
            list(native.chat.completions.create(**arguments))


def test_the_errors_have_the_references_names_and_parents() -> None:
    from arbitrageai_native import exceptions

    for name in exceptions.__all__:
        reference = getattr(openai, name, None)
        if reference is None:
            continue
        parents = [parent.__name__ for parent in reference.__mro__ if parent.__module__.startswith("openai")]
        found = [
            parent.__name__
            for parent in getattr(exceptions, name).__mro__
            if parent.__module__ == "arbitrageai_native.exceptions"
        ]
        assert found == parents
