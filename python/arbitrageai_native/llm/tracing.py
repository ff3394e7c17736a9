"""Reports of calls: a log line, an OpenTelemetry span, listeners. Never prompts, never keys.

Nobody listens to most calls: `observe` then costs three look-ups.
"""

from __future__ import annotations

import importlib
import logging
import re
import sys
from collections.abc import Callable, Mapping
from time import perf_counter
from types import TracebackType
from typing import Any

# `urllib.parse` can do this, but importing it would make the import of this package a tenth slower.
_ADDRESS = (
    r"[^:/?#]+://(?:[^/?#]*@)?"
    r"(?:\[(?P<ip>[^\]]+)\]|(?P<host>[^/?#@:\[]+))(?::(?P<port>[0-9]{1,5}))?(?=[/?#]|$)"
)

Listener = Callable[[float, Mapping[str, object], Mapping[str, object]], None]
"""Called when a call has ended: with its seconds, its tokens, and its attributes by OpenTelemetry's names."""

logger = logging.getLogger("arbitrageai_native.llm")
"""Logs every call at level INFO."""

_listeners: tuple[Listener, ...] = ()


def listen(listener: Listener) -> None:
    """Call a listener after every call, in the thread that made the call: the listener has to be quick."""
    global _listeners
    _listeners = (*_listeners, listener)


class Observation:
    """One call, from its start to its end. As a context manager it ends with the block.

    Attributes:
        result: What the call brought; the block sets it.
    """

    __slots__ = ("_attributes", "_model", "_span", "_start", "result")

    def __init__(self, model: str, span: Any, attributes: dict[str, Any]) -> None:
        self._model = model
        self._span = span
        self._attributes = attributes
        self._start = perf_counter()
        self.result: Any = None

    def __enter__(self) -> None:
        """Begin: the time counts from the making of this object."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.succeeded(self.result)
        else:
            self.failed(error)

    def succeeded(self, result: Mapping[str, Any]) -> None:
        """Report an answer."""
        usage = result.get("usage") or {}
        seconds = perf_counter() - self._start
        logger.info(
            "%s: answered in %.0f ms, %s tokens", self._model, seconds * 1000, usage.get("total_tokens")
        )
        if self._span is not None:
            if result.get("model") is not None:
                self._span.set_attribute("gen_ai.response.model", str(result["model"]))
            for attribute, name in (("input", "prompt_tokens"), ("output", "completion_tokens")):
                if isinstance(usage.get(name), int):
                    self._span.set_attribute(f"gen_ai.usage.{attribute}_tokens", usage[name])
            self._span.end()
        # Without the wait of stealth mode.
        response_time = result.get("response_time_ms")
        self._report(seconds if response_time is None else response_time / 1000, usage, self._attributes)

    def failed(self, error: BaseException) -> None:
        """Report a failure by its kind alone, since its text may quote the prompt."""
        kind = type(error).__name__
        status = getattr(error, "status_code", None)
        error_type = kind if status is None else str(status)
        seconds = perf_counter() - self._start
        detail = "" if status is None else f" {status}"
        logger.info("%s: %s%s after %.0f ms", self._model, kind, detail, seconds * 1000)
        if self._span is not None:
            self._span.set_attribute("error.type", error_type)
            self._span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR, kind)
            self._span.end()
        self._report(seconds, {}, {**self._attributes, "error.type": error_type})

    def _report(self, seconds: float, usage: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        for listener in _listeners:
            listener(seconds, usage, attributes)


def observe(model: object, body: dict[str, Any], base_url: object) -> Observation | None:
    """Start observing a call, if anybody listens."""
    trace = sys.modules.get("opentelemetry.trace")
    # An application that uses OpenTelemetry has imported it; one without a tracer provider wants no spans.
    traced = trace is not None and type(trace.get_tracer_provider()).__name__ != "ProxyTracerProvider"
    if not traced and not _listeners:
        return Observation(str(model), None, {}) if logger.isEnabledFor(logging.INFO) else None
    attributes = _attributes(body.get("model", model), base_url)
    span = _start_span(trace, attributes, body) if traced else None
    return Observation(str(model), span, attributes)


def _attributes(model: object, base_url: object) -> dict[str, Any]:
    """Return the attributes of spans and metrics, by OpenTelemetry's semantic conventions."""
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": str(model),
    }
    address = re.match(_ADDRESS, str(base_url))
    if address is not None:
        attributes["server.address"] = (address["host"] or address["ip"]).lower()
        if address["port"]:
            attributes["server.port"] = int(address["port"])
    return attributes


def _start_span(trace: Any, attributes: dict[str, Any], body: dict[str, Any]) -> Any:
    asked = {
        f"gen_ai.request.{name}": body[name]
        for name in ("temperature", "max_tokens", "top_p", "seed")
        if isinstance(body.get(name), (int, float))
    }
    tracer = trace.get_tracer("arbitrageai_native")
    return tracer.start_span(
        f"chat {attributes['gen_ai.request.model']}",
        kind=trace.SpanKind.CLIENT,
        attributes={**attributes, **asked},
    )


def trace_headers(observation: Observation | None) -> dict[str, str] | None:
    """Return the headers (`traceparent` and others) of the call's span, or of the current one."""
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
