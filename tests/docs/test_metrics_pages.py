"""docs/metrics.md and the Grafana dashboard speak of what the collector really exports, and of all of it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client import CollectorRegistry

from arbitrageai_native import LLMService, llm_health_check, metrics
from arbitrageai_native.integrations import prometheus
from arbitrageai_native.integrations.prometheus import MetricsCollector
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import FaultyServer

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((DOCS / "grafana-dashboard.json").read_text(encoding="utf-8"))

# What Prometheus itself adds to every sample that it scrapes.
OF_PROMETHEUS = {"instance", "job"}
ENDINGS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


@pytest.fixture
async def exported(
    serve: Callable[..., FaultyServer], monkeypatch: pytest.MonkeyPatch
) -> dict[str, set[str]]:
    """The samples of a process that has called a model at an endpoint with a circuit: name -> labels."""
    monkeypatch.setattr(llm_health_check, "_global_health_checker", None)
    await LLMService(base_url=serve(faulty.answer()).base_url, api_key=KEY, model="m").complete_async("hi")
    registry = CollectorRegistry()
    prometheus.register(registry)
    found: dict[str, set[str]] = defaultdict(set)
    for family in registry.collect():
        for sample in family.samples:
            found[sample.name] |= sample.labels.keys()
    return found


# The page


def rows() -> list[tuple[str, str, set[str], str]]:
    """Name, type, labels and meaning, as the page's tables say."""
    lines = re.findall(r"^\| `(arbitrageai_native_\w+)` \| (\w+) \| (.*?)\| (.*) \|$", PAGE, re.MULTILINE)
    return [
        (name, kind, set(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in lines
    ]


def test_the_page_has_every_metric_once_in_the_collectors_order() -> None:
    families = list(MetricsCollector().describe())
    names = [family.name + ("_total" if family.type == "counter" else "") for family in families]
    assert [(name, kind, meaning) for name, kind, _, meaning in rows()] == [
        (name, family.type, family.documentation) for name, family in zip(names, families, strict=True)
    ]


def test_the_page_has_the_labels_that_the_samples_have(exported: dict[str, set[str]]) -> None:
    samples = {
        name.removesuffix("_total") + ending: labels
        for name, kind, labels, _ in rows()
        for ending in ENDINGS[kind]
    }
    assert samples == {name: labels - {"le"} for name, labels in exported.items()}


def test_the_page_has_every_outcome_of_a_call(exported: dict[str, set[str]]) -> None:
    table = PAGE.split("How a call ended")[1].split("## ")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(metrics()["llm"]["models"]["m"]["calls"])


def test_no_other_name_is_on_the_page() -> None:
    described = {name for name, *_ in rows()}
    assert set(re.findall(r"arbitrageai_native_\w+", PAGE)) == described


# The dashboard


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def targets() -> list[dict[str, Any]]:
    return [target for panel in panels() for target in panel["targets"]]


def parsed(query: str) -> promql_parser.Expr:
    """The query as Prometheus gets it: Grafana has filled in its own variables."""
    return promql_parser.parse(query.replace("$__rate_interval", "5m"))


def nodes(query: str) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(parsed(query), pre_visit=found.append)
    return found


def selectors(query: str) -> list[promql_parser.VectorSelector]:
    ranges = [node.vector_selector for node in nodes(query) if isinstance(node, promql_parser.MatrixSelector)]
    return ranges + [node for node in nodes(query) if isinstance(node, promql_parser.VectorSelector)]


def grouped_by(query: str) -> set[str]:
    """The labels that the answer has: those of the outermost aggregation."""
    for node in nodes(query):
        if isinstance(node, promql_parser.AggregateExpr):
            quantile = "histogram_quantile" in query
            return set(node.modifier.labels if node.modifier else ()) - ({"le"} if quantile else set())
    raise AssertionError(f"{query} aggregates nothing")


QUERIES = [target["expr"] for target in targets()]


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_asks_for_what_is_exported(query: str, exported: dict[str, set[str]]) -> None:
    assert selectors(query)
    for selector in selectors(query):
        assert selector.name in exported
        asked = {matcher.name for matcher in selector.matchers.matchers}
        assert asked <= exported[selector.name] | OF_PROMETHEUS
        assert "instance" in asked
    known = set().union(*(exported[selector.name or ""] for selector in selectors(query)))
    for node in nodes(query):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            assert set(node.modifier.labels) <= known | OF_PROMETHEUS


@pytest.mark.parametrize("query", QUERIES)
def test_counters_are_asked_for_their_growth(query: str) -> None:
    growth = [
        node.args[0].vector_selector.name
        for node in nodes(query)
        if isinstance(node, promql_parser.Call) and node.func.name in ("rate", "increase")
    ]
    for selector in selectors(query):
        counts = (selector.name or "").endswith(("_total", "_bucket"))
        assert counts == (selector.name in growth)


def test_legends_show_labels_that_the_answers_have() -> None:
    for target in targets():
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert shown == grouped_by(target["expr"]), target


def test_every_metric_is_on_the_dashboard() -> None:
    asked = {selector.name for query in QUERIES for selector in selectors(query)}
    for name, kind, _, _ in rows():
        assert (f"{name}_bucket" if kind == "histogram" else name) in asked


def test_variables_are_asked_for_labels_that_exist(exported: dict[str, set[str]]) -> None:
    datasource, *others = DASHBOARD["templating"]["list"]
    assert (datasource["type"], datasource["query"]) == ("datasource", "prometheus")
    for variable in others:
        query = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
        assert query is not None
        assert variable["query"]["query"] == variable["definition"]
        assert query[2] in exported[query[1]] | OF_PROMETHEUS
        assert query[2] == variable["name"]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used == {variable["name"] for variable in DASHBOARD["templating"]["list"]}


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= DASHBOARD.keys()
    assert "id" not in DASHBOARD, "Grafana gives it one"
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    assert {panel["type"] for panel in panels()} <= {"timeseries", "state-timeline"}
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_lie_side_by_side() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for one, other in combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
