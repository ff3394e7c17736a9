"""Calls of OpenAI-compatible model servers that never block the event loop.

`LLMService` is a thin class over the native client: what happens on the network, and all waiting, happens in
native code.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

from arbitrageai_native import _native
from arbitrageai_native._circuits import CountedCall, CountedStream
from arbitrageai_native._fallback import FallbackPlan
from arbitrageai_native._observation import Observation, observe, trace_headers
from arbitrageai_native._observation import logger as _logger
from arbitrageai_native._openai import AsyncOpenAI as _NativeAsyncOpenAI
from arbitrageai_native._openai import OpenAI, organization_headers
from arbitrageai_native._settings import CALL_SETTINGS, default_max_connections
from arbitrageai_native._streams import AsyncStream, Stream
from arbitrageai_native.exceptions import (
    APITimeoutError,
    CircuitBreakerError,
    ClientClosedError,
    InvalidArgumentError,
    InvalidArgumentTypeError,
)
from arbitrageai_native.llm_health_check import HealthMetrics, LLMHealthChecker, get_health_checker

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from arbitrageai_native._settings import ServiceSettings

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


def _load_dotenv_file() -> None:
    """Load the nearest `.env` file, from the working directory upwards."""
    # python-dotenv, and pathlib, take longer to import than this package: only if there is a file to load.
    directory = os.getcwd()  # noqa: PTH109
    while not os.path.exists(f"{directory}/.env"):  # noqa: PTH110
        parent = os.path.dirname(directory)  # noqa: PTH120
        if parent == directory:
            return
        directory = parent
    from dotenv import find_dotenv, load_dotenv

    found = find_dotenv(usecwd=True)
    if found:
        load_dotenv(found)


_load_dotenv_file()

DEFAULT_CLOUD_MODEL = "gpt-4o-mini"
DEFAULT_LOCAL_MODEL = "llama3.2"
DEFAULT_DISTILLED_MODEL = "distilled-llama3.2"

TASK_TYPE_BASIC_ADMIN = "basic_admin"
TASK_TYPE_COMPLEX = "complex"
TASK_TYPE_DISTILLED = "distilled"

_DEFAULT_BASE_URL = "https://api.openai.com/v1"
_DEFAULT_API_KEY = "dummy-key-for-local"
_NATIVE_CLIENTS = (OpenAI, _NativeAsyncOpenAI)


def _revenue_threshold() -> int:
    text = os.getenv("MIN_CLOUD_REVENUE", "3000")
    try:
        return int(text)
    except ValueError:
        _logger().warning("MIN_CLOUD_REVENUE is not a whole number of cents: 3000 is used")
        return 3000


MIN_CLOUD_REVENUE = _revenue_threshold()


def _cloud_base_url() -> str:
    return os.getenv("BASE_URL") or _DEFAULT_BASE_URL


def _cloud_api_key() -> str:
    return os.getenv("API_KEY") or _DEFAULT_API_KEY


def _json_object(variable: str) -> dict[str, Any]:
    text = os.getenv(variable)
    if not text:
        return {}
    import json  # nothing else here needs it

    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        _logger().warning("%s is not a JSON object: it counts as empty", variable)
        return {}
    return value


class ModelConfig:
    """Which model serves which kind of task, and where."""

    def __init__(
        self,
        cloud_model: str = DEFAULT_CLOUD_MODEL,
        local_model: str = DEFAULT_LOCAL_MODEL,
        local_base_url: str | None = None,
        local_api_key: str = "not-needed",
        use_local_by_default: bool = False,
        task_model_map: dict[str, str] | None = None,
        task_use_local_map: dict[str, bool] | None = None,
    ) -> None:
        self.cloud_model = cloud_model
        self.local_model = local_model
        self.local_base_url = local_base_url or os.getenv("OLLAMA_URL") or "http://localhost:11434/v1"
        self.local_api_key = local_api_key
        self.use_local_by_default = use_local_by_default
        self.task_model_map = task_model_map or {}
        self.task_use_local_map = task_use_local_map or {}

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment: `CLOUD_MODEL`, `LOCAL_MODEL`, `LOCAL_BASE_URL` and the others."""
        return cls(
            cloud_model=os.getenv("CLOUD_MODEL", DEFAULT_CLOUD_MODEL),
            local_model=os.getenv("LOCAL_MODEL", DEFAULT_LOCAL_MODEL),
            local_base_url=os.getenv("LOCAL_BASE_URL"),
            local_api_key=os.getenv("LOCAL_API_KEY", "not-needed"),
            use_local_by_default=os.getenv("USE_LOCAL_BY_DEFAULT", "false").strip().lower() == "true",
            task_model_map=_json_object("TASK_MODEL_MAP"),
            task_use_local_map=_json_object("TASK_USE_LOCAL_MAP"),
        )

    def get_model_for_task(
        self, task_type: str, prefer_local: bool | None = None
    ) -> tuple[str, str, str, bool]:
        """`(model, base_url, api_key, is_local)`: by the task maps, `prefer_local`, or the default."""
        is_local = self.use_local_by_default if prefer_local is None else prefer_local
        is_local = bool(self.task_use_local_map.get(task_type, is_local))
        model = self.task_model_map.get(task_type, self.local_model if is_local else self.cloud_model)
        if is_local:
            return model, self.local_base_url, self.local_api_key, True
        return model, _cloud_base_url(), _cloud_api_key(), False

    def __getstate__(self) -> dict[str, Any]:
        # A key has no business in a pickle; the process that reads it has its own environment.
        return {name: value for name, value in vars(self).items() if name != "local_api_key"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, local_api_key=os.getenv("LOCAL_API_KEY", "not-needed"))

    def __repr__(self) -> str:
        return (
            f"ModelConfig(cloud_model={self.cloud_model!r}, local_model={self.local_model!r}, "
            f"use_local_by_default={self.use_local_by_default!r})"
        )


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


