"""The collector gives `prometheus_client` what `metrics()` counts, in the form that Prometheus reads."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from arbitrageai_native import LLMService, llm_health_check, metrics
from arbitrageai_native.integrations import prometheus
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import FaultyServer

Serve = Callable[..., FaultyServer]


@pytest.fixture
async def registry(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """One in a process that has made a call, to an endpoint with a circuit."""
    monkeypatch.setattr(llm_health_check, "_global_health_checker", None)
    await LLMService(base_url=serve(faulty.answer()).base_url, api_key=KEY, model="exported").complete_async(
        "hi"
    )
    registry = CollectorRegistry()
    prometheus.register(registry)
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"arbitrageai_native_{name}", labels)


async def test_what_is_counted_is_exported(registry: CollectorRegistry) -> None:
    figures = metrics()
    model = figures["llm"]["models"]["exported"]
    assert (
        value(registry, "llm_calls_total", model="exported", outcome="success") == model["calls"]["success"]
    )
    assert value(registry, "llm_calls_total", model="exported", outcome="timeout") == 0
    assert (
        value(registry, "llm_tokens_total", model="exported", type="prompt") == model["tokens"]["prompt"] > 0
    )
    (endpoint,) = figures["circuits"]
    assert value(registry, "circuit_state", endpoint=endpoint, state="closed") == 1
    assert value(registry, "circuit_state", endpoint=endpoint, state="open") == 0
    assert value(registry, "lock_attempts_total") == figures["locks"]["attempts"]
    assert value(registry, "loop_monitors") == figures["loop"]["monitors"]
    assert value(registry, "bridge_calls_under_way") is not None


async def test_a_histogram_is_cumulative_and_ends_with_all(registry: CollectorRegistry) -> None:
    histogram = metrics()["llm"]["models"]["exported"]["response_seconds"]
    (family,) = (
        family for family in registry.collect() if family.name == "arbitrageai_native_llm_response_seconds"
    )
    samples = [sample for sample in family.samples if sample.labels["model"] == "exported"]
    buckets = [
        (float(sample.labels["le"]), sample.value) for sample in samples if sample.name.endswith("_bucket")
    ]
    assert [bound for bound, _ in buckets] == [*histogram["bounds"], math.inf]
    assert all(lower[1] <= upper[1] for lower, upper in pairwise(buckets))
    rest = {sample.name.rpartition("_")[2]: sample.value for sample in samples}
    assert rest["count"] == buckets[-1][1] == sum(histogram["counts"]) > 0
    assert rest["sum"] == histogram["sum"] > 0


async def test_both_text_formats_are_read_as_they_were_written(registry: CollectorRegistry) -> None:
    exported = {family.name for family in registry.collect()}
    assert {family.name for family in parse(generate_latest(registry).decode())} == exported
    openmetrics = generate_openmetrics(registry).decode()
    assert {family.name for family in parse_openmetrics(openmetrics)} == exported


async def test_every_name_says_whose_it_is_and_its_unit(registry: CollectorRegistry) -> None:
    for family in registry.collect():
        assert family.name.startswith("arbitrageai_native_")
        assert family.documentation.endswith(".")
        assert family.type == "gauge" or family.name.endswith("_seconds") == (family.type == "histogram")
        assert not family.unit or family.name.endswith(f"_{family.unit}")


def test_twice_is_refused_until_it_is_taken_out() -> None:
    registry = CollectorRegistry()
    collector = prometheus.register(registry)
    with pytest.raises(RuntimeError, match="this registry has arbitrageai_native's metrics already"):
        prometheus.register(registry)
    registry.unregister(collector)
    prometheus.register(registry)


async def test_any_thread_may_register_and_collect() -> None:
    registry = CollectorRegistry()
    await asyncio.to_thread(prometheus.register, registry)
    assert b"arbitrageai_native_llm_calls_total" in await asyncio.to_thread(generate_latest, registry)


@pytest.mark.parametrize("wrong", [object(), "registry", 1])
def test_what_is_no_registry_is_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"registry has to be a prometheus_client\.CollectorRegistry, not"):
        prometheus.register(wrong)


def test_the_default_is_the_clients_own_registry_and_nothing_is_imported_before() -> None:
    script = """
import sys
import arbitrageai_native
from arbitrageai_native import *
assert "prometheus_client" not in sys.modules
arbitrageai_native.prometheus.register()
import prometheus_client
assert b"arbitrageai_native_lock_held 0.0" in prometheus_client.generate_latest()
"""
    subprocess.run([sys.executable, "-c", script], timeout=110, check=True)


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"pip install 'arbitrageai-native\[prometheus\]'"):
        prometheus.register()
