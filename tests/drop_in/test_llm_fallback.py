"""`llm_service`: `complete_with_fallback`, sentence by sentence."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock, patch

import pytest

from arbitrageai_native.testing import Failure, ModelServer

NO_RETRY = {"x-should-retry": "false"}
BROKEN = Failure(500, "cloud is down", headers=NO_RETRY)


@pytest.fixture
def local_server(llm_service: Any) -> Iterator[ModelServer]:
    """The local model's server, in the default configuration."""
    with ModelServer(answer="from the local model") as server:
        llm_service.set_default_model_config(
            llm_service.ModelConfig(local_model="near", local_base_url=server.base_url)
        )
        yield server


@pytest.fixture
def cloud(local_server: ModelServer, service: Any) -> Any:
    """The service, as if its server were far away."""
    service._is_local = False
    return service


@pytest.fixture
def sleep(llm_service: Any) -> Iterator[MagicMock]:
    """Nobody waits between attempts."""
    with patch(f"{llm_service.__name__}.time.sleep") as sleep:
        yield sleep


def waits(sleep: MagicMock) -> list[float]:
    return [call.args[0] for call in sleep.call_args_list]


def test_attempt_0_answers(cloud: Any, sleep: MagicMock) -> None:
    result = cloud.complete_with_fallback("hello")
    assert (result["content"], result["fallback_used"], result["attempt"]) == ("hello", False, 0)
    assert "original_error" not in result
    assert set(result) - {"finish_reason", "request_id"} == {  # what this package adds
        "content",
        "model",
        "usage",
        "stealth_mode_used",
        "response_time_ms",
        "fallback_used",
        "attempt",
    }
    assert waits(sleep) == []


def test_the_fallback_may_be_switched_off_between_attempts(
    llm_service: Any, cloud: Any, server: ModelServer, local_server: ModelServer
) -> None:
    server.script(BROKEN, BROKEN)

    def switch_off(_seconds: float) -> None:
        cloud.enable_fallback = False

    with (
        patch(f"{llm_service.__name__}.time.sleep", switch_off),
        pytest.raises(Exception, match="cloud is down"),
    ):
        cloud.complete_with_fallback("hello")
    assert local_server.statistics.requests == 0


def test_attempt_1_comes_2_seconds_later(cloud: Any, sleep: MagicMock, server: ModelServer) -> None:
    server.script(BROKEN)
    result = cloud.complete_with_fallback("hello")
    assert (result["content"], result["fallback_used"], result["attempt"]) == ("hello", False, 1)
    assert waits(sleep) == [2]


def test_the_local_model_comes_5_seconds_later(
    cloud: Any, sleep: MagicMock, server: ModelServer, local_server: ModelServer
) -> None:
    server.script(BROKEN, BROKEN)
    result = cloud.complete_with_fallback("hello", 0.1, 5, "be kind")
    assert (result["content"], result["fallback_used"], result["attempt"]) == (
        "from the local model",
        True,
        2,
    )
    assert isinstance(result["original_error"], str)
    assert "cloud is down" in result["original_error"]
    assert waits(sleep) == [2, 5]
    body = local_server.requests[0].json
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("near", 0.1, 5)
    assert [message["content"] for message in body["messages"]] == ["be kind", "hello"]


@pytest.mark.better  # there each request has 30 seconds
@pytest.mark.usefixtures("sleep")
def test_the_attempts_have_10_20_and_30_seconds(cloud: Any, llm_service: Any) -> None:
    cloud.client = MagicMock()
    cloud.client.chat.completions.create.side_effect = OSError("gone")
    with patch(f"{llm_service.__name__}.OpenAI") as openai:
        local = openai.return_value.chat.completions.create
        local.side_effect = OSError("gone too")
        with pytest.raises(OSError, match="gone"):
            cloud.complete_with_fallback("p")
    own = [call.kwargs["timeout"] for call in cloud.client.chat.completions.create.call_args_list]
    assert own == [10, 20]
    assert [call.kwargs["timeout"] for call in local.call_args_list] == [30]


def test_the_local_service_is_made_by_with_local(
    cloud: Any, sleep: MagicMock, server: ModelServer, llm_service: Any
) -> None:
    server.script(BROKEN, BROKEN)
    with patch.object(
        llm_service.LLMService, "with_local", wraps=llm_service.LLMService.with_local
    ) as with_local:
        cloud.complete_with_fallback("p")
    with_local.assert_called_once_with(enable_circuit_breaker=False)


@pytest.mark.usefixtures("sleep")
def test_no_local_model_with_fallback_off(
    cloud: Any, server: ModelServer, local_server: ModelServer, errors: Any
) -> None:
    cloud.enable_fallback = False
    server.script(BROKEN, BROKEN)
    with pytest.raises(errors.InternalServerError):
        cloud.complete_with_fallback("p")
    assert not local_server.requests


@pytest.mark.usefixtures("sleep")
def test_no_local_model_behind_a_local_service(
    cloud: Any, server: ModelServer, local_server: ModelServer, errors: Any
) -> None:
    cloud._is_local = True
    server.script(BROKEN, BROKEN)
    with pytest.raises(errors.InternalServerError):
        cloud.complete_with_fallback("p")
    assert not local_server.requests


@pytest.mark.usefixtures("sleep")
def test_each_attempt_has_its_own_retries(cloud: Any, server: ModelServer) -> None:
    server.script(*[Failure(500, headers={"retry-after-ms": "1"})] * 5)
    assert cloud.complete_with_fallback("p")["attempt"] == 1
    assert len(server.requests) == 6


@pytest.mark.usefixtures("sleep")
def test_each_attempt_is_one_complete(cloud: Any, server: ModelServer) -> None:
    server.script(BROKEN)
    with patch.object(cloud, "complete", wraps=cloud.complete) as complete:
        cloud.complete_with_fallback("p")
    assert complete.call_count == 2


@pytest.mark.better
def test_an_open_circuit_skips_straight_to_the_local_model(
    cloud: Any, sleep: MagicMock, health: Any, server: ModelServer
) -> None:
    checker = health.get_health_checker()
    checker.register_endpoint(cloud.base_url)
    for _ in range(3):
        checker.record_failure(cloud.base_url)
    cloud._health_checker = checker
    result = cloud.complete_with_fallback("p")
    assert (result["fallback_used"], result["attempt"]) == (True, 2)
    assert not server.requests
    assert waits(sleep) == []


@pytest.mark.usefixtures("sleep")
def test_when_both_fail_the_clouds_error_is_raised_the_local_one_its_cause(
    cloud: Any, server: ModelServer, local_server: ModelServer, errors: Any
) -> None:
    server.script(BROKEN, BROKEN)
    local_server.script(Failure(404, "no such model"))
    with pytest.raises(errors.InternalServerError) as caught:
        cloud.complete_with_fallback("p")
    assert isinstance(caught.value.__cause__, errors.NotFoundError)


@pytest.mark.usefixtures("sleep")
def test_keywords_go_along_to_every_attempt(
    cloud: Any, server: ModelServer, local_server: ModelServer
) -> None:
    server.script(BROKEN, BROKEN)
    cloud.complete_with_fallback("p", seed=7)
    assert [request.json["seed"] for request in [*server.requests, *local_server.requests]] == [7, 7, 7]


@pytest.mark.better(raises=AttributeError)
async def test_complete_with_fallback_async(cloud: Any) -> None:
    result = await cloud.complete_with_fallback_async("hello")
    assert (result["content"], result["fallback_used"], result["attempt"]) == ("hello", False, 0)
