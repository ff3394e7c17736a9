"""What a model server can be told to answer, and how it looks on the wire.

`Answer` is a chat completion, `Failure` an HTTP error, `Disconnect` an answer that breaks off. Plain text
stands for an `Answer` with that content.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from arbitrageai_native.testing.requests import RecordedRequest

WORD_WITH_SPACE: Final = re.compile(r"\s*\S+\s*|\s+")
NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True)
class Answer:
    """A chat completion.

    Args:
        content: The assistant's text; None is sent as `null`.
        model: The model's name; that of the request if None.
        finish_reason: Why the model stopped.
        delay: Seconds from the request's arrival to the answer's first byte; the server's delay if None.
        pieces: What a streamed answer consists of; the content's words if None.
        piece_delay: Seconds between the pieces of a streamed answer.
        usage: The `usage` object; words are counted for tokens if None, and none is sent if empty.
        headers: Header fields added to the answer.
    """

    content: str | None = "ok"
    model: str | None = None
    finish_reason: str = "stop"
    delay: float | None = None
    pieces: Sequence[str] | None = None
    piece_delay: float = 0.0
    usage: Mapping[str, int] | None = None
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)


@dataclass(frozen=True)
class Failure:
    """An HTTP error in the shape OpenAI gives it.

    Args:
        status: The status code.
        message: The error's message.
        headers: Header fields added to the answer, `Retry-After` for one.
        code: The error object's `code`.
        delay: As in `Answer`.
        body: Sent as it is instead of the error object.
    """

    status: int
    message: str = "scripted failure"
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    code: str | None = None
    delay: float | None = None
    body: bytes | None = None


@dataclass(frozen=True)
class Disconnect:
    """An answer that breaks off: the connection ends after `after` bytes of it.

    Args:
        after: How many bytes of the answer are sent, its head included.
        reset: End with a TCP reset instead of an orderly close.
        answer: The answer that breaks off.
    """

    after: int = 0
    reset: bool = False
    answer: Answer | Failure = field(default_factory=Answer)

    @property
    def delay(self) -> float | None:
        """The delay of the answer that breaks off."""
        return self.answer.delay


AnyAnswer = str | Answer | Failure | Disconnect
"""What a server can be told to answer; text stands for an `Answer` with that content."""

Answerer = Callable[[RecordedRequest], AnyAnswer | Awaitable[AnyAnswer]]
"""A function, plain or async, that makes an answer of a request."""

_numbers: Final = itertools.count(1)


def completion_id() -> str:
    """Make an id as unique as OpenAI's."""
    return f"chatcmpl-{os.getpid():x}-{next(_numbers):x}"


def completion_body(answer: Answer, request: Mapping[str, Any]) -> dict[str, Any]:
    """Build the JSON body of a chat completion that is not streamed."""
    body: dict[str, Any] = {
        "id": completion_id(),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": _model(answer, request),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.content},
                "finish_reason": answer.finish_reason,
            }
        ],
    }
    usage = _usage(answer, request)
    if usage:
        body["usage"] = usage
    return body


def failure_body(failure: Failure) -> bytes:
    """Build the body of an HTTP error."""
    if failure.body is not None:
        return failure.body
    kind = "invalid_request_error" if failure.status < 500 else "server_error"
    error = {"message": failure.message, "type": kind, "param": None, "code": failure.code}
    return json.dumps({"error": error}).encode()


def stream_events(answer: Answer, request: Mapping[str, Any]) -> Iterator[tuple[bytes, bool]]:
    """Build a streamed chat completion: (server-sent event, whether it carries a piece of the text)."""
    common = {
        "id": completion_id(),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": _model(answer, request),
    }

    def chunk(delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        return _event({**common, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})

    yield chunk({"role": "assistant", "content": ""}), False
    for piece in _pieces(answer):
        yield chunk({"content": piece}), True
    yield chunk({}, answer.finish_reason), False
    options = request.get("stream_options")
    usage = _usage(answer, request)
    if usage and isinstance(options, Mapping) and options.get("include_usage"):
        yield _event({**common, "choices": [], "usage": usage}), False
    yield b"data: [DONE]\n\n", False


def _event(value: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def _pieces(answer: Answer) -> Sequence[str]:
    if answer.pieces is not None:
        return answer.pieces
    return WORD_WITH_SPACE.findall(answer.content or "")


def _model(answer: Answer, request: Mapping[str, Any]) -> str:
    return answer.model if answer.model is not None else str(request.get("model", ""))


def _usage(answer: Answer, request: Mapping[str, Any]) -> Mapping[str, int]:
    if answer.usage is not None:
        return answer.usage
    prompt = sum(len(text.split()) for text in message_texts(request))
    completion = len((answer.content or "".join(_pieces(answer))).split())
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def message_texts(request: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text of each message of a chat request, its text parts included."""
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, Mapping) else None
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (str(part["text"]) for part in content if isinstance(part, Mapping) and "text" in part)
