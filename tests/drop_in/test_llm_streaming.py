"""`llm_service`: streams, sentence by sentence."""

import time
from typing import Any

import pytest

from arbitrageai_native.testing import Answer, Failure, ModelServer
from testing_support.keys import KEY


def test_complete_streaming_gives_the_pieces_of_text(service: Any, server: ModelServer) -> None:
    server.script(Answer(pieces=["one ", "two ", "three"]))
    assert list(service.complete_streaming("p")) == ["one ", "two ", "three"]


def test_empty_pieces_are_skipped(service: Any, server: ModelServer) -> None:
    server.script(Answer(pieces=["one", "", "two", ""]))
    assert list(service.complete_streaming("p")) == ["one", "two"]


def test_the_pieces_come_as_the_server_sends_them(service: Any, server: ModelServer) -> None:
    server.script(Answer(pieces=["one", "two"], piece_delay=0.3))
    start = time.monotonic()
    arrivals = [time.monotonic() - start for _ in service.complete_streaming("p")]
    assert arrivals[1] - arrivals[0] >= 0.2


def test_the_request_of_a_stream(service: Any, server: ModelServer) -> None:
    list(service.complete_streaming("hello", 0.1, 5, "be kind", top_p=0.5))
    body = server.requests[0].json
    assert body["stream"] is True
    assert body["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hello"},
    ]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt-4o-mini", 0.1, 5)
    assert body["top_p"] == 0.5


def test_a_stream_is_its_own_iterator_and_can_be_closed(service: Any, server: ModelServer) -> None:
    server.script(Answer(pieces=["one", "two", "three"]))
    stream = service.complete_streaming("p")
    assert iter(stream) is stream
    assert next(stream) == "one"
    stream.close()
    assert list(stream) == []


def test_the_call_is_made_when_the_first_piece_is_asked_for(service: Any, server: ModelServer) -> None:
    stream = service.complete_streaming("p")
    assert not server.requests
    next(stream)
    assert len(server.requests) == 1


def test_a_failed_stream_raises(service: Any, server: ModelServer, errors: Any) -> None:
    server.script(Failure(400))
    with pytest.raises(errors.BadRequestError):
        list(service.complete_streaming("p"))


@pytest.mark.better(raises=AttributeError)
async def test_complete_streaming_async_is_the_same_as_an_async_iterator(
    service: Any, server: ModelServer
) -> None:
    server.script(Answer(pieces=["one ", "", "two"]))
    assert [piece async for piece in service.complete_streaming_async("p", 0, 5, "s", seed=1)] == [
        "one ",
        "two",
    ]
    body = server.requests[0].json
    assert (body["stream"], body["temperature"], body["max_tokens"], body["seed"]) == (True, 0, 5, 1)


@pytest.mark.better(raises=pytest.fail.Exception)
def test_an_open_circuit_refuses_a_stream(llm_service: Any, server: ModelServer) -> None:
    service = llm_service.LLMService(base_url=server.base_url, api_key=KEY)
    for _ in range(3):
        service._health_checker.record_failure(service.base_url)
    with pytest.raises(llm_service.CircuitBreakerError):
        list(service.complete_streaming("p"))
    assert not server.requests
