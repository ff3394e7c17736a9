"""The metrics in OpenTelemetry's form, for applications that have `opentelemetry-api` 1.30 or newer.

    from arbitrageai_native.integrations import opentelemetry

    opentelemetry.register()  # with the application's meter provider

Observable instruments report what `arbitrageai_native.metrics()` counts; they are read at each collection.
The histograms in it become two counters each, `….count` and `….sum`: OpenTelemetry has no observable
histogram. The histograms of the semantic conventions, `gen_ai.client.operation.duration` and
`gen_ai.client.token.usage`, are recorded call by call, of the calls of `LLMService`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from arbitrageai_native.integrations.exported_metrics import METRICS, Metric
from arbitrageai_native.llm.tracing import Listener, listen
from arbitrageai_native.process_metrics import metrics

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

__all__ = ["register"]

_NAME = "arbitrageai_native"
_UNITS = {"seconds": "s", "": "1"}
_ATTRIBUTES = {"model": "gen_ai.request.model", "type": "gen_ai.token.type"}
_TOKEN_TYPES = {"prompt": "input", "completion": "output"}
# Those that the semantic conventions ask for.
_DURATIONS = [0.01 * 2**power for power in range(14)]
_TOKENS = [float(4**power) for power in range(14)]

_registered: weakref.WeakSet[Any] = weakref.WeakSet()
_registering = threading.Lock()


def register(meter_provider: MeterProvider | None = None) -> None:
    """Tell the process's metrics to a meter provider, by default the application's; from any thread.

    Raises:
        ImportError: `opentelemetry-api` is not installed, or older than 1.30.
        RuntimeError: the meter provider has these metrics already.
        TypeError: `meter_provider` is none.
    """
    try:
        from opentelemetry.metrics import MeterProvider, get_meter_provider
    except ImportError:
        raise ImportError("opentelemetry is not installed: pip install 'opentelemetry-api>=1.30'") from None
    provider = get_meter_provider() if meter_provider is None else meter_provider
    if not isinstance(provider, MeterProvider):
        raise TypeError(f"meter_provider has to be an opentelemetry MeterProvider, not {provider!r}")
    with _registering:
        if provider in _registered:
            raise RuntimeError("this meter provider has arbitrageai_native's metrics already")
        meter = provider.get_meter(_NAME)
        listen(_recorder(meter))
        for metric in METRICS:
            _observe(meter, metric)
        _registered.add(provider)


def _recorder(meter: Meter) -> Listener:
    """What records a call in the histograms of the semantic conventions."""
    try:
        duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="How long calls took, the failed ones too.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        usage = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens of a call, as far as the server says.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
    except TypeError:
        raise ImportError("opentelemetry is too old: pip install 'opentelemetry-api>=1.30'") from None

    def record(seconds: float, tokens: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        duration.record(seconds, attributes)
        for name, token_type in _TOKEN_TYPES.items():
            count = tokens.get(f"{name}_tokens")
            # A mock's usage is made of mocks.
            if isinstance(count, int) and count > 0:
                usage.record(count, {**attributes, "gen_ai.token.type": token_type})

    return record


def _observe(meter: Meter, metric: Metric) -> None:
    name, unit = f"{_NAME}.{metric.name}", _UNITS[metric.unit]
    if metric.kind == "gauge":
        meter.create_observable_gauge(name, [_callback(metric)], unit, metric.meaning)
    elif metric.kind == "counter":
        meter.create_observable_counter(name, [_callback(metric)], unit, metric.meaning)
    else:
        count = _callback(metric, lambda histogram: sum(histogram["counts"]))
        total = _callback(metric, lambda histogram: histogram["sum"])
        meter.create_observable_counter(f"{name}.count", [count], "1", metric.meaning)
        meter.create_observable_counter(f"{name}.sum", [total], unit, metric.meaning)


def _callback(
    metric: Metric, number: Callable[[Any], float] = lambda value: value
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_: CallbackOptions) -> Iterable[Observation]:
        from opentelemetry.metrics import Observation

        return [
            Observation(number(value), _attributes(metric, labels))
            for labels, value in metric.read(metrics())
        ]

    return observe


def _attributes(metric: Metric, values: Iterable[str]) -> dict[str, str]:
    named = zip(metric.labels, values, strict=True)
    return {
        _ATTRIBUTES.get(label, f"{_NAME}.{label}"): _TOKEN_TYPES[value] if label == "type" else value
        for label, value in named
    }
