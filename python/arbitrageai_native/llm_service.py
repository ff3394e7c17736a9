"""Calls of OpenAI-compatible model servers that never block the event loop.

`LLMService` is a thin class over the native client: what happens on the network, and all waiting, happens in
native code.
"""

from __future__ import annotations

import importlib
import os  # noqa: F401, a name of the original module
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping

from arbitrageai_native import _late, _native, defaults
from arbitrageai_native import _late_typing as typing
from arbitrageai_native._safe_text import without_secrets
from arbitrageai_native.environment import (
    cloud_api_key,
    cloud_base_url,
    distilled_model,
    load_dotenv_file,
    revenue_threshold,
)
from arbitrageai_native.exceptions import (
    CircuitBreakerError,
    InvalidArgumentError,
    InvalidArgumentTypeError,
)
from arbitrageai_native.llm import routing
from arbitrageai_native.llm.clients import OpenAI, organization_headers
from arbitrageai_native.llm.model_config import (
    DEFAULT_CLOUD_MODEL,
    DEFAULT_DISTILLED_MODEL,
    DEFAULT_LOCAL_MODEL,
    ModelConfig,
)
from arbitrageai_native.llm.request import Request
from arbitrageai_native.llm.settings import default_max_connections
from arbitrageai_native.llm.tracing import logger as _logger
from arbitrageai_native.llm.tracing import observe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from arbitrageai_native.llm.settings import ServiceSettings

__all__ = [
    "DEFAULT_CLOUD_MODEL",
    "DEFAULT_DISTILLED_MODEL",
    "DEFAULT_LOCAL_MODEL",
    "MIN_CLOUD_REVENUE",
    "TASK_TYPE_BASIC_ADMIN",
    "TASK_TYPE_COMPLEX",
    "TASK_TYPE_DISTILLED",
    "CircuitBreakerError",
    "LLMService",
    "ModelConfig",
    "OpenAI",
    "get_default_model_config",
    "set_default_model_config",
]


load_dotenv_file()

TASK_TYPE_BASIC_ADMIN = "basic_admin"
"""The kind of `LLMService.for_basic_admin`."""

TASK_TYPE_COMPLEX = "complex"
"""The kind of `LLMService.for_complex_task`."""

TASK_TYPE_DISTILLED = "distilled"
"""The kind of a task for the distilled model."""

MIN_CLOUD_REVENUE = revenue_threshold()
"""Cents of revenue from which the cloud's model is used: the environment's `MIN_CLOUD_REVENUE`, else 3000."""


_default_model_config: ModelConfig | None = None


def get_default_model_config() -> ModelConfig:
    """The process-wide configuration, read from the environment when it is first asked for."""
    global _default_model_config
    if _default_model_config is None:
        _default_model_config = ModelConfig.from_env()
    return _default_model_config


def set_default_model_config(config: ModelConfig) -> None:
    """Replace the process-wide configuration."""
    global _default_model_config
    _default_model_config = config


