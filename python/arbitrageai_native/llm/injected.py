"""Calls through an injected client: one that an application or a test put in the place of the native one.

It may be synchronous (`openai.OpenAI`, a `MagicMock`) or not (`openai.AsyncOpenAI`); neither may block an
event loop, and both serve both kinds of method. A synchronous one runs in a worker thread when a coroutine
waits for it; an asynchronous one runs on a loop of its own thread when a thread waits for it, always the
same one, since such clients bind their connections to a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, Protocol, TypeVar, cast

from arbitrageai_native.exceptions import APIConnectionError, ClientClosedError
from arbitrageai_native.llm.results import Completion, Usage

Result = TypeVar("Result")


class HasCreate(Protocol):
    """`client.chat.completions`."""

    def create(self, *args: Any, **kwargs: Any) -> Any:
        """Make a call; return its answer, or an awaitable of it."""


class HasCompletions(Protocol):
    """`client.chat`."""

    @property
    def completions(self) -> HasCreate:
        """What makes calls."""


class ChatClient(Protocol):
    """A client of OpenAI's shape: `openai.OpenAI`, `openai.AsyncOpenAI`, this package's, a mock."""

    @property
    def chat(self) -> HasCompletions:
        """What has `completions`."""


_WORKERS = 64
_GRACE = 1.0
"""Seconds within which a stream may be continued after a wait was cut short, as for native streams."""
_END = object()

_making = threading.Lock()


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WORKERS, "arbitrageai-foreign-client")


async def in_worker(function: Callable[[], Result]) -> Result:
    """Call a function in a worker thread, since it may block."""
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_executor(), context.run, function)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="arbitrageai-foreign-loop", daemon=True).start()
    return loop


def _forget() -> None:
    """Let a forked child make its own."""
    global _making
    _making = threading.Lock()
    _executor.cache_clear()
    _loop.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def wait_for(awaitable: Awaitable[Result]) -> Result:
    """Await in this thread, on the loop that serves asynchronous injected clients."""

    async def waited() -> Result:
        return await awaitable

    coroutine: Coroutine[Any, Any, Result] = waited()
    with _making:  # two threads would make two loops
        loop = _loop()
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def create(client: Any, arguments: dict[str, Any]) -> Any:
    """Call the client's `create` and wait for its answer in this thread."""
    answer = client.chat.completions.create(**arguments)
    return wait_for(answer) if inspect.isawaitable(answer) else answer


async def create_async(client: Any, arguments: dict[str, Any]) -> Any:
    """Call the client's `create` without blocking the loop."""
    method = client.chat.completions.create
    if inspect.iscoroutinefunction(method) or type(client).__name__.startswith("Async"):
        answer = method(**arguments)
    else:
        answer = await in_worker(lambda: method(**arguments))
    return await answer if inspect.isawaitable(answer) else answer


def result(answer: Any, requested_model: str, seconds: float, stealth_mode: bool, raw: bool) -> Completion:
    """Return the result of `LLMService.complete`, of an answer with attribute access."""
    choice = answer.choices[0]
    message = choice.message
    model = getattr(answer, "model", None)
    reason = getattr(choice, "finish_reason", None)
    found: Completion = {
        "content": _text(message.content),
        "model": requested_model if model is None else model,
        "usage": _usage(getattr(answer, "usage", None)),
        "finish_reason": reason if isinstance(reason, str) else None,
        "stealth_mode_used": stealth_mode,
        "response_time_ms": seconds * 1000,
    }
    tool_calls = getattr(message, "tool_calls", None)
    # A mock has every attribute: only a list, or a string, is an answer.
    if isinstance(tool_calls, list) and tool_calls:
        found["tool_calls"] = [_dumped(call) for call in tool_calls]
    reasoning = _reasoning(message)
    if reasoning:
        found["reasoning"] = reasoning
    request_id = getattr(answer, "_request_id", None)
    if isinstance(request_id, str):
        found["request_id"] = request_id
    if raw:
        found["raw"] = _dumped(answer)
    return found


