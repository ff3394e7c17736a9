"""The order of attempts of a call with fallback: the same for the blocking and the asynchronous method."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, TypeVar, cast

from arbitrageai_native import _native
from arbitrageai_native.exceptions import APITimeoutError, CircuitBreakerError, OpenAIError
from arbitrageai_native.llm.results import Completion, FallbackCompletion
from arbitrageai_native.llm.settings import given

Result = TypeVar("Result")

_LOCAL = 2
"""The attempt of the local model; 0 and 1 are the service's own."""


Attempt = Callable[[bool, dict[str, Any]], Result]
"""Makes one attempt. Arguments: whether the local model makes it, and the keywords of its call."""


class FallbackPlan:
    """Makes one attempt after another: which comes next depends on how the last one failed."""

    def __init__(
        self,
        keywords: Mapping[str, Any],
        options: _native.CallOptions,
        delays: Sequence[float],
        timeouts: Sequence[float | None],
        goes_local: Callable[[Exception | None], bool],
    ) -> None:
        self._keywords = given(keywords)
        own = {name: self._keywords.pop(name) for name in ("deadline",) if name in self._keywords}
        self._deadline = options.adjusted(own).deadline
        self._delays = delays
        self._timeouts = timeouts
        self._goes_local = goes_local
        self._start = monotonic()
        self._attempt = 0
        self._cloud_error: Exception | None = None
        self._local_error: Exception | None = None

    def run(self, attempt: Attempt[Completion], sleep: Callable[[float], object]) -> FallbackCompletion:
        """Make the attempts in this thread, until one succeeds."""
        for wait in self._waits():
            if wait:
                sleep(wait)
            try:
                return self._succeeded(attempt(self._is_local, self._arguments()))
            except Exception as error:
                self._failed(error)
        raise self._error() from self._cause()

    async def run_async(self, attempt: Attempt[Awaitable[Completion]]) -> FallbackCompletion:
        """As `run`, without blocking the event loop."""
        for wait in self._waits():
            if wait:
                await _native.sleep(wait)
            try:
                return self._succeeded(await attempt(self._is_local, self._arguments()))
            except Exception as error:
                self._failed(error)
        raise self._error() from self._cause()

    @property
    def _is_local(self) -> bool:
        return self._attempt == _LOCAL

    def _waits(self) -> Iterator[float]:
        """Yield the wait before each attempt, as long as one is left and there is time for it."""
        attempt: int | None = 0
        while attempt is not None:
            straight = isinstance(self._cloud_error, CircuitBreakerError)
            wait = 0.0 if attempt == 0 or straight else self._delays[attempt - 1]
            if attempt and self._remaining() <= wait:
                return
            self._attempt = attempt
            yield wait
            attempt = self._next_attempt(attempt)

    def _next_attempt(self, failed: int) -> int | None:
        error = self._cloud_error
        if failed == _LOCAL:
            return None
        if isinstance(error, OpenAIError) and isinstance(error, (ValueError, TypeError)):
            return None  # the arguments are wrong: no other attempt could be right
        if failed == 0 and not isinstance(error, CircuitBreakerError):
            return 1
        return _LOCAL if self._goes_local(error) else None

    def _arguments(self) -> dict[str, Any]:
        # The caller's own timeout goes before the plan's.
        keywords = {"timeout": self._timeouts[self._attempt], **self._keywords}
        if self._deadline is not None:
            keywords["deadline"] = max(0.0, self._remaining())
        if self._is_local:
            keywords.pop("model", None)
        return keywords

    def _failed(self, error: Exception) -> None:
        if self._is_local:
            self._local_error = error
        else:
            self._cloud_error = error

    def _succeeded(self, completion: Completion) -> FallbackCompletion:
        result = cast("FallbackCompletion", completion)
        result["fallback_used"] = self._is_local
        result["attempt"] = self._attempt
        if self._is_local:
            result["original_error"] = str(self._cloud_error)
        return result

    def _error(self) -> Exception:
        return self._cloud_error or APITimeoutError()

    def _cause(self) -> BaseException | None:
        # Without a local error the cloud's error keeps its own cause.
        return self._local_error or self._error().__cause__

    def _remaining(self) -> float:
        return self._deadline - (monotonic() - self._start) if self._deadline is not None else float("inf")
