"""What is told of a call to whoever listens: a log line, an OpenTelemetry span. Never prompts, never keys.

Nobody listens to most calls: `observe` then costs two look-ups.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import logging

__all__ = ["Observation", "logger", "observe", "trace_headers"]


@cache
def logger() -> logging.Logger:
    """Where calls are told of. `logging` is imported only now: it takes longer than all of this package."""
    import logging

    return logging.getLogger("arbitrageai_native.llm")


def _somebody_reads_the_log() -> bool:
    # Not imported by anyone, it can't have been set up by anyone.
    logging = sys.modules.get("logging")
    return logging is not None and logger().isEnabledFor(logging.INFO)


class Observation:
    """One call, from its start to its end."""

    __slots__ = ("_model", "_span", "_start")

    def __init__(self, model: str, span: Any) -> None:
        self._model = model
        self._span = span
        self._start = perf_counter()

    def succeeded(self, result: dict[str, Any]) -> None:
        """The call brought an answer."""
        usage = result.get("usage") or {}
        milliseconds = (perf_counter() - self._start) * 1000
        logger().info(
            "%s: answered in %.0f ms, %s tokens", self._model, milliseconds, usage.get("total_tokens")
        )
        if self._span is not None:
            if result.get("model") is not None:
                self._span.set_attribute("gen_ai.response.model", str(result["model"]))
            for attribute, name in (("input", "prompt_tokens"), ("output", "completion_tokens")):
                if isinstance(usage.get(name), int):
                    self._span.set_attribute(f"gen_ai.usage.{attribute}_tokens", usage[name])
            self._span.end()

    def failed(self, error: BaseException) -> None:
        """The call failed. Its text may quote the prompt: only its kind is told."""
        kind = type(error).__name__
        status = getattr(error, "status_code", None)
        milliseconds = (perf_counter() - self._start) * 1000
        detail = "" if status is None else f" {status}"
        logger().info("%s: %s%s after %.0f ms", self._model, kind, detail, milliseconds)
        if self._span is not None:
            self._span.set_attribute("error.type", kind if status is None else str(status))
            self._span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR, kind)
            self._span.end()


def observe(model: object, body: dict[str, Any], base_url: object) -> Observation | None:
    """Start observing a call, if anybody listens."""
    span = None
    trace = sys.modules.get("opentelemetry.trace")
    # An application that uses OpenTelemetry has imported it; one without a tracer provider wants no spans.
    if trace is not None and type(trace.get_tracer_provider()).__name__ != "ProxyTracerProvider":
        span = _start_span(trace, model, body, base_url)
    elif not _somebody_reads_the_log():
        return None
    return Observation(str(model), span)


def _start_span(trace: Any, model: object, body: dict[str, Any], base_url: object) -> Any:
    from urllib.parse import urlsplit

    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": str(model),
    }
    for name in ("temperature", "max_tokens", "top_p", "seed"):
        if isinstance(body.get(name), (int, float)):
            attributes[f"gen_ai.request.{name}"] = body[name]
    try:
        address = urlsplit(str(base_url))
        if address.hostname:
            attributes["server.address"] = address.hostname
        if address.port:
            attributes["server.port"] = address.port
    except ValueError:
        pass
    tracer = trace.get_tracer("arbitrageai_native")
    return tracer.start_span(f"chat {model}", kind=trace.SpanKind.CLIENT, attributes=attributes)


def trace_headers(observation: Observation | None) -> dict[str, str] | None:
    """The `traceparent` (and what else is propagated) of the call's span, or of the current one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    span = observation._span if observation is not None else None
    context = trace.set_span_in_context(span) if span is not None else None
    if span is None and not trace.get_current_span().get_span_context().is_valid:
        return None
    propagate = importlib.import_module("opentelemetry.propagate")

    headers: dict[str, str] = {}
    propagate.inject(headers, context=context)
    return headers or None
