"""How a call is made: by the native client, or by an injected one.

The native client counts for the endpoint's circuit itself. Calls of an injected client, and calls whose
checker is not this package's own, are counted in Python.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from arbitrageai_native import _native
from arbitrageai_native.llm import injected, stealth
from arbitrageai_native.llm.clients import is_native
from arbitrageai_native.llm.counting import CountedStream
from arbitrageai_native.llm.endpoint import Endpoint
from arbitrageai_native.llm.request import Request
from arbitrageai_native.llm.results import Completion
from arbitrageai_native.llm.streams import AsyncStream, Stream
from arbitrageai_native.llm.tracing import Observation, observe

AnyStream = TypeVar("AnyStream", Stream[str], AsyncStream[str])


def complete(endpoint: Endpoint, request: Request, stealth_mode: bool) -> Completion:
    """Make the call and wait for it in this thread."""
    observation = observe(endpoint.model, request.body, endpoint.base_url)
    if observation is None:
        return _complete(endpoint, request, None, stealth_mode)
    with observation:
        result = _complete(endpoint, request, observation, stealth_mode)
        observation.result = result
    return result


def _complete(
    endpoint: Endpoint, request: Request, observation: Observation | None, stealth_mode: bool
) -> Completion:
    if not is_native(endpoint.client):
        arguments = request.injected_arguments()
        with endpoint.counted_injected(arguments.get("model")) as counted:
            answer = injected.create(endpoint.client, arguments)
            result = injected.result(answer, endpoint.model, counted.seconds(), stealth_mode, request.raw)
            counted.usage = result["usage"]
            return result
    health, checker = endpoint.circuit()
    if checker is None:
        return _complete_natively(endpoint, request, observation, health, stealth_mode)
    with endpoint.counted():
        return _complete_natively(endpoint, request, observation, None, stealth_mode)


def _complete_natively(
    endpoint: Endpoint,
    request: Request,
    observation: Observation | None,
    health: _native.EndpointHealth | None,
    stealth_mode: bool,
) -> Completion:
    arguments = request.native_arguments(endpoint.metrics, health, observation)
    answered: Completion = endpoint.client._native.complete(arguments, stealth_mode, request.raw)
    return answered


def complete_async(endpoint: Endpoint, request: Request, delay: float | None) -> Awaitable[Completion]:
    """Make the call, in stealth mode `delay` seconds later."""
    observation = observe(endpoint.model, request.body, endpoint.base_url)
    if observation is None:
        return _complete_async(endpoint, request, None, delay)
    return _complete_async_observed(endpoint, request, observation, delay)


async def _complete_async_observed(
    endpoint: Endpoint, request: Request, observation: Observation, delay: float | None
) -> Completion:
    with observation:
        result = await _complete_async(endpoint, request, observation, delay)
        observation.result = result
    return result


def _complete_async(
    endpoint: Endpoint, request: Request, observation: Observation | None, delay: float | None
) -> Awaitable[Completion]:
    client = endpoint.client
    if not is_native(client):
        return _complete_async_injected(endpoint, request, delay)
    health, checker = endpoint.circuit()
    if checker is not None:
        return _complete_async_counted(endpoint, request, observation, delay)
    arguments = request.native_arguments(endpoint.metrics, health, observation)
    pending: Awaitable[Completion] = client._native.complete_async(arguments, delay, request.raw)
    return pending


async def _complete_async_counted(
    endpoint: Endpoint, request: Request, observation: Observation | None, delay: float | None
) -> Completion:
    with endpoint.counted():
        arguments = request.native_arguments(endpoint.metrics, None, observation)
        answered: Completion = await endpoint.client._native.complete_async(arguments, delay, request.raw)
        return answered


async def _complete_async_injected(endpoint: Endpoint, request: Request, delay: float | None) -> Completion:
    if delay is not None:
        endpoint.refuse_if_open()
        await stealth.wait_async(request, delay)
    arguments = request.injected_arguments()
    with endpoint.counted_injected(arguments.get("model")) as counted:
        answer = await request.within_deadline(injected.create_async(endpoint.client, arguments))
        stealth_mode = delay is not None
        result = injected.result(answer, endpoint.model, counted.seconds(), stealth_mode, request.raw)
        counted.usage = result["usage"]
        return result


def open_stream(kind: type[AnyStream], endpoint: Endpoint, request: Request) -> AnyStream:
    """Return a stream that makes its call when its first piece is requested."""
    request.body["stream"] = True
    observation = observe(endpoint.model, request.body, endpoint.base_url)
    return kind(_source(endpoint, request, observation), None, observation)


def _source(endpoint: Endpoint, request: Request, observation: Observation | None) -> Any:
    client = endpoint.client
    if not is_native(client):
        arguments = request.injected_arguments()
        stream = injected.InjectedStream(
            lambda: injected.create(client, arguments), lambda: injected.create_async(client, arguments)
        )
        return CountedStream(stream, endpoint.counted_injected(arguments.get("model")))
    health, checker = endpoint.circuit()
    native = client._native.stream(request.native_arguments(endpoint.metrics, health, observation))
    return native if checker is None else CountedStream(native, endpoint.counted())