class LLMService:
    """Chat completions of one OpenAI-compatible endpoint.

    `base_url` and `api_key` default to the environment's `BASE_URL` and `API_KEY`. `enable_circuit_breaker`:
    True gives local endpoints a circuit breaker, "always" gives every endpoint one. Further keywords: see
    `ServiceSettings`.

    One policy for every call: `deadline` limits it as a whole, the circuit breaker may refuse it, each try
    is limited by `timeout`, and connection errors, timeouts, 408, 409, 429 and 5xx are tried again as
    OpenAI's SDK does.

    Attributes:
        base_url: The endpoint.
        api_key: Its key.
        model: The model of the calls to come.
        default_temperature: That of calls that name none.
        default_max_tokens: Likewise.
        model_config: What the constructors by kind of task go by.
        enable_fallback: Whether `complete_with_fallback` goes on to the local model.
        enable_circuit_breaker: As it was given.
        client: What makes the calls: this package's client, or any other of OpenAI's shape, put in its place.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str = DEFAULT_CLOUD_MODEL,
        default_temperature: float = defaults.TEMPERATURE,
        default_max_tokens: int = defaults.MAX_TOKENS,
        model_config: ModelConfig | None = None,
        enable_fallback: bool = True,
        enable_circuit_breaker: bool | typing.Literal["always"] = True,
        **settings: Unpack[ServiceSettings],
    ) -> None:
        self.base_url = base_url or cloud_base_url()
        self.api_key = api_key or cloud_api_key()
        self.model = model
        self.default_temperature = default_temperature
        self.default_max_tokens = default_max_tokens
        self.model_config = model_config or get_default_model_config()
        self.enable_fallback = enable_fallback
        self.enable_circuit_breaker = enable_circuit_breaker
        self._stealth_range = _stealth_range(settings.pop("stealth_range", defaults.STEALTH_RANGE))
        self._fallback_timeouts = settings.pop("fallback_timeouts", defaults.FALLBACK_TIMEOUTS)
        self._fallback_delays = settings.pop("fallback_delays", defaults.FALLBACK_DELAYS)
        self._options = _options(dict(settings))
        self._metrics = _native.CallMetrics()
        self._closed = False
        self.client: typing.Any = OpenAI(base_url=self.base_url, api_key=self.api_key)
        self._is_local = "localhost" in self.base_url or "127.0.0.1" in self.base_url
        self._health_checker: _late.LLMHealthChecker | None = None
        if enable_circuit_breaker == "always" or (enable_circuit_breaker and self._is_local):
            self._health_checker = _this_module.get_health_checker()
            self._health_checker.register_endpoint(
                self.base_url,
                failure_threshold=defaults.FAILURE_THRESHOLD,
                recovery_timeout_seconds=defaults.RECOVERY_TIMEOUT,
            )

    # Completions

    def complete(
        self,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        stealth_mode: bool = False,
        **kwargs: typing.Any,
    ) -> dict[str, typing.Any]:
        """Complete a prompt and wait for it in this thread; under a running event loop use `complete_async`.

        `messages=[…]` may stand in the prompt's place. Further keywords are members of the request (`top_p`,
        `stop`, `seed`, `tools`, `response_format`, …), except `extra_headers`, `extra_query`, `extra_body`,
        `raw=True` (adds all that the server sent as `result["raw"]`), and this call's own `timeout`,
        `deadline`, `max_retries` and other settings.

        Returns:
            `content`, `model`, `usage`, `stealth_mode_used`, `response_time_ms`; `tool_calls` if the model
            calls tools.

        Raises:
            CircuitBreakerError: the endpoint's circuit is open.
            OpenAIError: any of its subclasses; bad arguments are a `ValueError` or `TypeError` as well.
        """
        request = Request(self, prompt, temperature, max_tokens, system_prompt, kwargs)
        if _in_event_loop():
            self._metrics.blocked_a_loop()
            if stealth_mode:
                warnings.warn(
                    "complete(stealth_mode=True) stops the event loop: await complete_async() instead",
                    RuntimeWarning,
                    stacklevel=2,
                )
        if stealth_mode:
            routing.refuse_if_open(self)
            self._wait_in_thread(request)
        observation = observe(self.model, request.body, self.base_url)
        try:
            result = routing.complete(self, request, observation, stealth_mode)
        except BaseException as error:
            if observation is not None:
                observation.failed(error)
            raise
        if observation is not None:
            observation.succeeded(result)
        return result

    async def complete_async(
        self,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        stealth_mode: bool = False,
        **kwargs: typing.Any,
    ) -> dict[str, typing.Any]:
        """Complete a prompt without blocking the event loop; arguments, result and errors as `complete`."""
        await _native.turn()
        request = Request(self, prompt, temperature, max_tokens, system_prompt, kwargs)
        delay = _this_module.random.uniform(*self._stealth_range) if stealth_mode else None
        observation = observe(self.model, request.body, self.base_url)
        try:
            result = await routing.complete_async(self, request, observation, delay)
        except BaseException as error:
            if observation is not None:
                observation.failed(error)
            raise
        if observation is not None:
            observation.succeeded(result)
        return result

    def _wait_in_thread(self, request: Request) -> None:
        """The stealth wait of a blocking call; it counts against the deadline."""
        seconds = _this_module.random.uniform(*self._stealth_range)
        deadline = request.options.deadline
        seconds = seconds if deadline is None else min(seconds, deadline)
        time.sleep(seconds)
        request.waited(seconds)

    # Streams

    def complete_streaming(
        self,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: typing.Any,
    ) -> _late.Stream[str]:
        """Iterate over the pieces of an answer as they come; arguments as `complete`.

        The request is made when the first piece is requested. `timeout` limits the wait for the first event
        and each gap between events, not between pieces: a reasoning model sends events without text.
        After the iteration the iterator has `.model`, `.usage`, `.finish_reason`. Leaving it early closes
        the request.

        Raises:
            APIConnectionError: the stream broke, or ended before `[DONE]` and a `finish_reason`; after the
            pieces that came. OpenAIError: any other of its subclasses.
        """
        request = Request(self, prompt, temperature, max_tokens, system_prompt, kwargs)
        if _in_event_loop():
            self._metrics.blocked_a_loop()
        request.body["stream"] = True
        observation = observe(self.model, request.body, self.base_url)
        return _late.Stream(routing.open_stream(self, request, observation), None, observation)

    def complete_streaming_async(
        self,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: typing.Any,
    ) -> _late.AsyncStream[str]:
        """As `complete_streaming`, as an asynchronous iterator that never blocks the event loop."""
        request = Request(self, prompt, temperature, max_tokens, system_prompt, kwargs)
        request.body["stream"] = True
        observation = observe(self.model, request.body, self.base_url)
        return _late.AsyncStream(routing.open_stream(self, request, observation), None, observation)

    # Fallback

    def complete_with_fallback(
        self,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: typing.Any,
    ) -> dict[str, typing.Any]:
        """As `complete`; where that fails, once more, and then by the local model.

        Attempt 0 has 10 s for each of its tries; 2 s later attempt 1 has 20 s; 5 s later, unless this
        service is local or has `enable_fallback` off, the local model has 30 s. An open circuit skips
        straight to the local model.

        Returns:
            `complete`'s result, `fallback_used`, `attempt` (0, 1, 2), and `original_error` if the local
            model answered.

        Raises:
            Exception: the cloud's error if all failed, the local one as its cause.
        """
        plan = _late.FallbackPlan(self, kwargs)
        while (step := plan.next_step()) is not None:
            if step.wait:
                time.sleep(step.wait)
            try:
                service = self if step.attempt < 2 else plan.local_service()
                result = service.complete(
                    prompt, temperature, max_tokens, system_prompt, **plan.arguments(step)
                )
            except Exception as error:
                plan.failed(error)
            else:
                return plan.succeeded(result)
        raise plan.error() from plan.cause()

    async def complete_with_fallback_async(
        self,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: typing.Any,
    ) -> dict[str, typing.Any]:
        """As `complete_with_fallback`, without blocking the event loop."""
        plan = _late.FallbackPlan(self, kwargs)
        while (step := plan.next_step()) is not None:
            if step.wait:
                await _native.sleep(step.wait)
            try:
                service = self if step.attempt < 2 else plan.local_service()
                result = await service.complete_async(
                    prompt, temperature, max_tokens, system_prompt, **plan.arguments(step)
                )
            except Exception as error:
                plan.failed(error)
            else:
                return plan.succeeded(result)
        raise plan.error() from plan.cause()

    # Many

    def complete_many(
        self,
        prompts: Iterable[str | Mapping[str, typing.Any]],
        *,
        concurrency: int = defaults.CONCURRENCY,
        progress: bool = False,
        **kwargs: typing.Any,
    ) -> list[dict[str, typing.Any] | Exception]:
        """Complete many prompts, `concurrency` at a time, and wait for all of them in this thread.

        A prompt is a string, or a mapping of `complete`'s arguments; `kwargs` hold for all. `progress=True`
        shows a bar if stderr is a terminal. Ctrl-C cancels what is under way.

        Returns:
            For each prompt, in order, its result or its exception.

        Raises:
            InvalidArgumentTypeError: `prompts` is a single prompt (a string, a mapping), or not iterable.
        """
        from arbitrageai_native.llm.many import listed, run_in_private_loop

        prompts = listed("prompts", prompts)
        if _in_event_loop():
            self._metrics.blocked_a_loop()
        return run_in_private_loop(
            lambda: self.complete_many_async(prompts, concurrency=concurrency, progress=progress, **kwargs)
        )

    async def complete_many_async(
        self,
        prompts: Iterable[str | Mapping[str, typing.Any]],
        *,
        concurrency: int = defaults.CONCURRENCY,
        progress: bool = False,
        **kwargs: typing.Any,
    ) -> list[dict[str, typing.Any] | Exception]:
        """As `complete_many`, without blocking the event loop."""
        from arbitrageai_native.llm.many import fan_out, listed

        async def one(prompt: str | Mapping[str, typing.Any]) -> dict[str, typing.Any]:
            if isinstance(prompt, Mapping):
                return await self.complete_async(**{**kwargs, **prompt})
            return await self.complete_async(prompt, **kwargs)

        return await fan_out(one, listed("prompts", prompts), concurrency, progress)

    # The service itself

    def set_model(self, model: str) -> None:
        """Change the model of the calls to come."""
        self.model = model

    def get_model(self) -> str:
        """The model of the calls to come."""
        return self.model

    def is_local(self) -> bool:
        """Whether the endpoint is on this machine."""
        return self._is_local

    def get_config(self) -> dict[str, typing.Any]:
        """The settings, without the key, and without user, password and query of the base URL."""
        return {
            "base_url": without_secrets(self.base_url),
            "model": self.model,
            "temperature": self.default_temperature,
            "max_tokens": self.default_max_tokens,
            "is_local": self._is_local,
            "enable_fallback": self.enable_fallback,
        }

    def metrics(self) -> dict[str, typing.Any]:
        """Counters and latencies of this service's calls.

        `calls`, `successes`, `failures` by kind, `cancelled`, `retries`; `tokens`: `prompt` and `completion`;
        `blocking_calls_in_loop`: blocking methods called from a running loop; `latency_seconds`: successes up
        to each bound; `latency_seconds_total`. Of the whole process: `arbitrageai_native.metrics()`.
        """
        return self._metrics.snapshot()

    def close(self) -> None:
        """Refuse further calls. Connections are the process's and close by themselves when idle."""
        self._closed = True

    async def aclose(self) -> None:
        """As `close`."""
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        base_url = without_secrets(self.base_url)
        return f"{type(self).__name__}(base_url={base_url!r}, model={self.model!r})"

    def __reduce_ex__(self, protocol: typing.Any) -> typing.Any:
        raise TypeError(f"{type(self).__name__} holds an API key and is not pickled")

    # Constructors

    @classmethod
    def for_task(cls, task_type: str, model_config: ModelConfig | None = None, **kwargs: typing.Any) -> Self:
        """A service for a kind of task, as the model configuration says."""
        config = model_config or get_default_model_config()
        model, base_url, api_key, _ = config.get_model_for_task(task_type)
        chosen = {"base_url": base_url, "api_key": api_key, "model": model, "model_config": config}
        return cls(**{**chosen, **kwargs})

    @classmethod
    def for_basic_admin(cls, **kwargs: typing.Any) -> Self:
        """A service for simple administrative tasks."""
        return cls.for_task(TASK_TYPE_BASIC_ADMIN, **kwargs)

    @classmethod
    def for_complex_task(cls, **kwargs: typing.Any) -> Self:
        """A service for complex tasks."""
        return cls.for_task(TASK_TYPE_COMPLEX, **kwargs)

    @classmethod
    def for_distilled_task(cls, model: str | None = None, **kwargs: typing.Any) -> Self:
        """A service for the distilled model (`DISTILLED_MODEL_NAME`) on the local endpoint."""
        return cls.with_local(model or distilled_model(), **kwargs)

    @classmethod
    def with_local(cls, model: str | None = None, **kwargs: typing.Any) -> Self:
        """A service of the local endpoint."""
        config = kwargs.get("model_config") or get_default_model_config()
        chosen = {
            "base_url": config.local_base_url,
            "api_key": config.local_api_key,
            "model": model or config.local_model,
            "model_config": config,
        }
        return cls(**{**chosen, **kwargs})

    @classmethod
    def with_cloud(cls, model: str | None = None, **kwargs: typing.Any) -> Self:
        """A service of the cloud endpoint."""
        config = kwargs.get("model_config") or get_default_model_config()
        chosen = {
            "base_url": cloud_base_url(),
            "api_key": cloud_api_key(),
            "model": model or config.cloud_model,
            "model_config": config,
        }
        return cls(**{**chosen, **kwargs})

    @classmethod
    def get_optimized_service(
        cls, potential_revenue_cents: int, min_cloud_revenue: int | None = None, **kwargs: typing.Any
    ) -> Self:
        """The local model below the revenue (`MIN_CLOUD_REVENUE`, in cents) that pays for the cloud's."""
        threshold = MIN_CLOUD_REVENUE if min_cloud_revenue is None else min_cloud_revenue
        return cls.with_local(**kwargs) if potential_revenue_cents < threshold else cls.with_cloud(**kwargs)


