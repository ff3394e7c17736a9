"""Chat completions through the `openai` package, as in the original: every call stops the event loop."""

import asyncio
import json
import logging
import os
import random
import time
import warnings
from collections.abc import Iterator
from typing import Any

from dotenv import find_dotenv, load_dotenv
from openai import OpenAI
from typing_extensions import Self

from .llm_health_check import CircuitBreakerError, get_health_checker

load_dotenv(find_dotenv(usecwd=True))

logger = logging.getLogger(__name__)

DEFAULT_CLOUD_MODEL = "gpt-4o-mini"
DEFAULT_LOCAL_MODEL = "llama3.2"
DEFAULT_DISTILLED_MODEL = "distilled-llama3.2"

TASK_TYPE_BASIC_ADMIN = "basic_admin"
TASK_TYPE_COMPLEX = "complex"
TASK_TYPE_DISTILLED = "distilled"

MIN_CLOUD_REVENUE = int(os.getenv("MIN_CLOUD_REVENUE", "3000"))


def _cloud_base_url() -> str:
    return os.getenv("BASE_URL", "https://api.openai.com/v1")


def _cloud_api_key() -> str:
    return os.getenv("API_KEY", "dummy-key-for-local")


def _json_object(variable: str) -> Any:
    try:
        return json.loads(os.getenv(variable, "{}"))
    except ValueError:
        return {}


class ModelConfig:
    """Which model serves which task."""

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
        """Read the environment."""
        return cls(
            cloud_model=os.getenv("CLOUD_MODEL", DEFAULT_CLOUD_MODEL),
            local_model=os.getenv("LOCAL_MODEL", DEFAULT_LOCAL_MODEL),
            local_base_url=os.getenv("LOCAL_BASE_URL"),
            local_api_key=os.getenv("LOCAL_API_KEY", "not-needed"),
            use_local_by_default=os.getenv("USE_LOCAL_BY_DEFAULT", "false").lower() == "true",
            task_model_map=_json_object("TASK_MODEL_MAP"),
            task_use_local_map=_json_object("TASK_USE_LOCAL_MAP"),
        )

    def get_model_for_task(
        self, task_type: str, prefer_local: bool | None = None
    ) -> tuple[str, str, str, bool]:
        """`(model, base_url, api_key, is_local)`."""
        is_local = prefer_local if prefer_local is not None else self.use_local_by_default
        is_local = self.task_use_local_map.get(task_type, is_local)
        if is_local:
            model = self.task_model_map.get(task_type, self.local_model)
            return model, self.local_base_url, self.local_api_key, True
        model = self.task_model_map.get(task_type, self.cloud_model)
        return model, _cloud_base_url(), _cloud_api_key(), False


_default_model_config: ModelConfig | None = None


def get_default_model_config() -> ModelConfig:
    """The process's configuration."""
    global _default_model_config
    if _default_model_config is None:
        _default_model_config = ModelConfig.from_env()
    return _default_model_config


def set_default_model_config(config: ModelConfig) -> None:
    """Replace the process's configuration."""
    global _default_model_config
    _default_model_config = config


