"""Streamed answers as Python iterates them: batches come from native code, pieces go out one by one."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from arbitrageai_native._native import ChatStream
from arbitrageai_native._typing import Self
from arbitrageai_native.llm import blocking
from arbitrageai_native.llm.counting import CountedStream
from arbitrageai_native.llm.keys import KeyedStream
from arbitrageai_native.llm.results import ToolCall, Usage
from arbitrageai_native.llm.tracing import Observation

__all__ = ["AsyncStream", "Stream"]

Item = TypeVar("Item")


class _Streamed(Generic[Item]):
    """What both kinds of iterator share. `wrap` makes of a chunk what is handed out; None: pieces of text."""

    def __init__(
        self,
        native: ChatStream | CountedStream | KeyedStream,
        wrap: Callable[[Any], Item] | None = None,
        observation: Observation | None = None,
    ) -> None:
        self._native = native
        self._wrap = wrap
        self._observation = observation
        self._ready: deque[Any] = deque()
        self._over = False
        self._failure: Exception | None = None

    @property
    def model(self) -> str | None:
        """The model that answers; None before the first piece."""
        model: str | None = self._native.summary().get("model")
        return model

    @property
    def usage(self) -> Usage | None:
        """Tokens used, if the server says (OpenAI: with `stream_options={"include_usage": True}`)."""
        usage: Usage | None = self._native.summary().get("usage")
        return usage

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped; None before it did."""
        reason: str | None = self._native.summary().get("finish_reason")
        return reason

    @property
    def reasoning(self) -> str | None:
        """What the model thought, as far as it has come; None if the server sends none of it."""
        reasoning: str | None = self._native.asides().get("reasoning")
        return reasoning

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The tools that the model wants called, as far as they have come: whole after the last piece."""
        calls: list[ToolCall] = self._native.asides().get("tool_calls") or []
        return calls

    @property
    def request_id(self) -> str | None:
        """The server's name of the request; None before the first piece, or if it names none."""
        request_id: str | None = self._native.summary().get("request_id")
        return request_id

    @property
    def rate_limits(self) -> dict[str, str] | None:
        """The answer's headers about the server's limits; None before the first piece, or without them."""
        limits: dict[str, str] | None = self._native.summary().get("rate_limits")
        return limits

    def _take(self) -> Item:
        item = self._ready.popleft()
        return item if self._wrap is None else self._wrap(item)

    def _accept(self, batch: list[Any] | None) -> None:
        if batch is None:
            self._end(None)
        else:
            self._ready.extend(batch)

    def _end(self, error: BaseException | None) -> None:
        self._over = True
        observation, self._observation = self._observation, None
        if observation is None:
            return
        if error is None:
            observation.succeeded({"model": self.model, "usage": self.usage})
        else:
            observation.failed(error)

    def _close(self) -> None:
        self._ready.clear()
        self._native.close()
        if not self._over:
            self._end(None)


class Stream(_Streamed[Item]):
    """A streamed answer. Leaving it early closes the request: `with`, `close()`, or when it is forgotten."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        while not self._ready:
            if self._over:
                raise StopIteration
            resume = blocking.awaiter("complete_streaming")
            try:
                if resume is None:
                    self._accept(self._native.next(self._wrap is None))
                else:
                    self._accept(resume(self._native.next_async(self._wrap is None)))
            except Exception as error:  # Ctrl-C ends only the wait, not the stream
                self._end(error)
                raise
            except BaseException:
                if resume is not None:
                    self._native.wait_was_given_up()
                raise
        return self._take()

    def close(self) -> None:
        """Close the request and end the iteration."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Closed(Coroutine[Any, Any, None]):
    """The result of `AsyncStream.close`. Awaiting it returns at once; not awaiting it causes no warning."""

    def __await__(self) -> Iterator[None]:  # type: ignore[override]
        return iter(())

    def send(self, value: object) -> None:
        raise StopIteration

    def throw(self, kind: Any, value: Any = None, trace: TracebackType | None = None) -> None:
        raise kind if value is None else value

    def close(self) -> None:
        """Do nothing."""


class AsyncStream(_Streamed[Item]):
    """A streamed answer. `async with`, `aclose()`, or dropping the stream closes the request early.

    A wait for a piece that was cut short (by a cancellation or a time limit) may be repeated within one
    second, and no piece is lost. The same holds for an `async for` that an exception left. After that second
    the request is closed, even if something still refers to the stream, unless another wait is in progress:
    further iteration yields the pieces that had arrived, and then raises `ClientClosedError`. After a wait
    that returned a piece there is no limit on the time until the next wait. A wait in a separate task or
    under `asyncio.shield` is not cut short together with the code that awaits it: use `async with` there.
    """

    def __aiter__(self) -> AsyncIterator[Item]:
        iterator: AsyncIterator[Item] = self._native.iterate(self)
        return iterator

    async def __anext__(self) -> Item:
        while not self._ready:
            if self._over:
                failure, self._failure = self._failure, None
                raise failure or StopAsyncIteration
            try:
                self._accept(await self._native.next_async(self._wrap is None))
            except Exception as error:
                self._end(error)
                if not self._ready:
                    raise
                # Another task's wait brought pieces that nobody has taken yet. They come first.
                self._failure = error
            except BaseException:
                self._native.wait_was_given_up()
                del self  # the traceback keeps this frame, which would keep the stream
                raise
        return self._take()

    async def aclose(self) -> None:
        """Close the request and end the iteration."""
        self._close()

    def close(self) -> Coroutine[Any, Any, None]:
        """Close the request at once, and end the iteration. Awaiting the result is optional."""
        self._close()
        return _Closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()
