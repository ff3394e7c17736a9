"""How a call is made: by the native client, or by what someone put in its place.

The native client counts for the endpoint's circuit itself. What goes through a foreign client, or has a
checker that is not ours to be told, is counted here.
"""

from __future__ import annotations

from arbitrageai_native import _late, _native
from arbitrageai_native._safe_text import without_secrets
from arbitrageai_native.exceptions import APITimeoutError, CircuitBreakerError
from arbitrageai_native.llm.clients import AsyncOpenAI, OpenAI

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Any

    from arbitrageai_native.llm.counting import CountedCall
    from arbitrageai_native.llm.request import Request
    from arbitrageai_native.llm.tracing import Observation
    from arbitrageai_native.llm_service import LLMService

__all__ = ["complete", "complete_async", "open_stream", "refuse_if_open"]

_NATIVE_CLIENTS = (OpenAI, AsyncOpenAI)
_CHECKER_METHODS = frozenset(("should_allow_request", "record_success", "record_failure"))


def complete(
    service: LLMService, request: Request, observation: Observation | None, stealth_mode: bool
) -> dict[str, Any]:
    """Make the call and wait for it in this thread."""
    client = service.client
    if not _is_native(client):
        from arbitrageai_native.llm import injected

        arguments = request.foreign_arguments()
        with _counted_foreign(service, arguments) as counted:
            answer = injected.create(client, arguments)
            result = injected.result(answer, service.model, counted.seconds(), stealth_mode, request.raw)
            counted.usage = result["usage"]
            return result
    health, checker = _circuit(service)
    if checker is None:
        return _complete_natively(service, request, observation, health, stealth_mode)
    with _late.CountedCall(checker, service.base_url):
        return _complete_natively(service, request, observation, None, stealth_mode)


def _complete_natively(
    service: LLMService,
    request: Request,
    observation: Observation | None,
    health: _native.EndpointHealth | None,
    stealth_mode: bool,
) -> dict[str, Any]:
    arguments = request.native_arguments(service._metrics, health, observation)
    answered: dict[str, Any] = service.client._native.complete(*arguments, stealth_mode, request.raw)
    return answered


def complete_async(
    service: LLMService, request: Request, observation: Observation | None, delay: float | None
) -> Awaitable[dict[str, Any]]:
    """Make the call, in stealth mode `delay` seconds later."""
    client = service.client
    health, checker = _circuit(service)
    if checker is not None or not _is_native(client):
        return _complete_async_counted(service, request, observation, delay)
    arguments = request.native_arguments(service._metrics, health, observation)
    pending: Awaitable[dict[str, Any]] = client._native.complete_async(*arguments, delay, request.raw)
    return pending


async def _complete_async_counted(
    service: LLMService, request: Request, observation: Observation | None, delay: float | None
) -> dict[str, Any]:
    client = service.client
    native = _is_native(client)
    if delay is not None and not native:
        refuse_if_open(service)
        await _within_deadline(_native.sleep(delay), request.options.deadline)
        request.waited(delay)
    if native:
        with _late.CountedCall(service._health_checker, service.base_url):
            native_arguments = request.native_arguments(service._metrics, None, observation)
            answered: dict[str, Any] = await client._native.complete_async(
                *native_arguments, delay, request.raw
            )
            return answered
    from arbitrageai_native.llm import injected

    arguments = request.foreign_arguments()
    with _counted_foreign(service, arguments) as counted:
        pending = injected.create_async(client, arguments)
        answer = await _within_deadline(pending, request.options.deadline)
        result = injected.result(answer, service.model, counted.seconds(), delay is not None, request.raw)
        counted.usage = result["usage"]
        return result


def open_stream(service: LLMService, request: Request, observation: Observation | None) -> Any:
    """A stream whose call is made when its first piece is asked for."""
    client = service.client
    if not _is_native(client):
        from arbitrageai_native.llm import injected

        arguments = request.foreign_arguments()
        foreign = injected.ForeignStream(
            lambda: injected.create(client, arguments), lambda: injected.create_async(client, arguments)
        )
        return _late.CountedStream(foreign, _counted_foreign(service, arguments))
    health, checker = _circuit(service)
    stream = client._native.stream(*request.native_arguments(service._metrics, health, observation))
    return (
        stream
        if checker is None
        else _late.CountedStream(stream, _late.CountedCall(checker, service.base_url))
    )


def _counted_foreign(service: LLMService, arguments: dict[str, Any]) -> CountedCall:
    model = arguments.get("model")
    return _late.CountedCall(service._health_checker, service.base_url, service._metrics, model)


def refuse_if_open(service: LLMService) -> None:
    """Raise `CircuitBreakerError` if the endpoint's circuit is open: nobody has to wait to be told."""
    health, _ = _circuit(service)
    if health is not None and health.would_refuse():
        raise CircuitBreakerError(f"Circuit breaker is open for {without_secrets(service.base_url)}")


def _circuit(service: LLMService) -> tuple[_native.EndpointHealth | None, Any]:
    """The endpoint's circuit for native code, or the checker that someone put in its place."""
    checker = service._health_checker
    if checker is None:
        return None, None
    if type(checker) is not _late.LLMHealthChecker or not _CHECKER_METHODS.isdisjoint(checker.__dict__):
        return None, checker
    metrics = checker.health_status.get(service.base_url)
    if metrics is None:
        return None, None
    if type(metrics) is not _late.HealthMetrics:
        return None, checker
    return metrics._native, None


def _is_native(client: object) -> bool:
    return type(client) in _NATIVE_CLIENTS and not client._is_replaced()  # type: ignore[attr-defined]


async def _within_deadline(pending: Awaitable[Any], deadline: float | None) -> Any:
    if deadline is None:
        return await pending
    import asyncio

    try:
        return await asyncio.wait_for(pending, deadline)
    except asyncio.TimeoutError:
        raise APITimeoutError(message=f"Request timed out. (deadline of {deadline:g} s)") from None