class LLMService:
    """Chat completions of one endpoint."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        model: str = DEFAULT_CLOUD_MODEL,
        default_temperature: float = 0.7,
        default_max_tokens: int = 1000,
        model_config: ModelConfig | None = None,
        enable_fallback: bool = True,
        enable_circuit_breaker: bool = True,
    ) -> None:
        self.base_url = base_url or _cloud_base_url()
        self.api_key = api_key or _cloud_api_key()
        self.model = model
        self.default_temperature = default_temperature
        self.default_max_tokens = default_max_tokens
        self.model_config = model_config or get_default_model_config()
        self.enable_fallback = enable_fallback
        self.enable_circuit_breaker = enable_circuit_breaker
        self.client: Any = OpenAI(base_url=self.base_url, api_key=self.api_key)
        self._is_local = "localhost" in self.base_url or "127.0.0.1" in self.base_url
        self._health_checker: Any = None
        if self._is_local and enable_circuit_breaker:
            self._health_checker = get_health_checker()
            self._health_checker.register_endpoint(
                self.base_url, failure_threshold=3, recovery_timeout_seconds=60
            )

    def complete(
        self,
        prompt: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        stealth_mode: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Complete a prompt."""
        self._refuse_if_open()
        if stealth_mode:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                pass
            else:
                warnings.warn(
                    "complete(stealth_mode=True) blocks the event loop: use complete_async()",
                    RuntimeWarning,
                    stacklevel=2,
                )
            time.sleep(random.uniform(2, 5))
        start = time.time()
        try:
            response = self.client.chat.completions.create(
                model=self.model,
                messages=self._messages(prompt, system_prompt),
                temperature=temperature or self.default_temperature,
                max_tokens=max_tokens or self.default_max_tokens,
                timeout=kwargs.pop("timeout", 30),
                **kwargs,
            )
        except Exception as error:
            if self._health_checker:
                self._health_checker.record_failure(self.base_url, str(error))
            raise
        response_time_ms = (time.time() - start) * 1000
        if self._health_checker:
            self._health_checker.record_success(self.base_url, response_time_ms)
        return {
            "content": response.choices[0].message.content,
            "model": response.model,
            "usage": {
                "prompt_tokens": response.usage.prompt_tokens,
                "completion_tokens": response.usage.completion_tokens,
                "total_tokens": response.usage.total_tokens,
            },
            "stealth_mode_used": stealth_mode,
            "response_time_ms": response_time_ms,
        }

    async def complete_async(
        self,
        prompt: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        stealth_mode: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Wait for the delay, then block."""
        if stealth_mode:
            await asyncio.sleep(random.uniform(2, 5))
        arguments = self._keywords(prompt, temperature, max_tokens, system_prompt)
        return self.complete(**arguments, stealth_mode=False, **kwargs)

    def complete_streaming(
        self,
        prompt: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: Any,
    ) -> Iterator[str]:
        """The pieces of an answer; the circuit is neither asked nor told."""
        stream = self.client.chat.completions.create(
            model=self.model,
            messages=self._messages(prompt, system_prompt),
            temperature=temperature or self.default_temperature,
            max_tokens=max_tokens or self.default_max_tokens,
            stream=True,
            **kwargs,
        )
        for chunk in stream:
            if chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content

    def complete_with_fallback(
        self,
        prompt: str,
        temperature: float | None = None,
        max_tokens: int | None = None,
        system_prompt: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The cloud twice, then the local model."""
        original: Exception | None = None
        arguments = self._keywords(prompt, temperature, max_tokens, system_prompt)
        own_client = self.client
        for attempt, timeout in enumerate((10, 20)):
            if attempt:
                time.sleep(2)
            try:
                # Its timeout has no effect: `complete` gives each request one of its own.
                self.client = OpenAI(base_url=self.base_url, api_key=self.api_key, timeout=timeout)
                result = self.complete(**arguments, **kwargs)
            except CircuitBreakerError as error:
                original = error
                break
            except Exception as error:
                original = error
            else:
                result.update(fallback_used=False, attempt=attempt)
                return result
            finally:
                self.client = own_client
        assert original is not None
        if not self.enable_fallback or self._is_local:
            raise original
        logger.info("Cloud inference failed: %s", original)
        logger.info("Attempting fallback to local model...")
        local = self.with_local(enable_circuit_breaker=self.enable_circuit_breaker)
        try:
            time.sleep(5)
            result = local.complete(**arguments, **kwargs)
        except Exception as error:
            raise original from error
        result.update(fallback_used=True, attempt=2, original_error=str(original))
        return result

    def set_model(self, model: str) -> None:
        """Change the model."""
        self.model = model

    def get_model(self) -> str:
        """The model."""
        return self.model

    def is_local(self) -> bool:
        """Whether the endpoint is local."""
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

    @classmethod
    def for_task(cls, task_type: str, model_config: ModelConfig | None = None, **kwargs: Any) -> Self:
        """As the configuration says."""
        config = model_config or get_default_model_config()
        model, base_url, api_key, _ = config.get_model_for_task(task_type)
        return cls(base_url=base_url, api_key=api_key, model=model, model_config=config, **kwargs)

    @classmethod
    def for_basic_admin(cls, **kwargs: Any) -> Self:
        """For simple tasks."""
        return cls.for_task(TASK_TYPE_BASIC_ADMIN, **kwargs)

    @classmethod
    def for_complex_task(cls, **kwargs: Any) -> Self:
        """For complex tasks."""
        return cls.for_task(TASK_TYPE_COMPLEX, **kwargs)

    @classmethod
    def for_distilled_task(cls, model: str | None = None, **kwargs: Any) -> Self:
        """For the distilled model."""
        config = get_default_model_config()
        return cls(
            base_url=config.local_base_url,
            api_key=config.local_api_key,
            model=model or os.getenv("DISTILLED_MODEL_NAME", DEFAULT_DISTILLED_MODEL),
            model_config=config,
            **kwargs,
        )

    @classmethod
    def with_local(cls, model: str | None = None, **kwargs: Any) -> Self:
        """Of the local endpoint."""
        config = get_default_model_config()
        return cls(
            base_url=config.local_base_url,
            api_key=config.local_api_key,
            model=model or config.local_model,
            model_config=config,
            **kwargs,
        )

    @classmethod
    def with_cloud(cls, model: str | None = None, **kwargs: Any) -> Self:
        """Of the cloud."""
        config = get_default_model_config()
        return cls(
            base_url=_cloud_base_url(),
            api_key=_cloud_api_key(),
            model=model or config.cloud_model,
            model_config=config,
            **kwargs,
        )

    @classmethod
    def get_optimized_service(
        cls, potential_revenue_cents: int, min_cloud_revenue: int | None = None, **kwargs: Any
    ) -> Self:
        """Local below the threshold."""
        threshold = MIN_CLOUD_REVENUE if min_cloud_revenue is None else min_cloud_revenue
        return cls.with_local(**kwargs) if potential_revenue_cents < threshold else cls.with_cloud(**kwargs)

    def _refuse_if_open(self) -> None:
        if self._health_checker and not self._health_checker.should_allow_request(self.base_url):
            raise CircuitBreakerError(
                f"Circuit breaker is OPEN for {self.base_url}. Service appears to be unavailable."
            )

    @staticmethod
    def _keywords(prompt: Any, temperature: Any, max_tokens: Any, system_prompt: Any) -> dict[str, Any]:
        given = (prompt, temperature, max_tokens, system_prompt)
        return dict(zip(("prompt", "temperature", "max_tokens", "system_prompt"), given, strict=True))

    @staticmethod
    def _messages(prompt: str, system_prompt: str | None) -> list[dict[str, str]]:
        messages = [{"role": "user", "content": prompt}]
        return [{"role": "system", "content": system_prompt}, *messages] if system_prompt else messages
