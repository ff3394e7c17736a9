"""Figures in the README and in `docs/` are those that were measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.figures import CHARTS, StaleDirectiveError, pages, written
from benchmarks.results import Results
from tests.docs.blocks import PAGES, ROOT, blocks, name_of

RESULTS = ROOT / "benchmarks" / "results.json"

#: What looks like something measured.
FIGURE = re.compile(r"\d[\d.,]*\s?(?:µs|ms|ns|%|[KMG]i?B)(?![\w])|\b\d[\d.,]* times as\b|\b\d[\d.,]*x\b")

#: Such of them as are settings and round bounds, not measurements: page, text.
SETTINGS = {
    ("docs/configuration.md", "1 MiB"),
    ("docs/configuration.md", "64 MiB"),
    ("docs/installation.md", "2 GB"),
    ("docs/operations.md", "5 MB"),
    ("docs/scale.md", "100 %"),
}


def test_the_readme_and_the_pages_are_looked_at() -> None:
    assert {ROOT / "README.md", ROOT / "docs" / "performance.md"} <= set(pages()) == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figures_are_those_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert written(text, Results.read(RESULTS)) == text, "run `python -m benchmarks figures`"


def test_another_result_is_another_figure() -> None:
    results = Results.read(RESULTS)
    for axis in results.axes:
        for series in axis.series:
            for figures in filter(None, series.rounds):
                figures.update({key: 3 * value + 7 for key, value in figures.items()})
    for page in (ROOT / "README.md", ROOT / "docs" / "performance.md"):
        text = page.read_text(encoding="utf-8")
        assert written(text, results) != text


@pytest.mark.parametrize(
    "directive",
    [
        "<!-- measured: guess -->1<!-- end -->",
        "<!-- measured: value nothing cpu_us openai -->1<!-- end -->",
        "<!-- measured: value load-100 cpu_us nobody asyncio -->1<!-- end -->",
        "<!-- measured: value load-100 nothing openai asyncio -->1<!-- end -->",
        "<!-- measured: ratio load-100 cpu_us openai asyncio -->1<!-- end -->",
        "<!-- measured: noted nothing -->1<!-- end -->",
    ],
)
def test_what_was_not_measured_is_refused(directive: str) -> None:
    with pytest.raises(StaleDirectiveError, match="measured: "):
        written(directive, Results.read(RESULTS))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_figure_stands_alone(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        text = text.replace(block.text, "")
    text = re.sub(r"<!-- (?:measured|figures): .*?<!-- end -->", "", text, flags=re.DOTALL)
    found = {(name_of(page), figure[0]) for figure in FIGURE.finditer(text)}
    assert found == {setting for setting in SETTINGS if setting[0] == name_of(page)}, (
        "see benchmarks/figures.py"
    )


def test_the_charts_are_those_drawn() -> None:
    drawn = {chart.name: chart.read_bytes() for chart in (ROOT / "benchmarks" / "charts").glob("*.svg")}
    assert drawn == {chart.name: chart.read_bytes() for chart in CHARTS.glob("*.svg")}