def _usage(usage: Any) -> Usage:
    counts: dict[str, Any] = {
        name: getattr(usage, name, 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    }
    for name in ("prompt_tokens_details", "completion_tokens_details"):
        details = _dumped(getattr(usage, name, None))
        if isinstance(details, dict):
            counts[name] = details
    return cast("Usage", counts)


def _text(content: Any) -> Any:
    """Return the text of a content that is a list of parts; any other content as it is."""
    if not isinstance(content, list):
        return content
    parts = (part if isinstance(part, dict) else _dumped(part) for part in content)
    return "".join(
        part["text"]
        for part in parts
        if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _reasoning(message: Any) -> str | None:
    for name in ("reasoning_content", "reasoning"):
        text = getattr(message, name, None)
        if isinstance(text, str) and text:
            return text
    return None


def _merge(call: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a tool call's delta to what has come of it: arguments come in pieces, all else whole."""
    for name, value in delta.items():
        known = call.get(name)
        if name == "index" or value is None:
            continue
        if isinstance(value, dict):
            _merge(call.setdefault(name, {}), value)
        elif name == "arguments" and isinstance(known, str):
            call[name] = known + value
        elif not known:
            call[name] = value


def _dumped(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump() if dump is not None else value


class InjectedStream:
    """The pieces of an injected client's stream, by either kind of iteration, and its summary."""

    def __init__(self, open_sync: Callable[[], Any], open_async: Callable[[], Awaitable[Any]]) -> None:
        self._open_sync = open_sync
        self._open_async = open_async
        self._source: Any = None
        self._iterator: Any = None
        self._summary: dict[str, Any] = {}
        self._thoughts: list[str] = []
        self._tool_calls: dict[Any, dict[str, Any]] = {}
        self._pending: asyncio.Future[Any] | None = None
        self._cut = False
        self._waits = 0
        self._visits = 0
        self._left = False

    def summary(self) -> dict[str, Any]:
        """Return what is known besides the text."""
        return self._summary

    def asides(self) -> dict[str, Any]:
        """Return what the model thought, and the tools that it wants called, as far as they have come."""
        return {"reasoning": "".join(self._thoughts) or None, "tool_calls": list(self._tool_calls.values())}

    def next(self, texts: bool) -> list[Any] | None:
        """Return the next pieces, or None after the last."""
        while True:
            if self._iterator is None:
                self._source = self._open_sync()
                is_async = hasattr(self._source, "__aiter__") and not hasattr(self._source, "__iter__")
                self._iterator = _sync_view(self._source) if is_async else iter(self._source)
            try:
                chunk = next(self._iterator, _END)
            except BaseException as error:
                self._cut = not isinstance(error, Exception)
                raise
            if chunk is _END:
                self._refuse_if_cut()
                return None
            text = self._text(chunk)
            if text:
                return [text]

    async def next_async(self, texts: bool) -> list[Any] | None:
        """Return the next pieces, or None after the last."""
        if self._left:
            raise ClientClosedError(
                "a wait for the stream was cut short (by a cancellation or a time limit), and nothing "
                f"continued the iteration within {_GRACE:g} s: the stream was closed, and the rest of the "
                "answer is lost"
            )
        self._waits += 1
        self._visits += 1
        try:
            return await self._next_piece()
        finally:
            self._waits -= 1

    async def _next_piece(self) -> list[Any] | None:
        while True:
            if self._iterator is None:
                self._source = await self._open_async()
                is_async = hasattr(self._source, "__aiter__") and not isinstance(self._source, (list, tuple))
                self._iterator = self._source.__aiter__() if is_async else iter(self._source)
            iterator = self._iterator
            try:
                if hasattr(iterator, "__anext__"):
                    chunk = await iterator.__anext__()
                else:
                    chunk = await self._nextin_worker(iterator)
            except StopAsyncIteration:
                chunk = _END
            except BaseException as error:
                self._cut = not isinstance(error, Exception)
                raise
            if chunk is _END:
                self._refuse_if_cut()
                return None
            text = self._text(chunk)
            if text:
                return [text]

    async def _nextin_worker(self, iterator: Iterator[Any]) -> Any:
        """Return the next chunk.

        A thread can't be stopped. So the next call returns a chunk that arrives after a cancelled wait.
        """
        if self._pending is None:
            self._pending = asyncio.ensure_future(in_worker(partial(next, iterator, _END)))
        try:
            return await asyncio.shield(self._pending)
        finally:
            if self._pending.done():
                self._pending = None

    def _refuse_if_cut(self) -> None:
        """Raise an error if a cancelled wait ended the client's generator before the end of the answer."""
        if self._cut and "finish_reason" not in self._summary:
            raise APIConnectionError(message="Connection error. (a cancelled wait ended the client's stream)")

    def iterate(self, stream: Any) -> Any:
        """Return the iterator of an `async for` over `stream`."""
        return stream

    def wait_was_given_up(self) -> None:
        """Start the grace period after a wait was cut short; the stream is closed if nobody continues."""
        with contextlib.suppress(RuntimeError):  # no loop runs where a coroutine is closed unfinished
            loop = asyncio.get_running_loop()
            loop.call_later(_GRACE, _close_if_left, weakref.ref(self), self._visits)

    def close_if_left(self, visits: int) -> None:
        """Close the stream, unless a wait is in progress or has begun since `visits` waits had begun."""
        if self._left or self._waits or self._visits != visits or self._iterator is None:
            return
        self._left = True
        if self._pending is not None:  # nobody will ask for its failure
            self._pending.add_done_callback(lambda done: done.cancelled() or done.exception())
        with contextlib.suppress(Exception):  # a generator that still runs in its thread can't be closed
            self.close()

    def close(self) -> None:
        """Close the client's stream, if it can be closed from here."""
        self._visits += 1  # no need to close it once more
        close = getattr(self._source, "close", None)
        if close is None or self._iterator is None:
            return
        outcome = close()
        if inspect.iscoroutine(outcome):
            try:
                asyncio.get_running_loop().create_task(outcome)
            except RuntimeError:
                wait_for(outcome)

    def _text(self, chunk: Any) -> str | None:
        self._cut = False  # a further chunk shows that the stream was not ended
        model, usage = getattr(chunk, "model", None), getattr(chunk, "usage", None)
        if isinstance(model, str):
            self._summary["model"] = model
        if usage is not None and isinstance(getattr(usage, "total_tokens", None), int):
            self._summary["usage"] = _usage(usage)
        choices = getattr(chunk, "choices", None)
        if not choices:
            return None
        reason = getattr(choices[0], "finish_reason", None)
        if isinstance(reason, str):
            self._summary["finish_reason"] = reason
        delta = getattr(choices[0], "delta", None)
        self._thoughts.extend(filter(None, [_reasoning(delta)]))
        calls = getattr(delta, "tool_calls", None)
        for position, call in enumerate(calls if isinstance(calls, list) else ()):
            members = _dumped(call)
            if isinstance(members, dict):
                _merge(self._tool_calls.setdefault(members.get("index", position), {}), members)
        text: str | None = _text(getattr(delta, "content", None))
        return text


def _close_if_left(reference: weakref.ref[InjectedStream], visits: int) -> None:
    stream = reference()
    if stream is not None:
        stream.close_if_left(visits)


def _sync_view(source: Any) -> Iterator[Any]:
    iterator = source.__aiter__()
    while True:
        try:
            yield wait_for(iterator.__anext__())
        except StopAsyncIteration:
            return
