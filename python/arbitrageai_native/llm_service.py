"""Calls of OpenAI-compatible model servers that never block the event loop.

`LLMService` is a thin class over the native client: what happens on the network, and all waiting, happens in
native code.
"""

from __future__ import annotations

import asyncio
import os  # noqa: F401, a name of the original module
import random
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from arbitrageai_native import _native, defaults, environment
from arbitrageai_native._typing import Self, Unpack
from arbitrageai_native.exceptions import CircuitBreakerError, ClientClosedError
from arbitrageai_native.llm import blocking, checks, many, replaced_call, routing, settings, stealth
from arbitrageai_native.llm.clients import OpenAI, call_options
from arbitrageai_native.llm.endpoint import Endpoint
from arbitrageai_native.llm.facts import ServiceFacts
from arbitrageai_native.llm.fallback import FallbackPlan
from arbitrageai_native.llm.injected import ChatClient
from arbitrageai_native.llm.keys import ApiKey
from arbitrageai_native.llm.model_config import (
    DEFAULT_CLOUD_MODEL,
    DEFAULT_DISTILLED_MODEL,
    DEFAULT_LOCAL_MODEL,
    TASK_TYPE_BASIC_ADMIN,
    TASK_TYPE_COMPLEX,
    TASK_TYPE_DISTILLED,
    ModelConfig,
)
from arbitrageai_native.llm.request import Request
from arbitrageai_native.llm.results import Completion, FallbackCompletion
from arbitrageai_native.llm.signatures import lists_keywords
from arbitrageai_native.llm.streams import AsyncStream, Stream
from arbitrageai_native.llm.tracing import logger as logger
from arbitrageai_native.llm_health_check import LLMHealthChecker, get_health_checker
from arbitrageai_native.utils.foreign import foreign_names
from arbitrageai_native.utils.replaced import is_replaced

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

if not TYPE_CHECKING:  # type checkers report names that do not exist
    __getattr__ = foreign_names(__name__)

environment.load_dotenv_file()

MIN_CLOUD_REVENUE = environment.revenue_threshold()
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


