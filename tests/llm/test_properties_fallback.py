"""Any sequence of outcomes of a call with fallback, against a plain model; time is what the test says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbitrageai_native import LLMService, llm_service
from arbitrageai_native.exceptions import (
    APIConnectionError,
    CircuitBreakerError,
    InvalidArgumentError,
    InvalidArgumentTypeError,
)
from arbitrageai_native.llm import fallback
from testing_support.keys import KEY
from tests.properties import examples

pytestmark = pytest.mark.holds_the_loop("examples are drawn between the calls")

OUTCOMES = st.sampled_from(
    [
        None,
        APIConnectionError,
        CircuitBreakerError,
        InvalidArgumentError,
        InvalidArgumentTypeError,
        ValueError,
    ]
)
LOCAL = 2
START = 1000.0


@dataclass
class Clock:
    """Stands still but when somebody sleeps or an attempt takes its time."""

    now: float = START

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@dataclass
class Case:
    """What each of three attempts takes and how it ends."""

    outcomes: list[Exception | None]
    took: list[float]
    deadline: float | None
    may_go_local: bool

    delays = (2.0, 5.0)
    timeouts = (10.0, 20.0, 30.0)


def expected_attempts(case: Case) -> list[tuple[int, float, float | None]]:
    """Return the number of each attempt, when it begins, and what is left of the deadline then."""
    made: list[tuple[int, float, float | None]] = []
    now, attempt, wait = 0.0, 0, 0.0
    while True:
        if made and case.deadline is not None and case.deadline - now <= wait:
            return made
        now += wait
        made.append((attempt, now, None if case.deadline is None else max(0.0, case.deadline - now)))
        now += case.took[attempt]
        outcome = case.outcomes[attempt]
        is_open = isinstance(outcome, CircuitBreakerError)
        if outcome is None or attempt == LOCAL:
            return made
        if isinstance(outcome, InvalidArgumentError | InvalidArgumentTypeError):
            return made  # the caller's mistake; a plain `ValueError` is the client's
        if attempt == 0 and not is_open:
            attempt = 1
        elif case.may_go_local:
            attempt = LOCAL
        else:
            return made
        wait = 0.0 if is_open else case.delays[attempt - 1]


class Service(LLMService):
    """Its completions are what the case says."""

    def __init__(self, number: int, attempts: Attempts, **settings: Any) -> None:
        super().__init__(base_url="http://cloud.test/v1", api_key=KEY, **settings)
        self._first = number
        self._attempts = attempts

    def complete(  # type: ignore[override]
        self, prompt: str, temperature: None, max_tokens: None, system_prompt: None, **keywords: Any
    ) -> Any:
        assert (prompt, temperature, max_tokens, system_prompt) == ("hi", None, None, None)
        return self._attempts.make(self._first, keywords)

    async def complete_async(self, *arguments: Any, **keywords: Any) -> Any:
        return self.complete(*arguments, **keywords)


@dataclass
class Attempts:
    """What each attempt was given, and when."""

    case: Case
    clock: Clock = field(default_factory=Clock)
    seen: list[tuple[int, float, dict[str, Any]]] = field(default_factory=list)

    def make(self, number: int, keywords: dict[str, Any]) -> Any:
        number = number or len(self.seen)
        self.seen.append((number, self.clock.now - START, keywords))
        self.clock.now += self.case.took[number]
        outcome = self.case.outcomes[number]
        if outcome is not None:
            raise outcome
        return {"content": f"of {number}"}


def run(case: Case, deadline: float | None, keywords: dict[str, Any], asynchronous: bool) -> Any:
    """Return the result or the exception, and the attempts."""
    attempts = Attempts(case)
    service = Service(
        0,
        attempts,
        deadline=deadline,
        enable_fallback=case.may_go_local,
        fallback_delays=case.delays,
        fallback_timeouts=case.timeouts,
    )
    with (
        patch.object(fallback, "monotonic", lambda: attempts.clock.now),
        patch.object(fallback, "_native", SimpleNamespace(sleep=attempts.clock.sleep_async)),
        patch.object(llm_service, "time", attempts.clock),
        patch.object(LLMService, "with_local", staticmethod(lambda **_: Service(LOCAL, attempts))),
    ):
        try:
            if asynchronous:
                result: Any = asyncio.run(service.complete_with_fallback_async("hi", **keywords))
            else:
                result = service.complete_with_fallback("hi", **keywords)
        except Exception as error:
            result = error
    return result, attempts.seen


# Eighths add up exactly.
EIGHTHS = st.integers(0, 160).map(lambda number: number / 8)


@given(
    kinds=st.tuples(OUTCOMES, OUTCOMES, OUTCOMES),
    causes=st.booleans(),
    took=st.lists(EIGHTHS, min_size=3, max_size=3),
    deadline=st.none() | EIGHTHS,
    may_go_local=st.booleans(),
    keywords=st.fixed_dictionaries(
        {}, optional={"timeout": st.just(7.0), "model": st.just("m"), "n": st.just(1)}
    ),
    own_deadline=st.booleans(),
    asynchronous=st.booleans(),
)
@example((APIConnectionError, None, None), False, [0.0, 0.0, 0.0], 2.5, True, {}, False, False)
@example(
    (APIConnectionError, APIConnectionError, APIConnectionError), True, [0.0] * 3, None, True, {}, True, True
)
@examples(100)
def test_a_plan_does_what_the_model_does(
    kinds: tuple[Any, ...],
    causes: bool,
    took: list[float],
    deadline: float | None,
    may_go_local: bool,
    keywords: dict[str, Any],
    own_deadline: bool,
    asynchronous: bool,
) -> None:
    outcomes = [None if kind is None else _error(kind, number) for number, kind in enumerate(kinds)]
    cause = OSError("the cause") if causes else None
    for outcome in outcomes:
        if outcome is not None:
            outcome.__cause__ = cause
    case = Case(outcomes, took, deadline, may_go_local)
    if own_deadline:  # that of the call goes before that of the service
        result, seen = run(case, 0.125, {**keywords, "deadline": deadline}, asynchronous)
    else:
        result, seen = run(case, deadline, keywords, asynchronous)
    expected = expected_attempts(case)
    assert [(number, at) for number, at, _ in seen] == [(number, at) for number, at, _ in expected]
    for (number, _, left), (_, _, found) in zip(expected, seen, strict=True):
        wanted = {"timeout": case.timeouts[number], **keywords}
        if left is not None:
            wanted["deadline"] = left
        if number == LOCAL:
            wanted.pop("model", None)
        if not asynchronous and "timeout" not in keywords:
            del wanted["timeout"]  # the service overrides `complete`, which need not know it
        assert found == wanted
    _check_result(case, expected[-1][0], [number for number, *_ in expected], result, cause)


def _error(kind: Any, number: int) -> Exception:
    error: Exception = kind(message=f"of {number}") if kind is APIConnectionError else kind(f"of {number}")
    return error


def _check_result(case: Case, last: int, made: list[int], result: Any, cause: BaseException | None) -> None:
    cloud = [case.outcomes[number] for number in made if number != LOCAL][-1]
    if case.outcomes[last] is None:
        assert result["content"] == f"of {last}"
        assert (result["attempt"], result["fallback_used"]) == (last, last == LOCAL)
        assert result.get("original_error") == (str(cloud) if last == LOCAL else None)
        return
    assert result is cloud
    assert result.__cause__ is (case.outcomes[LOCAL] if last == LOCAL else cause)
