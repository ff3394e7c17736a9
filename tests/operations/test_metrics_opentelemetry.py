"""A meter provider of OpenTelemetry is told what `metrics()` counts, and of every call of a service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader

from arbitrageai_native import LLMService, exceptions, metrics
from arbitrageai_native.integrations import opentelemetry
from arbitrageai_native.integrations.exported_metrics import METRICS
from arbitrageai_native.llm import tracing
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import DONE, FaultyServer, chunk

Serve = Callable[..., FaultyServer]


class Application:
    """One that has set up metrics, and reads what its exporter would send."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])

    def collected(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        assert data is not None
        (resource,) = data.resource_metrics
        (scope,) = resource.scope_metrics
        assert scope.scope.name == "arbitrageai_native"
        return {metric.name: metric for metric in scope.metrics}

    def points(self, name: str, **attributes: object) -> list[Any]:
        points = self.collected()[name].data.data_points
        return [point for point in points if attributes.items() <= dict(point.attributes).items()]


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Application:
    monkeypatch.setattr(tracing, "_listeners", ())
    application = Application()
    opentelemetry.register(application.provider)
    return application


@pytest.fixture
def model() -> str:
    return f"model-{uuid.uuid4().hex}"


def service(server: FaultyServer, model: str) -> LLMService:
    return LLMService(base_url=server.base_url, api_key=KEY, model=model, max_retries=0)


async def test_what_is_counted_is_observed(serve: Serve, application: Application, model: str) -> None:
    await service(serve(faulty.answer()), model).complete_async("hi")
    asked = {"gen_ai.request.model": model}
    outcomes = application.points("arbitrageai_native.llm.calls", **asked)
    assert {point.attributes["arbitrageai_native.outcome"]: point.value for point in outcomes} == metrics()[
        "llm"
    ]["models"][model]["calls"]
    tokens = application.points("arbitrageai_native.llm.tokens", **asked)
    assert {point.attributes["gen_ai.token.type"]: point.value for point in tokens} == {
        "input": 3,
        "output": 4,
    }
    (count,) = application.points("arbitrageai_native.llm.response.count", **asked)
    (total,) = application.points("arbitrageai_native.llm.response.sum", **asked)
    assert (count.value, total.value) == (1, metrics()["llm"]["models"][model]["response_seconds"]["sum"])
    (attempts,) = application.points("arbitrageai_native.lock.attempts")
    assert attempts.value == metrics()["locks"]["attempts"]
    names = application.collected()
    for metric in METRICS:
        ends = (".count", ".sum") if metric.kind == "histogram" else ("",)
        for end in ends:
            assert names[f"arbitrageai_native.{metric.name}{end}"].description == metric.meaning
    assert names["arbitrageai_native.lock.hold.sum"].unit == "s"


async def test_each_call_is_recorded_as_the_conventions_say(
    serve: Serve, application: Application, model: str
) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
    server = serve(
        faulty.answer(),
        faulty.answer(),
        faulty.stream(chunk("a", usage=usage), DONE),
        faulty.answer(status=404),
    )
    client = service(server, model)
    await client.complete_async("hi", stealth_mode=False)
    client.complete("hi")
    assert [piece async for piece in client.complete_streaming_async("hi")] == ["a"]
    with pytest.raises(exceptions.NotFoundError):
        await client.complete_async("hi")
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": model,
        "server.address": "127.0.0.1",
        "server.port": server.port,
    }
    duration = application.collected()["gen_ai.client.operation.duration"]
    assert duration.unit == "s"
    well, failed = sorted(duration.data.data_points, key=lambda point: -point.count)
    assert isinstance(well, HistogramDataPoint)
    assert (well.attributes, well.count) == (common, 3)
    assert 0 < well.sum < 30
    assert well.explicit_bounds[:3] == (0.01, 0.02, 0.04)
    assert well.explicit_bounds[-1] == 81.92
    assert (failed.attributes, failed.count) == ({**common, "error.type": "404"}, 1)
    for token_type, tokens in {"input": 3 + 3 + 10, "output": 4 + 4 + 20}.items():
        (point,) = application.points("gen_ai.client.token.usage", **{"gen_ai.token.type": token_type})
        assert (point.count, point.sum) == (3, tokens)


async def test_the_wait_of_stealth_mode_is_no_duration(
    serve: Serve, application: Application, model: str
) -> None:
    client = LLMService(
        base_url=serve(faulty.answer()).base_url, api_key=KEY, model=model, stealth_range=(3, 3)
    )
    await client.complete_async("hi", stealth_mode=True)
    (point,) = application.points("gen_ai.client.operation.duration")
    assert point.sum < 3


def test_twice_is_refused(application: Application) -> None:
    with pytest.raises(RuntimeError, match="this meter provider has arbitrageai_native's metrics already"):
        opentelemetry.register(application.provider)
    opentelemetry.register(Application().provider)


async def test_any_thread_may_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_listeners", ())
    application = Application()
    await asyncio.to_thread(opentelemetry.register, application.provider)
    assert "arbitrageai_native.lock.held" in await asyncio.to_thread(application.collected)


@pytest.mark.parametrize("wrong", [object(), "provider", 1])
def test_what_is_no_meter_provider_is_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match="meter_provider has to be an opentelemetry MeterProvider, not"):
        opentelemetry.register(wrong)


def test_the_default_is_the_applications_and_may_be_set_later() -> None:
    script = """
import sys
import arbitrageai_native
from arbitrageai_native import *
assert "opentelemetry" not in sys.modules
arbitrageai_native.opentelemetry.register()
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
assert "arbitrageai_native.lock.held" in reader.get_metrics_data().to_json()
"""
    subprocess.run([sys.executable, "-c", script], timeout=110, check=True)


def test_without_opentelemetry_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ImportError, match=r"pip install 'opentelemetry-api>=1\.30'"):
        opentelemetry.register()
