"""What calls return, as types: plain dicts whose keys type checkers know."""

# Annotations are evaluated here at once: as strings, each would be compiled when its class is made.
from typing import Any, TypedDict

from arbitrageai_native._typing import NotRequired

__all__ = [
    "Completion",
    "FallbackCompletion",
    "FunctionCall",
    "ServiceMetrics",
    "TokenCounts",
    "ToolCall",
    "Usage",
]


class Usage(TypedDict):
    """The tokens of one call; zeros if the server did not report them.

    prompt_tokens: those of the request. completion_tokens: those of the answer. total_tokens: both.
    prompt_tokens_details: cached tokens and others. completion_tokens_details: reasoning tokens and others;
    both are there only if the server sent them.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: NotRequired[dict[str, Any]]
    completion_tokens_details: NotRequired[dict[str, Any]]


class FunctionCall(TypedDict):
    """The function that a model calls.

    name: its name. arguments: its arguments, a JSON text that the model wrote.
    """

    name: str
    arguments: str


class ToolCall(TypedDict):
    """One call of a tool.

    id: the call's id, for the message that answers it. type: "function". function: what is called.
    """

    id: str
    type: str
    function: FunctionCall


class Completion(TypedDict):
    """The result of `complete` and `complete_async`.

    content: the text; None if the model wrote none. model: the model that answered. usage: the tokens.
    finish_reason: why the model stopped; None if the server did not say. "length": at `max_tokens`.
    stealth_mode_used: whether the call waited before its request. response_time_ms: without that wait.
    reasoning: there only if the server sent what the model thought. tool_calls: if the model calls tools.
    request_id: if the server named one. rate_limits: if the server sent headers about its limits.
    raw: all that the server sent, with `raw=True`.
    """

    content: str | None
    model: str
    usage: Usage
    finish_reason: str | None
    stealth_mode_used: bool
    response_time_ms: float
    reasoning: NotRequired[str]
    request_id: NotRequired[str]
    rate_limits: NotRequired[dict[str, str]]
    tool_calls: NotRequired[list[ToolCall]]
    raw: NotRequired[dict[str, Any]]


class FallbackCompletion(Completion):
    """The result of `complete_with_fallback` and its asynchronous form: a `Completion` with three more keys.

    fallback_used: whether the local model answered. attempt: 0 and 1 are the service's own, 2 is the local
    model's. original_error: the text of the service's own error; there only if the local model answered.
    """

    fallback_used: bool
    attempt: int
    original_error: NotRequired[str]


class TokenCounts(TypedDict):
    """Tokens, counted over many calls.

    prompt: those of the requests. completion: those of the answers.
    """

    prompt: int
    completion: int


class ServiceMetrics(TypedDict):
    """The counters of one service, or of one client.

    calls: calls that began. successes: calls that were answered. failures: failed calls by kind of failure.
    cancelled: calls that were given up. retries: tries after the first. tokens: of all answered calls.
    blocking_calls_in_loop: blocking methods called from a running event loop. latency_seconds: successes up
    to each bound. latency_seconds_total: the sum of their times.
    """

    calls: int
    successes: int
    failures: dict[str, int]
    cancelled: int
    retries: int
    tokens: TokenCounts
    blocking_calls_in_loop: int
    latency_seconds: dict[float, int]
    latency_seconds_total: float
