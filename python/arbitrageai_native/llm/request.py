"""One call of the service's methods, as their arguments say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from arbitrageai_native.exceptions import ClientClosedError, InvalidArgumentTypeError
from arbitrageai_native.llm.settings import CALL_SETTINGS
from arbitrageai_native.llm.tracing import Observation, trace_headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from arbitrageai_native import _native
    from arbitrageai_native.llm_service import LLMService

__all__ = ["Request"]


class Request:
    """One call, as its method's arguments say: the request's body, its limits, and what goes along."""

    __slots__ = ("body", "extra_body", "extra_headers", "extra_query", "options", "raw", "settings")

    def __init__(
        self,
        service: LLMService,
        prompt: str | None,
        temperature: float | None,
        max_tokens: int | None,
        system_prompt: str | None,
        keywords: dict[str, Any],
    ) -> None:
        if service._closed:
            raise ClientClosedError("the service is closed")
        self.extra_headers = self.extra_query = self.extra_body = None
        self.settings: dict[str, Any] = {}
        self.options = service._options
        self.raw = False
        body: dict[str, Any] = {
            "model": service.model,
            "messages": None,
            "temperature": service.default_temperature if temperature is None else temperature,
            "max_tokens": service.default_max_tokens if max_tokens is None else max_tokens,
        }
        messages = None
        if keywords:
            messages = self._take_keywords(keywords)
            body.update(keywords)
        body["messages"] = _messages(prompt, system_prompt, messages)
        self.body = body

    def _take_keywords(self, keywords: dict[str, Any]) -> Any:
        """Take out of `keywords` what is no member of the request; returns the messages."""
        if keywords.pop("stream", None):
            raise InvalidArgumentTypeError("stream: complete_streaming and complete_streaming_async stream")
        self.extra_headers = keywords.pop("extra_headers", None)
        self.extra_query = keywords.pop("extra_query", None)
        self.extra_body = keywords.pop("extra_body", None)
        self.raw = bool(keywords.pop("raw", False))
        changed = CALL_SETTINGS & keywords.keys()
        if changed:
            self.settings = {name: keywords.pop(name) for name in changed}
            self.options = self.options.adjusted(self.settings)
        return keywords.pop("messages", None)

    def _native_body(self) -> dict[str, Any]:
        if self.extra_body is None:
            return self.body
        if not isinstance(self.extra_body, Mapping):
            raise InvalidArgumentTypeError("extra_body is not a mapping")
        return {**self.body, **self.extra_body}

    def native_arguments(
        self,
        metrics: _native.CallMetrics,
        health: _native.EndpointHealth | None,
        observation: Observation | None,
    ) -> tuple[Any, ...]:
        """What every call of the native client begins with."""
        headers = self._headers(observation)
        return self._native_body(), self.options, metrics, health, headers, self.extra_query

    def _headers(self, observation: Observation | None) -> Any:
        """The extra headers, the trace's among them."""
        trace = trace_headers(observation)
        extra = self.extra_headers
        if trace is None or not (extra is None or isinstance(extra, Mapping)):
            return extra  # what is no mapping is refused where headers are read
        return {**trace, **(extra or {})}

    def waited(self, seconds: float) -> None:
        """So long the call has waited before it is made: that much less is left of its deadline."""
        deadline = self.options.deadline
        if deadline is not None:
            self.options = self.options.adjusted({"deadline": deadline - seconds})

    def foreign_arguments(self) -> dict[str, Any]:
        """The keywords for a foreign client's `create`: `timeout` and the `extra_…`, none of our settings."""
        arguments = {**self.body, "timeout": self.settings.get("timeout", self.options.timeout)}
        for name in ("extra_headers", "extra_query", "extra_body"):
            value = getattr(self, name)
            if value is not None:
                arguments[name] = value
        return arguments


def _messages(prompt: str | None, system_prompt: str | None, messages: Any) -> list[Any]:
    if messages is None:
        if not isinstance(prompt, str):
            raise InvalidArgumentTypeError(f"prompt has to be a string, not {type(prompt).__name__}")
        messages = [{"role": "user", "content": prompt}]
    elif prompt is not None:
        raise InvalidArgumentTypeError("prompt and messages were both given")
    elif isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise InvalidArgumentTypeError(f"messages has to be a list, not {type(messages).__name__}")
    if not system_prompt:
        return list(messages)
    if not isinstance(system_prompt, str):
        raise InvalidArgumentTypeError(
            f"system_prompt has to be a string, not {type(system_prompt).__name__}"
        )
    return [{"role": "system", "content": system_prompt}, *messages]
