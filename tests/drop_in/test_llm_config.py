"""`llm_service`: the module's names, `ModelConfig`, attributes and constructors, sentence by sentence."""

import asyncio
import inspect
import logging
import os
import random
import subprocess
import time
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest

from arbitrageai_native.testing import ModelServer
from testing_support.keys import KEY
from tests.drop_in.support import PREFIXES, python

LOCAL = "http://localhost:11434/v1"
CLOUD = "https://api.openai.com/v1"


def test_module_names(llm_service: Any) -> None:
    for name in (
        "LLMService",
        "ModelConfig",
        "get_default_model_config",
        "set_default_model_config",
        "OpenAI",
        "CircuitBreakerError",
    ):
        assert callable(getattr(llm_service, name))


def test_module_constants(llm_service: Any) -> None:
    assert llm_service.DEFAULT_CLOUD_MODEL == "gpt-4o-mini"
    assert llm_service.DEFAULT_LOCAL_MODEL == "llama3.2"
    assert llm_service.DEFAULT_DISTILLED_MODEL == "distilled-llama3.2"
    assert llm_service.TASK_TYPE_BASIC_ADMIN == "basic_admin"
    assert llm_service.TASK_TYPE_COMPLEX == "complex"
    assert llm_service.TASK_TYPE_DISTILLED == "distilled"


def test_module_has_what_it_imports_as_attributes(llm_service: Any) -> None:
    assert llm_service.asyncio is asyncio
    assert llm_service.time is time
    assert llm_service.random is random
    assert llm_service.os is os
    assert isinstance(llm_service.logger, (logging.Logger, logging.LoggerAdapter))


