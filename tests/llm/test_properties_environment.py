"""Any text as the value of any variable: services can be made, or the refusal names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st

from arbitrageai_native import AsyncOpenAI, LLMService, ModelConfig, OpenAI, environment
from arbitrageai_native.defaults import MIN_CLOUD_REVENUE_CENTS
from testing_support.keys import KEY
from tests.properties import JSON_TEXTS, VARIABLES, examples

KEYS = ("API_KEY", "LOCAL_API_KEY")
OTHERS = (
    "BASE_URL",
    "CLOUD_MODEL",
    "DISTILLED_MODEL_NAME",
    "LOCAL_BASE_URL",
    "LOCAL_MODEL",
    "OLLAMA_URL",
    "OPENAI_BASE_URL",
    "OPENAI_ORG_ID",
    "OPENAI_PROJECT_ID",
    "USE_LOCAL_BY_DEFAULT",
)
SERVICES: dict[str, Callable[..., Any]] = {
    "service": LLMService,
    "cloud": LLMService.with_cloud,
    "local": LLMService.with_local,
    "distilled": LLMService.for_distilled_task,
    "task": lambda **settings: LLMService.for_task("complex", **settings),
    "client": lambda **_: OpenAI(),
    "asynchronous client": lambda **_: AsyncOpenAI(),
}

ENVIRONMENTS = st.fixed_dictionaries(
    {"OPENAI_API_KEY": VARIABLES.map(lambda text: f"{KEY}{text}")},
    optional={
        **{name: VARIABLES.map(lambda text: f"{KEY}{text}") for name in KEYS},
        **dict.fromkeys(OTHERS, VARIABLES),
    },
)


@given(variables=ENVIRONMENTS)
@example({"OPENAI_API_KEY": KEY, "BASE_URL": "http://\udcff/v1"})
@examples(60)
def test_a_service_is_made_or_the_refusal_names_what_is_wrong(variables: dict[str, str]) -> None:
    with patch.dict("os.environ", variables):
        config = ModelConfig.from_env()
        assert config.use_local_by_default == (
            variables.get("USE_LOCAL_BY_DEFAULT", "").strip().lower() == "true"
        )
        for make in SERVICES.values():
            message = "base_url api_key"
            try:
                service = make(model_config=config)
            except ValueError as error:
                message = str(error)
            else:
                assert KEY not in repr(service)
            assert "base_url" in message or "api_key" in message, message
            assert KEY not in message


@given(
    text=st.one_of(VARIABLES, JSON_TEXTS.filter(lambda text: "\0" not in text)),
    name=st.sampled_from(["MODEL", "USE_LOCAL"]),
)
@example("[" * 100_000, "MODEL")
@example('{"a":' * 100_000, "USE_LOCAL")
@example("9" * 5000, "MODEL")
@examples(80)
def test_a_map_is_a_json_object_or_it_is_empty(text: str, name: str) -> None:
    try:
        expected = json.loads(text)
    except (ValueError, RecursionError):
        expected = None
    with patch.dict("os.environ", {f"TASK_{name}_MAP": text}):
        config = ModelConfig.from_env()
        found = config.task_model_map if name == "MODEL" else config.task_use_local_map
        # By its text, since NaN is not equal to itself.
        assert repr(found) == repr(expected if isinstance(expected, dict) else {})
        for task in ("complex", *found):
            config.get_model_for_task(task)


@given(text=st.one_of(VARIABLES, st.integers().map(str), st.sampled_from([" 12 ", "1_000", "٣", "9" * 5000])))
@example("9" * 5000)
@examples(40)
def test_a_threshold_is_a_whole_number_or_the_default(text: str) -> None:
    try:
        expected = int(text)
    except ValueError:
        expected = MIN_CLOUD_REVENUE_CENTS
    with patch.dict("os.environ", {"MIN_CLOUD_REVENUE": text}):
        assert environment.revenue_threshold() == expected
