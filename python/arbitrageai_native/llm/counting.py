"""Counting calls in Python: those of injected clients, and those with a health checker of another class."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from types import TracebackType
from typing import Any

from arbitrageai_native._native import CallCount, CallMetrics, circuit_open
from arbitrageai_native._safe_text import without_credentials
from arbitrageai_native.exceptions import (
    APIResponseValidationError,
    APIStatusError,
    ClientClosedError,
    OpenAIError,
)

_MOST_TOKENS = 2**32


class CountedCall:
    """A call that a checker admits, and whose outcome is reported to the checker.

    With `metrics` it is an injected client's call of `model`: all its exceptions count as the endpoint's
    failures, since their meaning is not known here.

    Attributes:
        usage: the tokens of the answer, once they are known.
    """

    def __init__(
        self, checker: Any, endpoint: str, metrics: CallMetrics | None = None, model: object = ""
    ) -> None:
        self._checker = checker
        self._endpoint = endpoint
        self._metrics = metrics
        self._model = model
        self._count: CallCount | None = None
        self._start = 0.0
        self.usage: Mapping[str, Any] | None = None

    def seconds(self) -> float:
        """Return the time since the call began."""
        return perf_counter() - self._start

    def __enter__(self) -> CountedCall:
        if self._metrics is not None:
            self._count = self._metrics.begin(str(self._model))
        if self._checker is not None and not self._checker.should_allow_request(self._endpoint):
            if self._count is not None:
                self._count.failed("circuit_open")
            raise circuit_open(self._endpoint)
        self._start = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            seconds = self.seconds()
            if self._count is not None:
                usage = self.usage or {}
                self._count.succeeded(seconds, _tokens(usage, "prompt"), _tokens(usage, "completion"))
            if self._checker is not None:
                self._checker.record_success(self._endpoint, seconds * 1000)
            return
        if not isinstance(error, Exception) or isinstance(error, ClientClosedError):
            self.abandon()
            return
        if self._count is not None:
            self._count.failed("foreign")
        if self._checker is None:
            return
        if self._metrics is not None or not _spares_the_endpoint(error):
            self._checker.record_failure(self._endpoint, without_credentials(str(error)))

    def abandon(self) -> None:
        """End the count of a call that was cancelled or left: that is neither success nor failure."""
        if self._count is not None:
            self._count.cancelled()
        status = getattr(self._checker, "health_status", None)
        metrics = status.get(self._endpoint) if isinstance(status, dict) else None
        native = getattr(metrics, "_native", None)
        if native is not None:
            native.abandon()


def _tokens(usage: Mapping[str, Any], kind: str) -> int:
    tokens = usage.get(f"{kind}_tokens")
    # A mock's usage is made of mocks.
    return tokens if isinstance(tokens, int) and 0 <= tokens < _MOST_TOKENS else 0


def _spares_the_endpoint(error: Exception) -> bool:
    """Whether an error says nothing against the endpoint: as in native code."""
    if isinstance(error, APIResponseValidationError):
        return True
    if isinstance(error, APIStatusError):
        return 400 <= error.status_code < 500 and error.status_code not in (408, 409, 429)
    return isinstance(error, OpenAIError) and isinstance(error, (ValueError, TypeError))


class CountedStream:
    """A stream that is one counted call: it begins at the first `next` and ends with the iteration."""

    def __init__(self, stream: Any, call: CountedCall) -> None:
        self._stream = stream
        self._call = call
        self._under_way = False
        self._over = False

    def summary(self) -> dict[str, Any]:
        """Return the stream's summary."""
        summary: dict[str, Any] = self._stream.summary()
        return summary

    def asides(self) -> dict[str, Any]:
        """Return what the model thought, and the tools that it wants called."""
        asides: dict[str, Any] = self._stream.asides()
        return asides

    def iterate(self, stream: Any) -> Any:
        """Return the iterator of an `async for` over `stream`."""
        return self._stream.iterate(stream)

    def wait_was_given_up(self) -> None:
        """Start the grace period after a cancelled wait, unless another loop still iterates."""
        self._stream.wait_was_given_up()

    def next(self, texts: bool) -> list[Any] | None:
        """Return the stream's next batch."""
        if self._over:
            return None
        self._begin()
        try:
            batch: list[Any] | None = self._stream.next(texts)
        except Exception as error:  # Ctrl-C ends only the wait, not the stream
            self._end(error)
            raise
        if batch is None:
            self._end(None)
        return batch

    async def next_async(self, texts: bool) -> list[Any] | None:
        """Return the stream's next batch."""
        if self._over:
            return None
        self._begin()
        try:
            batch: list[Any] | None = await self._stream.next_async(texts)
        except Exception as error:
            self._end(error)
            raise
        except BaseException:
            del self  # the traceback keeps this frame, which would keep the stream
            raise
        if batch is None:
            self._end(None)
        return batch

    def close(self) -> None:
        """Close the stream; leaving it early is neither success nor failure of the endpoint."""
        self._stream.close()
        if self._under_way and not self._over:
            self._over = True
            self._call.abandon()

    def _begin(self) -> None:
        if not self._under_way:
            self._call.__enter__()
            self._under_way = True

    def _end(self, error: BaseException | None) -> None:
        self._over = True
        self._call.usage = self._stream.summary().get("usage")
        self._call.__exit__(None if error is None else type(error), error, None)