def _min_cloud_revenue(implementation: str, folder: Path, **environment: str) -> str:
    code = f"from {PREFIXES[implementation]} import llm_service; print(llm_service.MIN_CLOUD_REVENUE)"
    clean = {name: value for name, value in os.environ.items() if name != "MIN_CLOUD_REVENUE"}
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    ran = subprocess.run(
        python("-c", code),
        cwd=folder,
        env={**clean, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip()


def test_min_cloud_revenue_is_3000_cents_by_default(implementation: str, tmp_path: Path) -> None:
    assert _min_cloud_revenue(implementation, tmp_path) == "3000"


def test_min_cloud_revenue_comes_from_a_dotenv_file_above_the_working_directory(
    implementation: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("MIN_CLOUD_REVENUE=4100\n")
    (tmp_path / "below").mkdir()
    assert _min_cloud_revenue(implementation, tmp_path / "below") == "4100"


def test_existing_variables_win_over_the_dotenv_file(implementation: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MIN_CLOUD_REVENUE=4100\n")
    assert _min_cloud_revenue(implementation, tmp_path, MIN_CLOUD_REVENUE="5200") == "5200"


def test_openai_is_called_with_just_base_url_and_api_key(llm_service: Any) -> None:
    with patch(f"{llm_service.__name__}.OpenAI") as openai:
        service = llm_service.LLMService(base_url="http://model.test/v1", api_key=KEY)
    openai.assert_called_once_with(base_url="http://model.test/v1", api_key=KEY)
    assert service.client is openai.return_value


# ModelConfig


def test_model_config_defaults(llm_service: Any) -> None:
    config = llm_service.ModelConfig()
    assert (config.cloud_model, config.local_model) == ("gpt-4o-mini", "llama3.2")
    assert (config.local_base_url, config.local_api_key) == (LOCAL, "not-needed")
    assert config.use_local_by_default is False


def test_model_config_keeps_its_arguments(llm_service: Any) -> None:
    config = llm_service.ModelConfig("c", "l", "http://h/v1", KEY, True, {"a": "m"}, {"b": True})
    assert vars(config) | {} == vars(config)
    assert (config.cloud_model, config.local_model, config.local_base_url) == ("c", "l", "http://h/v1")
    assert (config.local_api_key, config.use_local_by_default) == (KEY, True)
    assert (config.task_model_map, config.task_use_local_map) == ({"a": "m"}, {"b": True})


def test_model_config_maps_are_never_none(llm_service: Any) -> None:
    config = llm_service.ModelConfig(task_model_map=None, task_use_local_map=None)
    assert (config.task_model_map, config.task_use_local_map) == ({}, {})


def test_local_base_url_falls_back_to_ollama_url(llm_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_URL", "http://ollama.test:1/v1")
    assert llm_service.ModelConfig().local_base_url == "http://ollama.test:1/v1"
    assert llm_service.ModelConfig(local_base_url="http://other/v1").local_base_url == "http://other/v1"


def test_model_config_from_env(llm_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CLOUD_MODEL": "c",
        "LOCAL_MODEL": "l",
        "LOCAL_BASE_URL": "http://h/v1",
        "LOCAL_API_KEY": KEY,
        "USE_LOCAL_BY_DEFAULT": "true",
        "TASK_MODEL_MAP": '{"a": "m"}',
        "TASK_USE_LOCAL_MAP": '{"b": false}',
    }.items():
        monkeypatch.setenv(name, value)
    config = llm_service.ModelConfig.from_env()
    assert (config.cloud_model, config.local_model, config.local_base_url) == ("c", "l", "http://h/v1")
    assert (config.local_api_key, config.use_local_by_default) == (KEY, True)
    assert (config.task_model_map, config.task_use_local_map) == ({"a": "m"}, {"b": False})


def test_model_config_from_an_empty_environment(llm_service: Any) -> None:
    config = llm_service.ModelConfig.from_env()
    assert (config.cloud_model, config.local_model, config.local_base_url) == (
        "gpt-4o-mini",
        "llama3.2",
        LOCAL,
    )
    assert (config.local_api_key, config.use_local_by_default) == ("not-needed", False)


def test_invalid_json_in_a_task_map_counts_as_empty(
    llm_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASK_MODEL_MAP", "{not json")
    monkeypatch.setenv("TASK_USE_LOCAL_MAP", "")
    config = llm_service.ModelConfig.from_env()
    assert (config.task_model_map, config.task_use_local_map) == ({}, {})


@pytest.mark.better
def test_invalid_json_in_a_task_map_is_logged_as_a_warning(
    llm_service: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TASK_MODEL_MAP", "{not json")
    llm_service.ModelConfig.from_env()
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("TASK_MODEL_MAP" in message for message in warned)


def test_cloud_is_the_default_for_a_task(llm_service: Any) -> None:
    found = llm_service.ModelConfig(cloud_model="c").get_model_for_task("any")
    assert found == ("c", CLOUD, "dummy-key-for-local", False)


def test_prefer_local_overrides_the_default(llm_service: Any) -> None:
    config = llm_service.ModelConfig(local_model="l", local_api_key=KEY)
    assert config.get_model_for_task("any", prefer_local=True) == ("l", LOCAL, KEY, True)
    config = llm_service.ModelConfig(use_local_by_default=True)
    assert config.get_model_for_task("any")[3] is True
    assert config.get_model_for_task("any", prefer_local=False)[3] is False


def test_the_task_map_overrides_both(llm_service: Any) -> None:
    config = llm_service.ModelConfig(task_use_local_map={"near": True, "far": False})
    assert config.get_model_for_task("near", prefer_local=False)[3] is True
    assert config.get_model_for_task("far", prefer_local=True)[3] is False


def test_the_model_map_overrides_the_model(llm_service: Any) -> None:
    config = llm_service.ModelConfig(task_model_map={"a": "m"})
    assert config.get_model_for_task("a")[0] == "m"
    assert config.get_model_for_task("a", prefer_local=True)[0] == "m"
    assert config.get_model_for_task("b")[0] == "gpt-4o-mini"


def test_the_cloud_is_read_from_the_environment_at_call_time(
    llm_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = llm_service.ModelConfig()
    monkeypatch.setenv("BASE_URL", "http://cloud.test/v1")
    monkeypatch.setenv("API_KEY", KEY)
    assert config.get_model_for_task("any") == ("gpt-4o-mini", "http://cloud.test/v1", KEY, False)


def test_the_default_model_config_is_the_one_that_was_set(llm_service: Any) -> None:
    config = llm_service.ModelConfig(cloud_model="mine")
    llm_service.set_default_model_config(config)
    assert llm_service.get_default_model_config() is config
    assert llm_service.LLMService(api_key=KEY).model_config is config


# The service's construction and attributes


def test_service_defaults(llm_service: Any) -> None:
    service = llm_service.LLMService()
    assert (service.base_url, service.api_key) == (CLOUD, "dummy-key-for-local")
    assert (service.model, service.default_temperature, service.default_max_tokens) == (
        "gpt-4o-mini",
        0.7,
        1000,
    )
    assert service.model_config is llm_service.get_default_model_config()
    assert (service.enable_fallback, service.enable_circuit_breaker) == (True, True)


def test_service_takes_its_arguments_by_position(llm_service: Any) -> None:
    config = llm_service.ModelConfig()
    service = llm_service.LLMService("http://h/v1", KEY, "m", 0.1, 5, config, False, False)
    assert (service.base_url, service.api_key, service.model) == ("http://h/v1", KEY, "m")
    assert (service.default_temperature, service.default_max_tokens) == (0.1, 5)
    assert service.model_config is config
    assert (service.enable_fallback, service.enable_circuit_breaker) == (False, False)


def test_base_url_and_api_key_fall_back_to_the_environment(
    llm_service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_URL", "http://cloud.test/v1")
    monkeypatch.setenv("API_KEY", KEY)
    service = llm_service.LLMService()
    assert (service.base_url, service.api_key) == ("http://cloud.test/v1", KEY)


@pytest.mark.parametrize("missing", [None, ""])
def test_a_missing_or_empty_api_key_falls_back_to_the_environment_then_to_the_dummy(
    llm_service: Any, monkeypatch: pytest.MonkeyPatch, missing: str | None
) -> None:
    assert llm_service.LLMService(api_key=missing).api_key == "dummy-key-for-local"
    monkeypatch.setenv("API_KEY", KEY)
    assert llm_service.LLMService(api_key=missing).api_key == KEY


@pytest.mark.better(raises=Exception)  # there the client refuses the empty key
def test_an_empty_variable_counts_as_unset(llm_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "")
    monkeypatch.setenv("BASE_URL", "")
    service = llm_service.LLMService()
    assert (service.api_key, service.base_url) == ("dummy-key-for-local", "https://api.openai.com/v1")


def test_attributes_are_writable(llm_service: Any) -> None:
    service = llm_service.LLMService()
    for name in (
        "base_url",
        "api_key",
        "model",
        "default_temperature",
        "default_max_tokens",
        "model_config",
        "enable_fallback",
        "enable_circuit_breaker",
        "client",
        "_is_local",
        "_health_checker",
    ):
        value = MagicMock(name=name)
        setattr(service, name, value)
        assert getattr(service, name) is value


def test_written_defaults_are_used(service: Any, server: ModelServer) -> None:
    service.default_temperature, service.default_max_tokens, service.model = 0.2, 7, "other"
    service.complete("p")
    body = server.requests[0].json
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0.2, 7, "other")


@pytest.mark.parametrize(
    ("base_url", "is_local"),
    [(LOCAL, True), ("http://127.0.0.1:1/v1", True), (CLOUD, False), ("http://model.test/v1", False)],
)
def test_is_local_by_the_base_url(llm_service: Any, base_url: str, is_local: bool) -> None:
    service = llm_service.LLMService(base_url=base_url)
    assert service._is_local is is_local
    assert service.is_local() is is_local


def test_a_local_service_has_the_global_health_checker(llm_service: Any, health: Any) -> None:
    service = llm_service.LLMService(base_url=LOCAL)
    assert service._health_checker is health.get_health_checker()


def test_the_local_endpoint_is_registered(llm_service: Any, health: Any) -> None:
    llm_service.LLMService(base_url=LOCAL)
    metrics = health.get_health_checker().get_health_status(LOCAL)
    assert (metrics.failure_threshold, metrics.recovery_timeout_seconds) == (3, 60)


def test_no_health_checker_for_the_cloud_or_with_the_breaker_off(llm_service: Any) -> None:
    assert llm_service.LLMService(base_url=CLOUD)._health_checker is None
    assert llm_service.LLMService(base_url=LOCAL, enable_circuit_breaker=False)._health_checker is None


def test_set_and_get_model(llm_service: Any) -> None:
    service = llm_service.LLMService()
    service.set_model("other")
    assert service.get_model() == service.model == "other"


def test_get_config_never_has_the_key(llm_service: Any) -> None:
    service = llm_service.LLMService(base_url="http://h/v1", api_key=KEY, model="m")
    assert service.get_config() == {
        "base_url": "http://h/v1",
        "model": "m",
        "temperature": 0.7,
        "max_tokens": 1000,
        "is_local": False,
        "enable_fallback": True,
    }


# Class methods


def test_for_task(llm_service: Any) -> None:
    config = llm_service.ModelConfig(task_model_map={"a": "m"}, task_use_local_map={"a": True})
    service = llm_service.LLMService.for_task("a", config, default_max_tokens=5)
    assert (service.model, service.base_url, service.default_max_tokens) == ("m", LOCAL, 5)
    assert service.model_config is config
    llm_service.set_default_model_config(config)
    assert llm_service.LLMService.for_task("a").model == "m"


@pytest.mark.parametrize(
    ("constructor", "task"), [("for_basic_admin", "basic_admin"), ("for_complex_task", "complex")]
)
def test_for_basic_admin_and_for_complex_task(llm_service: Any, constructor: str, task: str) -> None:
    llm_service.set_default_model_config(llm_service.ModelConfig(task_model_map={task: "m"}))
    service = getattr(llm_service.LLMService, constructor)(default_max_tokens=5)
    assert (service.model, service.default_max_tokens) == ("m", 5)


def test_for_distilled_task(llm_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service = llm_service.LLMService.for_distilled_task(default_max_tokens=5)
    assert (service.model, service.base_url) == ("distilled-llama3.2", LOCAL)
    assert service.default_max_tokens == 5
    monkeypatch.setenv("DISTILLED_MODEL_NAME", "mine")
    assert llm_service.LLMService.for_distilled_task().model == "mine"
    assert llm_service.LLMService.for_distilled_task(model="named").model == "named"


def test_with_local(llm_service: Any) -> None:
    llm_service.set_default_model_config(llm_service.ModelConfig(local_model="l", local_api_key=KEY))
    service = llm_service.LLMService.with_local(default_max_tokens=5)
    assert (service.model, service.base_url, service.api_key) == ("l", LOCAL, KEY)
    assert service.default_max_tokens == 5
    assert llm_service.LLMService.with_local("named").model == "named"


def test_with_cloud(llm_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", KEY)
    service = llm_service.LLMService.with_cloud(default_max_tokens=5)
    assert (service.model, service.base_url, service.api_key) == ("gpt-4o-mini", CLOUD, KEY)
    assert service.default_max_tokens == 5
    assert llm_service.LLMService.with_cloud("named").model == "named"


def test_get_optimized_service(llm_service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = llm_service.LLMService.get_optimized_service
    monkeypatch.setattr(llm_service, "MIN_CLOUD_REVENUE", 3000)
    assert choose(2999).base_url == LOCAL
    assert choose(3000).base_url == CLOUD
    assert choose(50, min_cloud_revenue=51).is_local()
    assert not choose(0, min_cloud_revenue=0).is_local()
    assert choose(1, default_max_tokens=5).default_max_tokens == 5


def test_constructors_make_instances_of_the_subclass(llm_service: Any) -> None:
    class Special(llm_service.LLMService):  # type: ignore[name-defined,misc]
        pass

    for service in (
        Special.for_task("any"),
        Special.for_basic_admin(),
        Special.for_complex_task(),
        Special.for_distilled_task(),
        Special.with_local(),
        Special.with_cloud(),
        Special.get_optimized_service(1),
        Special.get_optimized_service(10**6),
    ):
        assert type(service) is Special


def test_a_subclass_may_extend_the_constructor_and_the_calls(llm_service: Any, server: ModelServer) -> None:
    class Shouting(llm_service.LLMService):  # type: ignore[name-defined,misc]
        def __init__(self, *args: Any, suffix: str = "!", **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.suffix = suffix

        def complete(self, prompt: str, **kwargs: Any) -> dict[str, Any]:
            result: dict[str, Any] = super().complete(prompt, **kwargs)
            return {**result, "content": result["content"] + self.suffix}

    assert Shouting(base_url=server.base_url, suffix="?").complete("hello")["content"] == "hello?"


def test_the_signatures_are_the_originals(llm_service: Any) -> None:
    """The originals' parameters come first; what is known of their `**kwargs` follows, by keyword only."""
    for name in ("complete", "complete_async"):
        signature = inspect.signature(getattr(llm_service.LLMService, name))
        *parameters, last = signature.parameters.values()
        own = [one for one in parameters if one.kind is not one.KEYWORD_ONLY]
        assert parameters[: len(own)] == own
        assert [(one.name, one.default) for one in own[2:]] == [
            ("temperature", None),
            ("max_tokens", None),
            ("system_prompt", None),
            ("stealth_mode", False),
        ]
        assert [one.name for one in own[:2]] == ["self", "prompt"]
        assert {one.kind for one in own} == {last.POSITIONAL_OR_KEYWORD}
        assert (last.name, last.kind) == ("kwargs", last.VAR_KEYWORD)