class _Request:
    """One call, as its method's arguments say: the request's body, its limits, and what goes along."""

    __slots__ = ("body", "extra_body", "extra_headers", "extra_query", "options", "raw", "settings")

    def __init__(
        self,
        service: LLMService,
        prompt: str | None,
        temperature: float | None,
        max_tokens: int | None,
        system_prompt: str | None,
        keywords: dict[str, Any],
    ) -> None:
        if service._closed:
            raise ClientClosedError("the service is closed")
        self.extra_headers = self.extra_query = self.extra_body = None
        self.settings: dict[str, Any] = {}
        self.options = service._options
        self.raw = False
        body: dict[str, Any] = {
            "model": service.model,
            "messages": None,
            "temperature": service.default_temperature if temperature is None else temperature,
            "max_tokens": service.default_max_tokens if max_tokens is None else max_tokens,
        }
        messages = None
        if keywords:
            messages = self._take_keywords(keywords)
            body.update(keywords)
        body["messages"] = _messages(prompt, system_prompt, messages)
        self.body = body

    def _take_keywords(self, keywords: dict[str, Any]) -> Any:
        """Take out of `keywords` what is no member of the request; returns the messages."""
        if keywords.pop("stream", None):
            raise InvalidArgumentTypeError("stream: complete_streaming and complete_streaming_async stream")
        self.extra_headers = keywords.pop("extra_headers", None)
        self.extra_query = keywords.pop("extra_query", None)
        self.extra_body = keywords.pop("extra_body", None)
        self.raw = bool(keywords.pop("raw", False))
        changed = CALL_SETTINGS & keywords.keys()
        if changed:
            self.settings = {name: keywords.pop(name) for name in changed}
            self.options = self.options.adjusted(self.settings)
        return keywords.pop("messages", None)

    def native_body(self) -> dict[str, Any]:
        if self.extra_body is None:
            return self.body
        if not isinstance(self.extra_body, Mapping):
            raise InvalidArgumentTypeError("extra_body is not a mapping")
        return {**self.body, **self.extra_body}

    def headers(self, observation: Observation | None) -> Any:
        """The extra headers, the trace's among them."""
        trace = trace_headers(observation)
        extra = self.extra_headers
        if trace is None or not (extra is None or isinstance(extra, Mapping)):
            return extra  # what is no mapping is refused where headers are read
        return {**trace, **(extra or {})}

    def wait_in_thread(self, seconds: float) -> None:
        """The stealth wait of a blocking call; it counts against the deadline."""
        deadline = self.options.deadline
        if deadline is None:
            time.sleep(seconds)
            return
        seconds = min(seconds, deadline)
        time.sleep(seconds)
        self.options = self.options.adjusted({"deadline": deadline - seconds})

    def foreign_arguments(self) -> dict[str, Any]:
        """The keywords for a foreign client's `create`: `timeout` and the `extra_…`, none of our settings."""
        arguments = {**self.body, "timeout": self.settings.get("timeout", self.options.timeout)}
        for name in ("extra_headers", "extra_query", "extra_body"):
            value = getattr(self, name)
            if value is not None:
                arguments[name] = value
        return arguments