def _in_event_loop() -> bool:
    events = sys.modules.get("asyncio.events")  # not imported by anyone: then no loop is running
    running: typing.Any = getattr(events, "_get_running_loop", None)
    return running is not None and running() is not None


# What code written for the original finds in this module, but what takes longer to import than all the rest.
_FOUND_HERE: dict[str, Callable[[], object]] = {
    "LLMHealthChecker": lambda: _late.LLMHealthChecker,
    "asyncio": lambda: importlib.import_module("asyncio"),
    "get_health_checker": lambda: _late.get_health_checker,
    "logger": _logger,
    "random": lambda: importlib.import_module("random"),
}
_this_module: typing.Any = sys.modules[__name__]


def __getattr__(name: str) -> object:
    if name not in _FOUND_HERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = _FOUND_HERE[name]()
    return found


def _stealth_range(given: typing.Any) -> tuple[float, float]:
    if isinstance(given, (str, bytes)):
        raise InvalidArgumentTypeError("stealth_range has to be two numbers of seconds, not a string")
    try:
        least, longest = (float(seconds) for seconds in given)
    except (TypeError, ValueError):
        raise InvalidArgumentTypeError("stealth_range has to be two numbers of seconds") from None
    if not 0 <= least <= longest < float("inf"):
        raise InvalidArgumentError(f"stealth_range has to be two growing numbers of seconds, not {given!r}")
    return least, longest


def _options(settings: dict[str, typing.Any]) -> _native.CallOptions:
    organization = organization_headers(settings.pop("organization", None), settings.pop("project", None))
    settings["default_headers"] = {**organization, **(settings.get("default_headers") or {})}
    settings.setdefault("max_connections", default_max_connections())
    return _native.CallOptions(**{**defaults.CALL_SETTINGS, **settings})
