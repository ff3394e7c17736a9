"""Every answer that was paid for is accepted, and all that it brought is told."""

from __future__ import annotations

import contextlib
import gzip
import json
import pickle
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from arbitrageai_native import AsyncOpenAI, LLMService, OpenAI, exceptions
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import DONE, FaultyServer, chunk

Serve = Callable[..., FaultyServer]


def service(server: FaultyServer, **settings: Any) -> LLMService:
    settings = {"max_retries": 0, "enable_circuit_breaker": False, **settings}
    return LLMService(base_url=server.base_url, api_key=KEY, **settings)


Sdk = Callable[[FaultyServer], openai.OpenAI]


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    """Makes clients of OpenAI's, which are closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda server: stack.enter_context(
            openai.OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0)
        )


def encoded(coding: str, data: bytes) -> bytes:
    if coding == "bare deflate":
        compressor = zlib.compressobj(wbits=-15)
        return compressor.compress(data) + compressor.flush()
    return gzip.compress(data) if "gzip" in coding else zlib.compress(data)


CODINGS = ["gzip", "x-gzip", "deflate", "bare deflate", "identity, gzip"]


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_compressed_answer_is_read(coding: str, serve: Serve) -> None:
    header = f"Content-Encoding: {coding.removeprefix('bare ')}"
    answer = faulty.answer(encoded(coding, json.dumps(faulty.completion()).encode()), headers=[header])
    error = encoded(coding, b'{"error": {"message": "too long"}}')
    events = encoded(coding, chunk("a") + chunk("b") + DONE)
    server = serve(
        answer,
        answer,
        faulty.stream(events[:7], events[7:], headers=[header]),
        faulty.answer(error, status=400, headers=[header]),
    )
    client = service(server)
    assert client.complete("hi")["content"] == "hello"
    assert (await client.complete_async("hi", raw=True))["raw"] == faulty.completion()
    assert [piece async for piece in client.complete_streaming_async("hi")] == ["a", "b"]
    with pytest.raises(exceptions.BadRequestError, match="too long"):
        client.complete("hi")


async def test_the_events_of_a_compressed_stream_come_as_they_are_sent(serve: Serve) -> None:
    compressor = zlib.compressobj(wbits=31)
    parts = []
    for event in (chunk("a"), chunk("b") + DONE):
        parts.append(compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH))

    def act(connection: faulty.Connection) -> bool:
        connection.send(faulty.head(200, "Content-Type: text/event-stream", "Content-Encoding: gzip"))
        connection.send(parts[0])
        return connection.hang()

    stream = service(serve(act)).complete_streaming_async("hi")
    assert await anext(stream) == "a"
    await stream.aclose()


def test_a_compressed_answer_is_bounded_by_what_comes_out_of_it(serve: Serve) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    assert len(bomb) < 60_000
    server = serve(faulty.answer(bomb, headers=["Content-Encoding: gzip"]))
    with pytest.raises(exceptions.APIResponseValidationError, match="longer than 1000000 bytes"):
        service(server, max_body_bytes=1_000_000).complete("hi")


def test_a_compressed_answer_that_is_damaged_or_of_an_unknown_kind_says_so(serve: Serve) -> None:
    body = gzip.compress(json.dumps(faulty.completion()).encode())
    gzipped = ["Content-Encoding: gzip"]
    server = serve(
        faulty.answer(body[:-9], headers=gzipped),
        faulty.answer(body[:20] + b"xxxx" + body[24:], headers=gzipped),
        faulty.answer(body, headers=["Content-Encoding: br"]),
    )
    client = service(server)
    with pytest.raises(exceptions.APIConnectionError, match="compressed body ended too early"):
        client.complete("hi")
    with pytest.raises(exceptions.APIConnectionError, match="compressed body"):
        client.complete("hi")
    with pytest.raises(exceptions.APIResponseValidationError, match=r"encoded as .br."):
        client.complete("hi")


def test_an_answer_may_have_many_headers_and_blank_lines_before_it(serve: Serve) -> None:
    body = json.dumps(faulty.completion()).encode()
    many = [f"X-Provider-{number}: {number}" for number in range(300)]
    head = faulty.head(200, "Content-Type: application/json", "Connection: close", length=len(body))
    server = serve(
        faulty.answer(headers=many),
        faulty.raw(b"\r\n\r\n" + head + body),
        faulty.raw(faulty.head(200, "Connection: close") + b"\r\n \n\n" + body + b"\n"),
    )
    client = service(server)
    for _ in range(3):
        assert client.complete("hi")["content"] == "hello"


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 3.0, "completion_tokens": 4.0, "total_tokens": 7.0},
        {"prompt_tokens": "3", "completion_tokens": "4", "total_tokens": "7"},
        {"prompt_tokens": 3, "completion_tokens": 4},
    ],
    ids=["floats", "strings", "no sum"],
)
def test_tokens_are_counted_however_they_are_written(usage: dict[str, Any], serve: Serve) -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    last = faulty.chunk("a", finish_reason="stop", usage=usage)
    server = serve(faulty.answer(faulty.completion(usage=usage)), faulty.stream(last, DONE))
    client = service(server)
    assert client.complete("hi")["usage"] == counts
    stream = client.complete_streaming("hi")
    assert (list(stream), stream.usage) == (["a"], counts)
    assert client.metrics()["tokens"] == {"prompt": 6, "completion": 8}


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
    {"type": "text", "text": "he"},
    {"type": "text", "text": "llo"},
]


def test_of_content_in_parts_the_text_is_the_content(serve: Serve, sdk: Sdk) -> None:
    server = serve(
        faulty.answer(faulty.completion(PARTS)),
        faulty.answer(faulty.completion(PARTS)),
        faulty.answer(faulty.completion(PARTS)),
        faulty.answer(faulty.completion(["he", {"text": "llo"}])),
        faulty.stream(chunk(PARTS, "stop"), DONE),  # type: ignore[arg-type]
    )
    client = service(server)
    result = client.complete("hi", raw=True)
    assert (result["content"], result["reasoning"]) == ("hello", "hm")
    assert result["raw"]["choices"][0]["message"]["content"] == PARTS
    assert (
        OpenAI(base_url=server.base_url, api_key=KEY)
        .chat.completions.create(model="m", messages=[])
        .model_dump()["choices"][0]["message"]["content"]
        == PARTS
    )
    through_sdk = service(server)
    through_sdk.client = sdk(server)
    assert through_sdk.complete("hi")["content"] == "hello"
    assert client.complete("hi")["content"] == "hello"
    stream = client.complete_streaming("hi")
    assert (list(stream), stream.reasoning) == (["hello"], "hm")


def test_an_odd_answer_does_not_open_the_circuit(serve: Serve) -> None:
    server = serve(*[faulty.answer(b"<html>")] * 5, *[faulty.answer({"choices": []})] * 5, faulty.answer())
    client = service(server, enable_circuit_breaker="always")
    for _ in range(10):
        with pytest.raises(exceptions.APIResponseValidationError):
            client.complete("hi")
    assert client.complete("hi")["content"] == "hello"


@pytest.mark.holds_the_loop("the SDK's client is made in it")
async def test_a_member_of_an_answer_hides_no_method(serve: Serve, sdk: Sdk) -> None:
    names = ["model_dump", "to_dict", "model_dump_json", "to_json", "_members", "__class__", "_request_id"]
    body = faulty.completion(**dict.fromkeys(names, "mine"))
    server = serve(faulty.answer(body, headers=["x-request-id: r-1"]))
    answer = await AsyncOpenAI(base_url=server.base_url, api_key=KEY).chat.completions.create(
        model="m", messages=[]
    )
    theirs = sdk(server).chat.completions.create(model="m", messages=[])
    assert answer.model_dump() == answer.to_dict() == body
    assert json.loads(answer.model_dump_json()) == json.loads(answer.to_json()) == body
    assert (answer["model_dump"], dict(answer)["to_json"]) == ("mine", "mine")
    assert answer._request_id == theirs._request_id == "r-1"
    assert answer == type(answer)(body)
    assert answer != type(answer)({**body, "to_json": "other"})
    assert "model_dump='mine'" in repr(answer)


# What the answer brought

LIMITS = ["X-Request-Id: r-1", "X-RateLimit-Remaining-Requests: 9", "x-ratelimit-reset-tokens: 6ms"]
KEPT = {"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-tokens": "6ms"}
DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, **DETAILS}
CALL = {"id": "c1", "type": "function", "function": {"name": "bid", "arguments": '{"a": 1}'}}


@pytest.mark.holds_the_loop("the SDK's client is made in it")
@pytest.mark.parametrize("member", ["reasoning", "reasoning_content"])
async def test_a_result_has_all_that_the_answer_brought(member: str, serve: Serve, sdk: Sdk) -> None:
    message = {"role": "assistant", "content": "a", member: "because", "tool_calls": [CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "length"}
    server = serve(faulty.answer(faulty.completion(choices=[choice], usage=USAGE), headers=LIMITS))
    client = service(server)
    for result in (client.complete("hi"), await client.complete_async("hi", raw=True)):
        assert result["finish_reason"] == "length"
        assert result["reasoning"] == "because"
        assert result["tool_calls"] == [CALL]
        assert result["usage"] == USAGE
        assert (result["request_id"], result["rate_limits"]) == ("r-1", KEPT)
    through_sdk = service(server)
    through_sdk.client = sdk(server)
    other = through_sdk.complete("hi")
    names = ("finish_reason", "reasoning", "request_id")
    assert [other.get(name) for name in names] == [result.get(name) for name in names]
    assert other["usage"]["prompt_tokens_details"]["cached_tokens"] == 2
    answer = OpenAI(base_url=server.base_url, api_key=KEY).chat.completions.create(model="m", messages=[])
    assert (answer._request_id, answer._rate_limits) == ("r-1", KEPT)


def test_a_result_has_no_more_than_the_answer_brought(serve: Serve) -> None:
    choice = {"message": {"content": "a", "tool_calls": None, "reasoning": None}, "finish_reason": ""}
    server = serve(faulty.answer({"choices": [choice]}))
    result = service(server).complete("hi")
    assert result["finish_reason"] is None
    assert sorted(result) == sorted(
        ["content", "finish_reason", "model", "response_time_ms", "stealth_mode_used", "usage"]
    )
    answer = OpenAI(base_url=server.base_url, api_key=KEY).chat.completions.create(model="m", messages=[])
    assert (answer._request_id, answer._rate_limits) == (None, None)
    assert answer.choices[0].delta is None


def part(**delta: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": None}]
    return chunk(choices=choices)


def call(index: int | None, *, id: str | None = None, name: str | None = None, arguments: str = "") -> Any:
    found: dict[str, Any] = {"function": {"arguments": arguments}}
    if index is not None:
        found["index"] = index
    if id is not None:
        found |= {"id": id, "type": "function"}
        found["function"]["name"] = name
    return found


ASIDES = [
    part(role="assistant", reasoning_content="be"),
    part(reasoning="cause", content=""),
    part(content="a"),
    part(tool_calls=[call(0, id="c1", name="bid", arguments="")]),
    part(tool_calls=[call(0, arguments='{"a"')]),
    part(tool_calls=[call(0, arguments=": 1}"), call(1, id="c2", name="ask", arguments="{}")]),
    chunk(finish_reason="tool_calls"),
    chunk(choices=[], usage=USAGE),
    DONE,
]
CALLS = [CALL, {"id": "c2", "type": "function", "function": {"name": "ask", "arguments": "{}"}}]


@pytest.mark.holds_the_loop("the SDK's client is made in it")
@pytest.mark.parametrize("kind", ["native", "sdk", "asynchronous sdk"])
async def test_a_stream_has_all_that_the_answer_brought(kind: str, serve: Serve, sdk: Sdk) -> None:
    server = serve(faulty.stream(*ASIDES, headers=LIMITS))
    client = service(server)
    if kind == "sdk":
        client.client = sdk(server)
    elif kind == "asynchronous sdk":
        client.client = openai.AsyncOpenAI(base_url=server.base_url, api_key=KEY, max_retries=0)
    stream = client.complete_streaming_async("hi")
    assert (stream.reasoning, stream.tool_calls, stream.request_id) == (None, [], None)
    assert [piece async for piece in stream] == ["a"]
    assert (stream.reasoning, stream.tool_calls) == ("because", CALLS)
    assert (stream.finish_reason, stream.model) == ("tool_calls", "served-model")
    assert stream.usage is not None
    assert stream.usage["total_tokens"] == 7
    if kind == "native":
        assert stream.usage == USAGE
        assert (stream.request_id, stream.rate_limits) == ("r-1", KEPT)
    if kind == "asynchronous sdk":
        await client.client.close()  # type: ignore[attr-defined]
        return  # its connections belong to this loop
    blocking = client.complete_streaming("hi")
    assert list(blocking) == ["a"]
    assert (blocking.reasoning, blocking.tool_calls) == ("because", CALLS)


async def test_tool_calls_without_numbers_or_all_of_number_0_are_told_apart(serve: Serve) -> None:
    for index in (None, 0):
        calls = [call(index, id=id, name="bid", arguments="{}") for id in ("c1", "c2")]
        events = [part(tool_calls=calls)] if index is None else [part(tool_calls=[one]) for one in calls]
        stream = service(serve(faulty.stream(*events, chunk(finish_reason="stop"), DONE)))
        pieces = stream.complete_streaming_async("hi")
        assert [piece async for piece in pieces] == []
        assert [found["id"] for found in pieces.tool_calls] == ["c1", "c2"]


@pytest.mark.parametrize("delta", [{"reasoning": "x" * 900}, {"tool_calls": [call(0, arguments="x" * 900)]}])
async def test_what_comes_beside_the_text_is_bounded(delta: dict[str, Any], serve: Serve) -> None:
    server = serve(faulty.stream(*[part(**delta)] * 10, DONE))
    with pytest.raises(exceptions.APIResponseValidationError, match="longer than 2000 bytes"):
        [_ async for _ in service(server, max_body_bytes=2000).complete_streaming_async("hi")]


async def test_azures_filter_chunk_changes_no_model_and_has_no_delta(serve: Serve) -> None:
    odd = {"index": 0, "finish_reason": None, "content_filter_offsets": {}}
    events = [chunk("a"), chunk(model="", choices=[odd]), chunk(finish_reason="stop"), DONE]
    server = serve(faulty.stream(*events))
    stream = service(server).complete_streaming_async("hi")
    assert [piece async for piece in stream] == ["a"]
    assert stream.model == "served-model"
    chunks = OpenAI(base_url=server.base_url, api_key=KEY).chat.completions.create(
        model="m", messages=[], stream=True
    )
    assert [one.choices[0].delta and one.choices[0].delta.content for one in chunks] == ["a", None, None]


# Errors

ERROR_BODIES = [
    ({"error": {"message": "too long"}}, "too long"),
    ({"error": "too long"}, "too long"),
    ({"object": "error", "message": "too long"}, "too long"),
    ({"detail": "too long"}, "too long"),
    ({"detail": [{"loc": ["body"], "msg": "too long"}]}, "too long"),
    ({"errors": [{"message": "too long"}]}, "too long"),
    ([{"error": {"message": "too long"}}], "too long"),
    ({"title": "Bad", "status": 400, "detail": "too long"}, "too long"),
    ({"error": "invalid_request", "error_description": "too long"}, "invalid_request"),
    (b"too long", "too long"),
    (b"<!doctype html><title>too\n long</title>", "too long"),
]


@pytest.mark.holds_the_loop("the SDK's client is made in it")
@pytest.mark.parametrize(("body", "words"), ERROR_BODIES, ids=lambda value: str(value)[:30])
async def test_an_error_has_the_servers_words_whatever_their_form(
    body: Any, words: str, serve: Serve, sdk: Sdk
) -> None:
    server = serve(faulty.answer(body, status=400))
    client = service(server)
    with pytest.raises(exceptions.BadRequestError, match=f"Error code: 400 - .*{words}") as caught:
        client.complete("hi")
    with pytest.raises(exceptions.BadRequestError, match=words):
        [piece async for piece in client.complete_streaming_async("hi")]
    with pytest.raises(openai.BadRequestError) as theirs:
        sdk(server).chat.completions.create(model="m", messages=[])
    response = pickle.loads(pickle.dumps(caught.value)).response
    assert response.text == theirs.value.response.text
    if isinstance(body, bytes):
        with pytest.raises(ValueError):
            response.json()
    else:
        assert response.json() == theirs.value.response.json() == body