def _messages(prompt: str | None, system_prompt: str | None, messages: Any) -> list[Any]:
    if messages is None:
        if not isinstance(prompt, str):
            raise InvalidArgumentTypeError(f"prompt has to be a string, not {type(prompt).__name__}")
        messages = [{"role": "user", "content": prompt}]
    elif prompt is not None:
        raise InvalidArgumentTypeError("prompt and messages were both given")
    elif isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise InvalidArgumentTypeError(f"messages has to be a list, not {type(messages).__name__}")
    if not system_prompt:
        return list(messages)
    if not isinstance(system_prompt, str):
        raise InvalidArgumentTypeError(
            f"system_prompt has to be a string, not {type(system_prompt).__name__}"
        )
    return [{"role": "system", "content": system_prompt}, *messages]


class LLMService:
    """Chat completions of one OpenAI-compatible endpoint.

    `base_url` and `api_key` default to the environment's `BASE_URL` and `API_KEY`. `enable_circuit_breaker`:
    True gives local endpoints a circuit breaker, "always" gives every endpoint one. Further keywords: see
    `ServiceSettings`.

    One policy for every call: `deadline` limits it as a whole, the circuit breaker may refuse it, each try
    is limited by `timeout`, and connection errors, timeouts, 408, 409, 429 and 5xx are tried again as
    OpenAI's SDK does.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str = DEFAULT_CLOUD_MODEL,
        default_temperature: float = 0.7,
        default_max_tokens: int = 1000,
        model_config: ModelConfig | None = None,
        enable_fallback: bool = True,
        enable_circuit_breaker: bool | Literal["always"] = True,
        **settings: Unpack[ServiceSettings],
    ) -> None:
        self.base_url = base_url or _cloud_base_url()
        self.api_key = api_key or _cloud_api_key()
        self.model = model
        self.default_temperature = default_temperature
        self.default_max_tokens = default_max_tokens
        self.model_config = model_config or get_default_model_config()
        self.enable_fallback = enable_fallback
        self.enable_circuit_breaker = enable_circuit_breaker
        self._stealth_range = _stealth_range(settings.pop("stealth_range", (2.0, 5.0)))
        self._fallback_timeouts = settings.pop("fallback_timeouts", (10.0, 20.0, 30.0))
        self._fallback_delays = settings.pop("fallback_delays", (2.0, 5.0))
        self._options = _options(dict(settings))
        self._metrics = _native.CallMetrics()
        self._closed = False
        self.client: Any = OpenAI(base_url=self.base_url, api_key=self.api_key)
        self._is_local = "localhost" in self.base_url or "127.0.0.1" in self.base_url
        self._health_checker: LLMHealthChecker | None = None
        if enable_circuit_breaker == "always" or (enable_circuit_breaker and self._is_local):
            self._health_checker = get_health_checker()
            self._health_checker.register_endpoint(
                self.base_url, failure_threshold=3, recovery_timeout_seconds=60
            )

    # Completions

    def complete(
        self,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        stealth_mode: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
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
        request = _Request(self, prompt, temperature, max_tokens, system_prompt, kwargs)
        if _in_event_loop():
            self._metrics.blocked_a_loop()
            if stealth_mode:
                warnings.warn(
                    "complete(stealth_mode=True) stops the event loop: await complete_async() instead",
                    RuntimeWarning,
                    stacklevel=2,
                )
        if stealth_mode:
            self._refuse_if_open()
            request.wait_in_thread(_this_module.random.uniform(*self._stealth_range))
        observation = observe(self.model, request.body, self.base_url)
        try:
            result = self._complete(request, observation, stealth_mode)
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
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Complete a prompt without blocking the event loop; arguments, result and errors as `complete`."""
        await _native.turn()
        request = _Request(self, prompt, temperature, max_tokens, system_prompt, kwargs)
        delay = _this_module.random.uniform(*self._stealth_range) if stealth_mode else None
        observation = observe(self.model, request.body, self.base_url)
        result: dict[str, Any]
        try:
            client = self.client
            health, checker = self._circuit()
            if checker is None and _is_native(client):
                result = await client._native.complete_async(
                    request.native_body(),
                    request.options,
                    self._metrics,
                    health,
                    request.headers(observation),
                    request.extra_query,
                    delay,
                    request.raw,
                )
            else:
                result = await self._complete_async_counted(request, observation, delay)
        except BaseException as error:
            if observation is not None:
                observation.failed(error)
            raise
        if observation is not None:
            observation.succeeded(result)
        return result

    def _complete(
        self, request: _Request, observation: Observation | None, stealth_mode: bool
    ) -> dict[str, Any]:
        client = self.client
        if not _is_native(client):
            from arbitrageai_native import _foreign

            with CountedCall(self._health_checker, self.base_url, self._metrics) as counted:
                answer = _foreign.create(client, request.foreign_arguments())
                return _foreign.result(answer, self.model, counted.seconds(), stealth_mode, request.raw)
        health, checker = self._circuit()
        with CountedCall(checker, self.base_url) if checker is not None else _NOT_COUNTED:
            result: dict[str, Any] = client._native.complete(
                request.native_body(),
                request.options,
                self._metrics,
                health,
                request.headers(observation),
                request.extra_query,
                stealth_mode,
                request.raw,
            )
        return result

    async def _complete_async_counted(
        self, request: _Request, observation: Observation | None, delay: float | None
    ) -> dict[str, Any]:
        """The way through a foreign client, or past a checker that is not ours."""
        client = self.client
        native = _is_native(client)
        if delay is not None and not native:
            self._refuse_if_open()
            await _native.sleep(delay)
        with CountedCall(self._health_checker, self.base_url, None if native else self._metrics) as counted:
            if not native:
                from arbitrageai_native import _foreign

                pending = _foreign.create_async(client, request.foreign_arguments())
                answer = await _within_deadline(pending, request.options.deadline)
                return _foreign.result(answer, self.model, counted.seconds(), delay is not None, request.raw)
            result: dict[str, Any] = await client._native.complete_async(
                request.native_body(),
                request.options,
                self._metrics,
                None,
                request.headers(observation),
                request.extra_query,
                delay,
                request.raw,
            )
            return result

    # Streams

    def complete_streaming(
        self,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: Any,
    ) -> Stream[str]:
        """Iterate over the pieces of an answer as they come; arguments as `complete`.

        The call is made when the first piece is asked for. `timeout` limits the first piece and each gap.
        After the iteration the iterator has `.model`, `.usage`, `.finish_reason`. Leaving it early closes
        the request.

        Raises:
            APIConnectionError: the stream broke, or ended before `[DONE]` and a `finish_reason`; after the
            pieces that came. OpenAIError: any other of its subclasses.
        """
        request = _Request(self, prompt, temperature, max_tokens, system_prompt, kwargs)
        if _in_event_loop():
            self._metrics.blocked_a_loop()
        native, observation = self._open_stream(request)
        return Stream(native, None, observation)

    def complete_streaming_async(
        self,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: Any,
    ) -> AsyncStream[str]:
        """As `complete_streaming`, as an asynchronous iterator that never blocks the event loop."""
        request = _Request(self, prompt, temperature, max_tokens, system_prompt, kwargs)
        native, observation = self._open_stream(request)
        return AsyncStream(native, None, observation)

    def _open_stream(self, request: _Request) -> tuple[Any, Observation | None]:
        request.body["stream"] = True
        observation = observe(self.model, request.body, self.base_url)
        client = self.client
        if not _is_native(client):
            arguments = request.foreign_arguments()
            from arbitrageai_native import _foreign

            foreign = _foreign.ForeignStream(
                lambda: _foreign.create(client, arguments), lambda: _foreign.create_async(client, arguments)
            )
            return CountedStream(
                foreign, CountedCall(self._health_checker, self.base_url, self._metrics)
            ), observation
        health, checker = self._circuit()
        stream = client._native.stream(
            request.native_body(),
            request.options,
            self._metrics,
            health,
            request.headers(observation),
            request.extra_query,
        )
        if checker is None:
            return stream, observation
        return CountedStream(stream, CountedCall(checker, self.base_url)), observation

    # Fallback

    def complete_with_fallback(
        self,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
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
        plan = FallbackPlan(self, kwargs)
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
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As `complete_with_fallback`, without blocking the event loop."""
        plan = FallbackPlan(self, kwargs)
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
        prompts: Iterable[str | Mapping[str, Any]],
        *,
        concurrency: int = 16,
        progress: bool = False,
        **kwargs: Any,
    ) -> list[dict[str, Any] | Exception]:
        """Complete many prompts, `concurrency` at a time, and wait for all of them in this thread.

        A prompt is a string, or a mapping of `complete`'s arguments; `kwargs` hold for all. `progress=True`
        shows a bar if stderr is a terminal. Ctrl-C cancels what is under way.

        Returns:
            For each prompt, in order, its result or its exception.
        """
        from arbitrageai_native._many import run_in_private_loop

        if _in_event_loop():
            self._metrics.blocked_a_loop()
        return run_in_private_loop(
            lambda: self.complete_many_async(prompts, concurrency=concurrency, progress=progress, **kwargs)
        )

    async def complete_many_async(
        self,
        prompts: Iterable[str | Mapping[str, Any]],
        *,
        concurrency: int = 16,
        progress: bool = False,
        **kwargs: Any,
    ) -> list[dict[str, Any] | Exception]:
        """As `complete_many`, without blocking the event loop."""

        async def one(prompt: str | Mapping[str, Any]) -> dict[str, Any]:
            if isinstance(prompt, Mapping):
                return await self.complete_async(**{**kwargs, **prompt})
            return await self.complete_async(prompt, **kwargs)

        from arbitrageai_native._many import fan_out

        return await fan_out(one, list(prompts), concurrency, progress)

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

    def get_config(self) -> dict[str, Any]:
        """The settings, without the key."""
        return {
            "base_url": self.base_url,
            "model": self.model,
            "temperature": self.default_temperature,
            "max_tokens": self.default_max_tokens,
            "is_local": self._is_local,
            "enable_fallback": self.enable_fallback,
        }

    def metrics(self) -> dict[str, Any]:
        """Counters and latencies of this service's calls.

        `calls`, `successes`, `failures` by kind, `retries`; `blocking_calls_in_loop`: blocking methods
        called from a running loop; `latency_seconds`: successes up to each bound; `latency_seconds_total`.
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
        return f"{type(self).__name__}(base_url={self.base_url!r}, model={self.model!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"{type(self).__name__} holds an API key and is not pickled")

    # Constructors

    @classmethod
    def for_task(cls, task_type: str, model_config: ModelConfig | None = None, **kwargs: Any) -> Self:
        """A service for a kind of task, as the model configuration says."""
        config = model_config or get_default_model_config()
        model, base_url, api_key, _ = config.get_model_for_task(task_type)
        chosen = {"base_url": base_url, "api_key": api_key, "model": model, "model_config": config}
        return cls(**{**chosen, **kwargs})

    @classmethod
    def for_basic_admin(cls, **kwargs: Any) -> Self:
        """A service for simple administrative tasks."""
        return cls.for_task(TASK_TYPE_BASIC_ADMIN, **kwargs)

    @classmethod
    def for_complex_task(cls, **kwargs: Any) -> Self:
        """A service for complex tasks."""
        return cls.for_task(TASK_TYPE_COMPLEX, **kwargs)

    @classmethod
    def for_distilled_task(cls, model: str | None = None, **kwargs: Any) -> Self:
        """A service for the distilled model (`DISTILLED_MODEL_NAME`) on the local endpoint."""
        return cls.with_local(model or os.getenv("DISTILLED_MODEL_NAME") or DEFAULT_DISTILLED_MODEL, **kwargs)

    @classmethod
    def with_local(cls, model: str | None = None, **kwargs: Any) -> Self:
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
    def with_cloud(cls, model: str | None = None, **kwargs: Any) -> Self:
        """A service of the cloud endpoint."""
        config = kwargs.get("model_config") or get_default_model_config()
        chosen = {
            "base_url": _cloud_base_url(),
            "api_key": _cloud_api_key(),
            "model": model or config.cloud_model,
            "model_config": config,
        }
        return cls(**{**chosen, **kwargs})

    @classmethod
    def get_optimized_service(
        cls, potential_revenue_cents: int, min_cloud_revenue: int | None = None, **kwargs: Any
    ) -> Self:
        """The local model below the revenue (`MIN_CLOUD_REVENUE`, in cents) that pays for the cloud's."""
        threshold = MIN_CLOUD_REVENUE if min_cloud_revenue is None else min_cloud_revenue
        return cls.with_local(**kwargs) if potential_revenue_cents < threshold else cls.with_cloud(**kwargs)

    # The circuit

    def _circuit(self) -> tuple[_native.EndpointHealth | None, Any]:
        """The endpoint's circuit for native code, or the checker that someone put in its place."""
        checker = self._health_checker
        if checker is None:
            return None, None
        if type(checker) is not LLMHealthChecker or not _CHECKER_METHODS.isdisjoint(checker.__dict__):
            return None, checker
        metrics = checker.health_status.get(self.base_url)
        if metrics is None:
            return None, None
        if type(metrics) is not HealthMetrics:
            return None, checker
        return metrics._native, None

    def _refuse_if_open(self) -> None:
        health, _ = self._circuit()
        if health is not None and health.would_refuse():
            raise CircuitBreakerError(f"Circuit breaker is open for {self.base_url}")


_CHECKER_METHODS = frozenset(("should_allow_request", "record_success", "record_failure"))
_NOT_COUNTED = nullcontext()


def _in_event_loop() -> bool:
    events = sys.modules.get("asyncio.events")  # not imported by anyone: then no loop is running
    running: Any = getattr(events, "_get_running_loop", None)
    return running is not None and running() is not None


# What code written for the original finds in this module, but what takes longer to import than all the rest.
_FOUND_HERE: dict[str, Callable[[], Any]] = {
    "asyncio": lambda: importlib.import_module("asyncio"),
    "logger": _logger,
    "random": lambda: importlib.import_module("random"),
}
_this_module: Any = sys.modules[__name__]


def __getattr__(name: str) -> Any:
    if name not in _FOUND_HERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = _FOUND_HERE[name]()
    return found


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


def _stealth_range(given: Any) -> tuple[float, float]:
    try:
        least, longest = (float(seconds) for seconds in given)
    except (TypeError, ValueError):
        raise InvalidArgumentTypeError("stealth_range has to be two numbers of seconds") from None
    if not 0 <= least <= longest < float("inf"):
        raise InvalidArgumentError(f"stealth_range has to be two growing numbers of seconds, not {given!r}")
    return least, longest


def _options(settings: dict[str, Any]) -> _native.CallOptions:
    organization = organization_headers(settings.pop("organization", None), settings.pop("project", None))
    settings["default_headers"] = {**organization, **(settings.get("default_headers") or {})}
    settings.setdefault("max_connections", default_max_connections())
    return _native.CallOptions(**settings)
