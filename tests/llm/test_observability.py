"""Logs, counters and spans: what is told, and that prompts and keys never are."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from arbitrageai_native import LLMService, OpenAI, _native, exceptions
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import DONE, FaultyServer, chunk
from testing_support.waiting import until

Serve = Callable[..., FaultyServer]
PROMPT = "a confidential prompt"


def service(server: FaultyServer, **settings: Any) -> LLMService:
    settings = {"max_retries": 0, "enable_circuit_breaker": False, **settings}
    return LLMService(base_url=server.base_url, api_key=KEY, model="m", **settings)


# Logging


async def test_each_call_is_one_line(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "arbitrageai_native.llm")
    client = service(serve(faulty.answer(), faulty.answer(), faulty.answer(status=404)))
    client.complete(PROMPT)
    await client.complete_async(PROMPT)
    with pytest.raises(exceptions.NotFoundError):
        await client.complete_async(PROMPT)
    assert {record.name for record in caplog.records} == {"arbitrageai_native.llm"}
    warning, first, second, third = (record.getMessage() for record in caplog.records)
    assert "complete() blocks the event loop" in warning
    for line in (first, second):
        assert line.startswith("m: answered in ")
        assert line.endswith("7 tokens")
    assert third.startswith("m: NotFoundError 404 after ")


async def test_a_stream_is_one_line_too(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "arbitrageai_native.llm")
    client = service(serve(faulty.stream(chunk("a"), DONE), faulty.stream(chunk("a"))))
    assert list(client.complete_streaming(PROMPT)) == ["a"]
    with pytest.raises(exceptions.APIConnectionError):
        [piece async for piece in client.complete_streaming_async(PROMPT)]
    first, second = (record.getMessage() for record in caplog.records if record.levelname == "INFO")
    assert first.startswith("m: answered")
    assert second.startswith("m: APIConnectionError after")


# Counters


async def test_calls_are_counted(serve: Serve) -> None:
    failing = faulty.answer(status=500)
    server = serve(failing, faulty.answer(), failing, failing, faulty.close, faulty.close, faulty.answer())
    client = service(server, max_retries=1, retry_base=0.01)
    await client.complete_async("hi")
    with pytest.raises(exceptions.InternalServerError):
        await client.complete_async("hi")
    with pytest.raises(exceptions.APIConnectionError):
        await client.complete_async("hi")
    with pytest.raises(exceptions.APITimeoutError):
        await service(serve(faulty.hang)).complete_async("hi", timeout=0.05)
    client.complete("hi")
    figures = client.metrics()
    assert (figures["calls"], figures["successes"], figures["retries"]) == (4, 2, 3)
    assert {kind: count for kind, count in figures["failures"].items() if count} == {
        "status": 1,
        "connection": 1,
    }
    assert sum(figures["latency_seconds"].values()) == 2
    assert figures["latency_seconds_total"] > 0
    assert figures["blocking_calls_in_loop"] == 1


# OpenTelemetry


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


async def test_a_call_is_a_span_whose_context_is_sent_along(
    serve: Serve, spans: InMemorySpanExporter
) -> None:
    server = serve(faulty.answer())
    client = service(server)
    with trace.get_tracer("test").start_as_current_span("outer"):
        await client.complete_async(PROMPT, extra_headers={"X-A": "b"})
    client.complete(PROMPT)
    inner, outer, alone = spans.get_finished_spans()
    assert inner.name == "chat m"
    assert inner.kind is trace.SpanKind.CLIENT
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert dict(inner.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.max_tokens": 1000,
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "gen_ai.response.model": "served-model",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
    }
    for span, request in zip((inner, alone), server.requests, strict=True):
        context = span.context
        expected = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        assert request.header("traceparent") == expected
    assert server.requests[0].header("x-a") == "b"


async def test_a_failed_call_is_a_failed_span(serve: Serve, spans: InMemorySpanExporter) -> None:
    client = service(serve(faulty.answer(status=503), faulty.stream(chunk("a"))))
    with pytest.raises(exceptions.InternalServerError):
        await client.complete_async(PROMPT)
    with pytest.raises(exceptions.APIConnectionError):
        list(client.complete_streaming(PROMPT))
    status, broken = spans.get_finished_spans()
    assert (status.attributes or {})["error.type"] == "503"
    assert (broken.attributes or {})["error.type"] == "APIConnectionError"
    for span in (status, broken):
        assert span.status.status_code is trace.StatusCode.ERROR


async def test_a_cancelled_call_ends_its_span(serve: Serve, spans: InMemorySpanExporter) -> None:
    task = asyncio.create_task(service(serve(faulty.hang)).complete_async(PROMPT))
    await until(lambda: _native.requests_under_way() == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (span,) = spans.get_finished_spans()
    assert (span.attributes or {})["error.type"] == "CancelledError"


async def test_without_a_tracer_the_current_spans_context_is_sent(serve: Serve) -> None:
    server = serve(faulty.answer())
    context = trace.SpanContext(1, 2, is_remote=False, trace_flags=trace.TraceFlags(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", None)
        with trace.use_span(trace.NonRecordingSpan(context)):
            await service(server).complete_async(PROMPT)
        await service(server).complete_async(PROMPT)
    assert server.requests[0].header("traceparent") == f"00-{1:032x}-{2:016x}-01"
    assert server.requests[1].header("traceparent") is None


# Secrets


def every_text_of(error: BaseException) -> str:
    parts = [repr(error), str(error), repr(vars(error)), "".join(traceback.format_exception(error))]
    # Local variables too, as crash reporters collect them: the representation of every object on the way.
    parts.append("".join(traceback.TracebackException.from_exception(error, capture_locals=True).format()))
    return "\n".join(parts)


FAULTS: list[faulty.Action] = [
    *(faulty.answer(status=status) for status in (400, 401, 429, 500)),
    faulty.close,
    faulty.reset,
    faulty.cut(10),
    faulty.raw(b"nonsense"),
    faulty.answer(b"<html>"),
    faulty.answer(b"[]"),
    faulty.answer(status=307, headers=["Location: http://other.invalid/"]),
    faulty.hang,
]


async def test_the_key_is_in_no_log_error_pickle_or_span(
    serve: Serve, caplog: pytest.LogCaptureFixture, spans: InMemorySpanExporter
) -> None:
    caplog.set_level(logging.DEBUG)

    def expect_no_key(text: str) -> None:
        assert KEY not in text
        assert PROMPT not in caplog.text

    for action in FAULTS:
        server = serve(action)
        client = service(server)
        native = OpenAI(base_url=server.base_url, api_key=KEY)
        for call in (
            lambda client=client: client.complete(PROMPT, timeout=0.2),
            lambda client=client: list(client.complete_streaming(PROMPT, timeout=0.2)),
            lambda native=native: native.chat.completions.create(
                model="m", messages=[], timeout=0.2, max_retries=0
            ),
        ):
            with pytest.raises(exceptions.OpenAIError) as caught:
                call()
            expect_no_key(every_text_of(caught.value))
            again = pickle.loads(pickle.dumps(caught.value))
            assert type(again) is type(caught.value)
            assert (str(again), again.body) == (str(caught.value), caught.value.body)  # type: ignore[attr-defined]
            expect_no_key(repr(pickle.dumps(caught.value)))
        with pytest.raises(exceptions.OpenAIError) as caught:
            await client.complete_async(PROMPT, timeout=0.2)
        expect_no_key(every_text_of(caught.value))
    expect_no_key(caplog.text)
    expect_no_key("".join(span.to_json() for span in spans.get_finished_spans()))
