"""The order of attempts of a call with fallback: the same for the blocking and the asynchronous method."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from arbitrageai_native.exceptions import APITimeoutError, CircuitBreakerError, OpenAIError

if TYPE_CHECKING:
    from arbitrageai_native.llm_service import LLMService

__all__ = ["FallbackPlan", "Step"]

_LOCAL = 2


class Step:
    """An attempt: 0 and 1 are the service's own, 2 is the local model's. Times in seconds."""

    __slots__ = ("attempt", "timeout", "wait")

    def __init__(self, attempt: int, wait: float, timeout: float | None) -> None:
        self.attempt = attempt
        self.wait = wait
        self.timeout = timeout


class FallbackPlan:
    """What comes next, given what has happened."""

    def __init__(self, service: LLMService, keywords: dict[str, Any]) -> None:
        self._service = service
        self._keywords = keywords
        self._deadline = keywords.pop("deadline", service._options.deadline)
        self._start = monotonic()
        self._next: int | None = 0
        self._step: Step | None = None
        self._cloud_error: Exception | None = None
        self._local_error: Exception | None = None

    def next_step(self) -> Step | None:
        """The next attempt, or None when there is none left (or no time for it)."""
        attempt = self._next
        if attempt is None:
            return None
        straight = isinstance(self._cloud_error, CircuitBreakerError)
        wait = 0.0 if attempt == 0 or straight else self._service._fallback_delays[attempt - 1]
        if attempt and self._deadline is not None and self._remaining() <= wait:
            return None
        self._step = Step(attempt, wait, self._service._fallback_timeouts[attempt])
        return self._step

    def arguments(self, step: Step) -> dict[str, Any]:
        """The attempt's keywords: the caller's own timeout goes before the plan's."""
        keywords = {"timeout": step.timeout, **self._keywords}
        if self._deadline is not None:
            keywords["deadline"] = max(0.0, self._remaining())
        if step.attempt == _LOCAL:
            keywords.pop("model", None)
        return keywords

    def local_service(self) -> LLMService:
        """The service of the local model."""
        from arbitrageai_native.llm_service import LLMService

        return LLMService.with_local(enable_circuit_breaker=self._service.enable_circuit_breaker)

    def failed(self, error: Exception) -> None:
        """The attempt failed."""
        attempt = self._step.attempt if self._step is not None else 0
        if attempt == _LOCAL:
            self._local_error = error
            self._next = None
            return
        self._cloud_error = error
        if isinstance(error, OpenAIError) and isinstance(error, (ValueError, TypeError)):
            self._next = None  # the arguments are wrong: no other attempt could be right
        elif attempt == 0 and not isinstance(error, CircuitBreakerError):
            self._next = 1
        elif self._service.enable_fallback and not self._service._is_local:
            self._next = _LOCAL
        else:
            self._next = None

    def succeeded(self, result: dict[str, Any]) -> dict[str, Any]:
        """The attempt's result, and how it came about."""
        attempt = self._step.attempt if self._step is not None else 0
        result["fallback_used"] = attempt == _LOCAL
        result["attempt"] = attempt
        if attempt == _LOCAL:
            result["original_error"] = str(self._cloud_error)
        return result

    def error(self) -> Exception:
        """The cloud's error."""
        return self._cloud_error or APITimeoutError()

    def cause(self) -> BaseException | None:
        """The local model's error; without one, the cause that the cloud's error has."""
        return self._local_error or self.error().__cause__

    def _remaining(self) -> float:
        return self._deadline - (monotonic() - self._start) if self._deadline is not None else float("inf")
