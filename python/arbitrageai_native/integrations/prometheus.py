"""The metrics in Prometheus' form, by `prometheus_client` (extra `arbitrageai-native[prometheus]`).

from arbitrageai_native.integrations import prometheus

prometheus.register()  # in prometheus_client's own registry, which its servers and ASGI apps export
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from arbitrageai_native.integrations.exported_metrics import METRICS, Metric
from arbitrageai_native.process_metrics import metrics

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric as Family

__all__ = ["MetricsCollector", "register"]

_PREFIX = "arbitrageai_native_"


class MetricsCollector:
    """A collector of `prometheus_client`: it reads `arbitrageai_native.metrics()` at each scrape."""

    def collect(self) -> Iterator[Family]:
        """Give every metric with its samples now."""
        figures = metrics()
        for metric in METRICS:
            family = _family(metric)
            for labels, value in metric.read(figures):
                if metric.kind == "histogram":
                    family.add_metric(labels, _cumulative(value), sum_value=value["sum"])
                else:
                    family.add_metric(labels, value)
            yield family

    def describe(self) -> Iterator[Family]:
        """Give every metric without samples, by which the registry sees that none is there twice."""
        return map(_family, METRICS)


def register(registry: CollectorRegistry | None = None) -> MetricsCollector:
    """Add this process's metrics to a registry, by default `prometheus_client`'s own; from any thread.

    Returns:
        The collector, for `registry.unregister`.

    Raises:
        ImportError: `prometheus_client` is not installed.
        RuntimeError: the registry has these metrics already.
        TypeError: `registry` is no `CollectorRegistry`.
    """
    try:
        from prometheus_client import REGISTRY, CollectorRegistry
    except ImportError:
        raise ImportError(
            "prometheus_client is not installed: pip install 'arbitrageai-native[prometheus]'"
        ) from None
    registry = REGISTRY if registry is None else registry
    if not isinstance(registry, CollectorRegistry):
        raise TypeError(f"registry has to be a prometheus_client.CollectorRegistry, not {registry!r}")
    collector = MetricsCollector()
    try:
        registry.register(collector)
    except ValueError:
        raise RuntimeError("this registry has arbitrageai_native's metrics already") from None
    return collector


def _family(metric: Metric) -> Any:
    from prometheus_client import metrics_core

    family = {
        "counter": metrics_core.CounterMetricFamily,
        "gauge": metrics_core.GaugeMetricFamily,
        "histogram": metrics_core.HistogramMetricFamily,
    }[metric.kind]
    name = _PREFIX + metric.name.replace(".", "_")
    return family(name, metric.meaning, labels=metric.labels, unit=metric.unit)


def _cumulative(histogram: dict[str, Any]) -> list[tuple[str, int]]:
    bounds = [*(repr(bound) for bound in histogram["bounds"]), "+Inf"]
    return list(zip(bounds, accumulate(histogram["counts"]), strict=True))
