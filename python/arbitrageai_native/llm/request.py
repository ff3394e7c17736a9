"""One call of a service, as its arguments describe it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

from arbitrageai_native import _native
from arbitrageai_native.exceptions import InvalidArgumentTypeError
from arbitrageai_native.llm.checks import check_kind, with_extra_body
from arbitrageai_native.llm.keywords import warn_of_misspelt
from arbitrageai_native.llm.settings import CALL_SETTINGS, KNOWN_TO_SERVICES, Prompt, given, given_or
from arbitrageai_native.llm.tracing import Observation, trace_headers

Result = TypeVar("Result")


class Request:
    """What a call sends and how: its body, its settings, `extra_headers`, `extra_query` and `extra_body`.

    Attributes:
        body: The members of the request, without `extra_body`.
        options: The service's options, with the settings of this call.
        raw: Whether the result has all that the server sent.
    """

    __slots__ = ("_settings", "body", "extra_body", "extra_headers", "extra_query", "options", "raw")

    def __init__(
        self,
        model: str,
        prompt: Prompt | None,
        temperature: float | None,
        max_tokens: int | None,
        system_prompt: str | None,
        options: _native.CallOptions,
        keywords: Mapping[str, Any],
    ) -> None:
        self.extra_headers = self.extra_query = self.extra_body = None
        self._settings: dict[str, Any] = {}
        self.options = options
        self.raw = False
        self.body: dict[str, Any] = {"model": model, "messages": None}
        if temperature is not None:
            self.body["temperature"] = temperature
        if max_tokens is not None:
            self.body["max_tokens"] = max_tokens
        messages = self._take_keywords(given(keywords)) if keywords else None
        self.body["messages"] = _messages(prompt, system_prompt, messages)
        if self.body["model"] is not None:
            check_kind("model", self.body["model"], str, "a string")

    def _take_keywords(self, keywords: dict[str, Any]) -> Any:
        """Sort the keywords: settings, `extra_…`, the rest into the body. Return the messages."""
        if keywords.pop("stream", None):
            raise InvalidArgumentTypeError("stream: complete_streaming and complete_streaming_async stream")
        self.extra_headers = keywords.pop("extra_headers", None)
        self.extra_query = keywords.pop("extra_query", None)
        self.extra_body = keywords.pop("extra_body", None)
        self.raw = bool(keywords.pop("raw", False))
        changed = CALL_SETTINGS & keywords.keys()
        if changed:
            self._settings = {name: keywords.pop(name) for name in changed}
            self.options = self.options.adjusted(self._settings)
        messages = keywords.pop("messages", None)
        if not KNOWN_TO_SERVICES.issuperset(keywords):
            warn_of_misspelt(keywords.keys() - KNOWN_TO_SERVICES, KNOWN_TO_SERVICES)
        # Several servers refuse a null. A caller who means one can send it by `extra_body`.
        self.body.update({name: value for name, value in keywords.items() if value is not None})
        return messages

    def native_arguments(
        self,
        metrics: _native.CallMetrics,
        health: _native.EndpointHealth | None,
        observation: Observation | None,
    ) -> tuple[
        dict[str, Any],
        _native.CallOptions,
        _native.CallMetrics,
        _native.EndpointHealth | None,
        Any,
        Any,
    ]:
        """Return what describes the call to every method of the native client."""
        headers = self._headers(observation)
        body = with_extra_body(self.body, self.extra_body)
        return body, self.options, metrics, health, headers, self.extra_query

    def _headers(self, observation: Observation | None) -> Any:
        trace = trace_headers(observation)
        extra = self.extra_headers
        if trace is None or not (extra is None or isinstance(extra, Mapping)):
            return extra  # native code refuses what is not a mapping
        return {**trace, **(extra or {})}

    def injected_arguments(self) -> dict[str, Any]:
        """Return the keywords for an injected client's `create`: of our settings it knows `timeout` alone."""
        arguments = dict(self.body)
        if "timeout" in self._settings or not arguments.get("stream"):
            arguments["timeout"] = self._settings.get("timeout", self.options.timeout)
        for name in ("extra_headers", "extra_query", "extra_body"):
            value = getattr(self, name)
            if value is not None:
                arguments[name] = value
        return arguments

    def waited(self, seconds: float) -> None:
        """Take a wait before the call from its deadline."""
        deadline = self.options.deadline
        if deadline is not None:
            self.options = self.options.adjusted({"deadline": deadline - seconds})

    async def within_deadline(self, pending: Awaitable[Result]) -> Result:
        """Await something, for what is left of the deadline.

        Raises:
            APITimeoutError: the deadline came first.
        """
        deadline = self.options.deadline
        if deadline is None:
            return await pending
        try:
            return await asyncio.wait_for(pending, deadline)
        except asyncio.TimeoutError:
            raise _native.deadline_passed(deadline) from None


def _messages(prompt: Prompt | None, system_prompt: str | None, messages: Any) -> list[Any]:
    if type(prompt) is str and messages is None and system_prompt is None:  # most calls
        return [{"role": "user", "content": prompt}]
    prompt, system_prompt = given_or(prompt, None), given_or(system_prompt, None)
    if messages is None:
        if not isinstance(prompt, (str, list, tuple)):
            kind = type(prompt).__name__
            raise InvalidArgumentTypeError(
                f"prompt has to be a string, or a list of content parts, not {kind}"
            )
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
