"""Refuses settings that make no sense, where they are given. Native code checks those of a call itself."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from arbitrageai_native.exceptions import InvalidArgumentError, InvalidArgumentTypeError
from arbitrageai_native.llm.keywords import levels_to_caller


def check_kind(name: str, value: object, kinds: type | tuple[type, ...], what: str) -> None:
    """Refuse a value of another type than these."""
    if not isinstance(value, kinds):
        raise InvalidArgumentTypeError(f"{name} has to be {what}, not {value!r}")


def check_service(model: object, temperature: object, max_tokens: object, breaker: object) -> None:
    """Refuse what is no model, default or breaker of a service: a misspelt "always" would count as True."""
    check_kind("model", model, str, "a string")
    check_kind("default_temperature", temperature, (float, int, type(None)), "a number")
    check_kind("default_max_tokens", max_tokens, (int, type(None)), "an integer")
    if breaker not in (True, False, None, "always"):
        error = InvalidArgumentError if isinstance(breaker, str) else InvalidArgumentTypeError
        raise error(f"enable_circuit_breaker has to be True, False or 'always', not {breaker!r}")


def warn_if_patched() -> None:
    """Warn under gevent or eventlet: a blocking call waits in native code, which they can't patch."""
    gevent = sys.modules.get("gevent.monkey")
    eventlet = sys.modules.get("eventlet.patcher")
    if (gevent is not None and gevent.is_module_patched("socket")) or (
        eventlet is not None and eventlet.is_monkey_patched("socket")
    ):
        name = "gevent" if gevent is not None else "eventlet"
        warnings.warn(
            f"{name} has patched the standard library, but not this package: a blocking call stops all "
            "greenlets of its thread. Make it in a real thread (gevent.get_hub().threadpool, eventlet.tpool)",
            RuntimeWarning,
            stacklevel=levels_to_caller(),
        )


def checked_seconds(name: str, given: Iterable[Any], count: int, none: bool = False) -> tuple[Any, ...]:
    """Return numbers of seconds; `none`: one of them may be None, for no limit.

    Raises:
        InvalidArgumentTypeError: it is not as many numbers as `count`.
        InvalidArgumentError: one of them is negative, infinite or NaN.
    """
    try:
        numbers = tuple(None if none and one is None else float(one) for one in given)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or isinstance(given, (str, bytes)):
        raise InvalidArgumentTypeError(f"{name} has to be {count} numbers of seconds, not {given!r}")
    if not all(number is None or 0 <= number < float("inf") for number in numbers):
        raise InvalidArgumentError(f"{name} has to be {count} numbers of seconds from 0 on, not {given!r}")
    return numbers


def with_extra_body(body: dict[str, Any], extra_body: object) -> dict[str, Any]:
    """Return a request's members with those of `extra_body` on top."""
    if extra_body is None:
        return body
    if not isinstance(extra_body, Mapping):
        raise InvalidArgumentTypeError("extra_body is not a mapping")
    return {**body, **extra_body}