class LLMService(ServiceFacts):
    """Chat completions of one OpenAI-compatible endpoint.

    `base_url` and `api_key` default to the environment's `BASE_URL` and `API_KEY`. `enable_circuit_breaker`:
    True gives local endpoints a circuit breaker, "always" gives every endpoint one. Further keywords: see
    `ServiceSettings`.

    One policy for every call: `deadline` limits it as a whole, the circuit breaker may refuse it, each try
    is limited by `timeout`, and connection errors, timeouts, 408, 409, 429 and 5xx are tried again as
    OpenAI's SDK does.

    Attributes:
        base_url: The endpoint.
        api_key: Its key, or a function that returns it, which is asked for each call.
        model: The model of the calls to come.
        default_temperature: That of calls that name none.
        default_max_tokens: Likewise.
        model_config: Which model serves which kind of task.
        enable_fallback: Whether `complete_with_fallback` goes on to the local model.
        enable_circuit_breaker: As it was given.
        client: What makes the calls: this package's client, or any other of OpenAI's shape, put in its place.
    """

    @lists_keywords(settings.ServiceSettings)
    def __init__(
        self,
        base_url: str | None = None,
        api_key: ApiKey | None = None,
        model: str = DEFAULT_CLOUD_MODEL,
        default_temperature: float = defaults.TEMPERATURE,
        default_max_tokens: int = defaults.MAX_TOKENS,
        model_config: ModelConfig | None = None,
        enable_fallback: bool = True,
        enable_circuit_breaker: bool | Literal["always"] = True,
        **settings: Unpack[settings.ServiceSettings],
    ) -> None:
        checks.check_service(model, default_temperature, default_max_tokens, enable_circuit_breaker)
        self.base_url = base_url or environment.cloud_base_url()
        self.api_key: ApiKey = api_key or environment.cloud_api_key()
        self.model = model
        self.default_temperature = default_temperature
        self.default_max_tokens = default_max_tokens
        self.model_config = model_config or get_default_model_config()
        self.enable_fallback = enable_fallback
        self.enable_circuit_breaker = enable_circuit_breaker
        self._stealth_range = stealth.checked_range(settings.pop("stealth_range", defaults.STEALTH_RANGE))
        timeouts = settings.pop("fallback_timeouts", defaults.FALLBACK_TIMEOUTS)
        self._fallback_timeouts = checks.checked_seconds("fallback_timeouts", timeouts, 3, none=True)
        delays = settings.pop("fallback_delays", defaults.FALLBACK_DELAYS)
        self._fallback_delays = checks.checked_seconds("fallback_delays", delays, 2)
        self._options = call_options(dict(settings))
        self._metrics = _native.CallMetrics()
        self._closed = False
        self.client: ChatClient = OpenAI(base_url=self.base_url, api_key=self.api_key)
        self._is_local = "localhost" in self.base_url or "127.0.0.1" in self.base_url
        self._health_checker: LLMHealthChecker | None = None
        if enable_circuit_breaker == "always" or (enable_circuit_breaker and self._is_local):
            self._health_checker = get_health_checker()
            self._health_checker.register_endpoint(
                self.base_url,
                failure_threshold=defaults.FAILURE_THRESHOLD,
                recovery_timeout_seconds=defaults.RECOVERY_TIMEOUT,
            )

    # Completions

    @lists_keywords(settings.CompleteKeywords)
    def complete(
        self,
        prompt: settings.Prompt | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        stealth_mode: bool = False,
        **kwargs: Unpack[settings.CompleteKeywords],
    ) -> Completion:
        """Complete a prompt and wait for it in this thread; under a running event loop use `complete_async`.

        `messages=[…]` may stand in the prompt's place. The keywords of the signature: see `CompleteKeywords`.
        Any other becomes a member of the request; type checkers refuse it, since it may be misspelt, and let
        it pass in `extra_body`.

        Returns:
            A dict; its keys: see `Completion`.

        Raises:
            CircuitBreakerError: the endpoint's circuit is open.
            OpenAIError: any of its subclasses; bad arguments are a `ValueError` or `TypeError` as well.
        """
        request = self._request(prompt, temperature, max_tokens, system_prompt, kwargs)
        resume = blocking.awaiter("complete", self._metrics, stealth_mode)
        if stealth_mode:
            self._endpoint().refuse_if_open()
            sleep = partial(blocking.sleep, "complete", time.sleep)
            stealth.wait(request, random.uniform(*self._stealth_range), sleep)
        # Made after the wait: the client and the checker may have been replaced meanwhile.
        if resume is not None:
            delay = 0.0 if stealth_mode else None
            answered: Completion = resume(routing.complete_async(self._endpoint(), request, delay))
            return answered
        return routing.complete(self._endpoint(), request, stealth_mode)

    @lists_keywords(settings.CompleteKeywords)
    async def complete_async(
        self,
        prompt: settings.Prompt | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        stealth_mode: bool = False,
        **kwargs: Unpack[settings.CompleteKeywords],
    ) -> Completion:
        """Complete a prompt without blocking the event loop; arguments, result and errors as `complete`."""
        await _native.turn()
        delay = random.uniform(*self._stealth_range) if stealth_mode else None
        if delay is not None and asyncio.sleep is not _own_sleep:  # a test patched it
            await asyncio.sleep(delay)
            delay = 0.0
        if is_replaced(self, _own_complete):
            arguments = replaced_call.keywords(prompt, temperature, max_tokens, system_prompt)
            return await replaced_call.in_worker(self.complete, delay, {**arguments, **kwargs})
        request = self._request(prompt, temperature, max_tokens, system_prompt, kwargs)
        return await routing.complete_async(self._endpoint(), request, delay)

    # Streams

    @lists_keywords(settings.CompleteKeywords)
    def complete_streaming(
        self,
        prompt: settings.Prompt | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: Unpack[settings.CompleteKeywords],
    ) -> Stream[str]:
        """Iterate over the pieces of an answer as they come; arguments as `complete`.

        The request is made when the first piece is requested. `timeout` limits the wait for the first event
        and each gap between events, not between pieces: a reasoning model sends events without text.
        After the iteration the iterator has `.model`, `.usage`, `.finish_reason`. Leaving it early closes
        the request.

        Raises:
            APIConnectionError: the stream broke, or ended before `[DONE]` and a `finish_reason`; after the
            pieces that came. OpenAIError: any other of its subclasses.
        """
        request = self._request(prompt, temperature, max_tokens, system_prompt, kwargs)
        if blocking.blocks_a_loop():
            self._metrics.blocked_a_loop()
        return routing.open_stream(Stream, self._endpoint(), request)

    @lists_keywords(settings.CompleteKeywords)
    def complete_streaming_async(
        self,
        prompt: settings.Prompt | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: Unpack[settings.CompleteKeywords],
    ) -> AsyncStream[str]:
        """As `complete_streaming`, as an asynchronous iterator that never blocks the event loop."""
        request = self._request(prompt, temperature, max_tokens, system_prompt, kwargs)
        return routing.open_stream(AsyncStream, self._endpoint(), request)

    # Fallback

    @lists_keywords(settings.CompleteKeywords)
    def complete_with_fallback(
        self,
        prompt: settings.Prompt | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: Unpack[settings.CompleteKeywords],
    ) -> FallbackCompletion:
        """As `complete`; where that fails, once more, and then by the local model.

        Attempt 0 has 10 s for each of its tries; 2 s later attempt 1 has 20 s; 5 s later, unless this
        service is local or has `enable_fallback` off, the local model has 30 s. An open circuit skips
        straight to the local model.

        Returns:
            `complete`'s result with three more keys: see `FallbackCompletion`.

        Raises:
            Exception: the cloud's error if all failed, the local one as its cause.
        """

        def attempt(is_local: bool, keywords: dict[str, Any]) -> Completion:
            service = self._local_service() if is_local else self
            if "timeout" not in kwargs and is_replaced(service, _own_complete):
                del keywords["timeout"]  # of the attempt, which whatever replaces `complete` need not know
            return service.complete(**arguments, **keywords)

        arguments = replaced_call.keywords(prompt, temperature, max_tokens, system_prompt)
        sleep = partial(blocking.sleep, "complete_with_fallback", time.sleep)
        return self._fallback_plan(kwargs).run(attempt, sleep)

    @lists_keywords(settings.CompleteKeywords)
    async def complete_with_fallback_async(
        self,
        prompt: settings.Prompt | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: Unpack[settings.CompleteKeywords],
    ) -> FallbackCompletion:
        """As `complete_with_fallback`, without blocking the event loop."""

        async def attempt(is_local: bool, keywords: dict[str, Any]) -> Completion:
            service = self._local_service() if is_local else self
            return await service.complete_async(**arguments, **keywords)

        arguments = replaced_call.keywords(prompt, temperature, max_tokens, system_prompt)
        return await self._fallback_plan(kwargs).run_async(attempt)

    def _fallback_plan(self, keywords: Mapping[str, Any]) -> FallbackPlan:
        def goes_local(error: Exception | None) -> bool:  # the attributes may change meanwhile
            if not self.enable_fallback or self._is_local:
                return False
            logger.info("Cloud inference failed: %s", error)
            logger.info("Attempting fallback to local model...")
            return True

        times = self._fallback_delays, self._fallback_timeouts
        return FallbackPlan(keywords, self._options, *times, goes_local)

    def _local_service(self) -> LLMService:
        return self.with_local(enable_circuit_breaker=self.enable_circuit_breaker)

    # Many

    @lists_keywords(settings.ManyKeywords)
    def complete_many(
        self,
        prompts: Iterable[str | Mapping[str, Any]],
        *,
        concurrency: int = defaults.CONCURRENCY,
        progress: bool = False,
        **kwargs: Unpack[settings.ManyKeywords],
    ) -> list[Completion | Exception]:
        """Complete many prompts, `concurrency` at a time, and wait for all of them in this thread.

        A prompt is a string, or a mapping of `complete`'s arguments; `kwargs` hold for all. `progress=True`
        shows a bar if stderr is a terminal. Ctrl-C cancels what is under way.

        Returns:
            For each prompt, in order, its result or its exception.

        Raises:
            InvalidArgumentTypeError: `prompts` is a single prompt (a string, a mapping), or not iterable.
        """
        prompts = many.listed("prompts", prompts)
        resume = blocking.awaiter("complete_many", self._metrics)
        results = partial(
            self.complete_many_async, prompts, concurrency=concurrency, progress=progress, **kwargs
        )
        return many.run_in_private_loop(results) if resume is None else resume(results())

    @lists_keywords(settings.ManyKeywords)
    async def complete_many_async(
        self,
        prompts: Iterable[str | Mapping[str, Any]],
        *,
        concurrency: int = defaults.CONCURRENCY,
        progress: bool = False,
        **kwargs: Unpack[settings.ManyKeywords],
    ) -> list[Completion | Exception]:
        """As `complete_many`, without blocking the event loop."""
        return await many.complete_all(self.complete_async, prompts, dict(kwargs), concurrency, progress)

    # The service itself

    def _request(
        self,
        prompt: settings.Prompt | None,
        temperature: float | None,
        max_tokens: int | None,
        system_prompt: str | None,
        keywords: Mapping[str, Any],
    ) -> Request:
        if self._closed:
            raise ClientClosedError("the service is closed")
        temperature = settings.given_or(temperature, self.default_temperature)
        max_tokens = settings.max_tokens_of(max_tokens, self.default_max_tokens, keywords)
        return Request(self.model, prompt, temperature, max_tokens, system_prompt, self._options, keywords)

    def _endpoint(self) -> Endpoint:
        return Endpoint(self.client, self.base_url, self.model, self._metrics, self._health_checker)

    # Constructors

    @classmethod
    def _made(cls, model: str, url: str, key: str, config: ModelConfig, given: Mapping[str, Any]) -> Self:
        chosen = {"base_url": url, "api_key": key, "model": model, "model_config": config}
        return cls(**{**chosen, **given})

    @classmethod
    def for_task(
        cls, task_type: str, model_config: ModelConfig | None = None, **kwargs: Unpack[settings.TaskKeywords]
    ) -> Self:
        """A service for a kind of task, as the model configuration says."""
        config = model_config or get_default_model_config()
        model, base_url, api_key, _ = config.get_model_for_task(task_type)
        return cls._made(model, base_url, api_key, config, kwargs)

    @classmethod
    def for_basic_admin(cls, **kwargs: Unpack[settings.ConstructorKeywords]) -> Self:
        """A service for simple administrative tasks."""
        return cls.for_task(TASK_TYPE_BASIC_ADMIN, **kwargs)

    @classmethod
    def for_complex_task(cls, **kwargs: Unpack[settings.ConstructorKeywords]) -> Self:
        """A service for complex tasks."""
        return cls.for_task(TASK_TYPE_COMPLEX, **kwargs)

    @classmethod
    def for_distilled_task(cls, model: str | None = None, **kwargs: Unpack[settings.ServerKeywords]) -> Self:
        """A service for the distilled model (`DISTILLED_MODEL_NAME`) on the local endpoint."""
        config = kwargs.get("model_config") or get_default_model_config()
        url, key = config.local_base_url, config.local_api_key
        return cls._made(model or environment.distilled_model(), url, key, config, kwargs)

    @classmethod
    def with_local(cls, model: str | None = None, **kwargs: Unpack[settings.ServerKeywords]) -> Self:
        """A service of the local endpoint."""
        config = kwargs.get("model_config") or get_default_model_config()
        url, key = config.local_base_url, config.local_api_key
        return cls._made(model or config.local_model, url, key, config, kwargs)

    @classmethod
    def with_cloud(cls, model: str | None = None, **kwargs: Unpack[settings.ServerKeywords]) -> Self:
        """A service of the cloud endpoint."""
        config = kwargs.get("model_config") or get_default_model_config()
        url, key = environment.cloud_base_url(), environment.cloud_api_key()
        return cls._made(model or config.cloud_model, url, key, config, kwargs)

    @classmethod
    def get_optimized_service(
        cls,
        potential_revenue_cents: int,
        min_cloud_revenue: int | None = None,
        **kwargs: Unpack[settings.ConstructorKeywords],
    ) -> Self:
        """The local model below the revenue (`MIN_CLOUD_REVENUE`, in cents) that pays for the cloud's."""
        threshold = MIN_CLOUD_REVENUE if min_cloud_revenue is None else min_cloud_revenue
        return cls.with_local(**kwargs) if potential_revenue_cents < threshold else cls.with_cloud(**kwargs)


_own_sleep = asyncio.sleep
_own_complete = {"complete": vars(LLMService)["complete"]}
