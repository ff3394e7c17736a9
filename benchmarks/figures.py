"""Figures in the README and in `docs/`, written from what was measured.

A page says what it shows, and `python -m benchmarks figures` writes it between the two comments:

    <!-- measured: ratio load-100 cpu_us arbitrageai-native/openai asyncio -->1/68<!-- end -->

A directive that stands on a line of its own has its text below it, up to the closing comment. Figures that no
axis measures are in `noted.json`, with how they were taken.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path

from benchmarks.axes.axis import Column
from benchmarks.results import Measured, Results, Series

ROOT = Path(__file__).parent.parent
NOTED = Path(__file__).parent / "noted.json"
_DRAWN = Path(__file__).parent / "charts"

CHARTS = ROOT / "docs" / "charts"

_DIRECTIVE = re.compile(
    r"(<!-- measured: (?P<kind>[a-z-]+)(?P<words>[^>]*?) -->).*?(?P<end><!-- end -->)", re.DOTALL
)

# How a page calls the peers whose names in the results are short.
_NAMES = {
    "arbitrageai-native": "**`LLMService`**",
    "openai": "`AsyncOpenAI`",
    "openai-aiohttp": "`AsyncOpenAI` on aiohttp",
    "to-thread": "`OpenAI` in `asyncio.to_thread`",
    "blocking": "`OpenAI` in an `async def`",
}


class StaleDirectiveError(Exception):
    """A page asks for a figure that there is not."""


def pages() -> Iterator[Path]:
    """Every page that may show figures."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def copy_charts() -> None:
    """Put the charts where the site finds them: it takes nothing from outside `docs/`."""
    CHARTS.mkdir(exist_ok=True)
    for chart in CHARTS.glob("*.svg"):
        chart.unlink()
    for chart in _DRAWN.glob("*.svg"):
        shutil.copy(chart, CHARTS)


def written(page: str, results: Results) -> str:
    """The page with its figures as they have to be.

    Raises:
        StaleDirectiveError: it asks for something that was not measured.
    """

    def write(directive: re.Match[str]) -> str:
        kind, words = directive["kind"], shlex.split(directive["words"])
        if kind not in _KINDS:
            raise StaleDirectiveError(f"{directive[1]}: there is no {kind!r}; there are: {', '.join(_KINDS)}")
        try:
            text = _KINDS[kind](results, *words)
        except (LookupError, TypeError, ValueError) as error:
            raise StaleDirectiveError(f"{directive[1]}: {error}") from error
        return f"{directive[1]}{text}{directive['end']}"

    return _DIRECTIVE.sub(write, page)


def _axis(results: Results, name: str) -> Measured:
    axis = results.axis(name)
    if axis is None:
        raise LookupError(f"no axis {name!r} was measured")
    return axis


def _place(series: Series) -> tuple[str, ...]:
    """Where a subject was measured: the event loop, and what else tells it from others of its name."""
    _, *rest = astuple(series.subject)
    return tuple(f"{part:,}" if isinstance(part, int) else part for part in rest if part)


def _find(axis: Measured, name: str, place: tuple[str, ...]) -> Series | None:
    return next((s for s in axis.series if s.subject.name == name and _place(s) == place), None)


def _series(axis: Measured, name: str, *place: str) -> Series:
    # A program of its own runs without an event loop, and stands for all.
    series = _find(axis, name, place) or _find(axis, name, ())
    if series is None:
        raise LookupError(f"{name!r} was not measured on {' '.join(place)!r}")
    return series


def _column(axis: Measured, key: str) -> Column:
    for column in axis.columns:
        if column.key == key:
            return column
    raise LookupError(f"{axis.name!r} has no figure {key!r}")


def _number(axis: Measured, series: Series | None, key: str) -> str:
    digits = _column(axis, key).digits
    median = series.median(key) if series else None
    return "" if median is None else f"{median:,.{digits}f}"


def _value(results: Results, name: str, key: str, subject: str, *place: str) -> str:
    """The median of a figure."""
    axis = _axis(results, name)
    return _number(axis, _series(axis, subject, *place), key)


def _ratio(results: Results, name: str, key: str, subjects: str, *place: str) -> str:
    """The median of the ratios of two subjects, round by round."""
    axis = _axis(results, name)
    ours, theirs = (_series(axis, subject, *place) for subject in subjects.split("/"))
    ratio = statistics.median(ours.ratios(theirs, key))
    return f"{ratio:.1f}" if ratio >= 0.5 else f"1/{1 / ratio:.0f}"


def _compare(results: Results, name: str, keys: str, subjects: str, *place: str) -> str:
    """A table: a row for each subject, a column for each figure."""
    axis = _axis(results, name)
    wanted = keys.split(",")
    rows = [["", *(_column(axis, key).heading for key in wanted)]]
    for subject in subjects.split(","):
        series = _series(axis, subject, *place)
        rows.append([_NAMES.get(subject, subject), *(_number(axis, series, key) for key in wanted)])
    return _block(_table(rows))


def _run(results: Results) -> str:
    """Where and when the run was made, and with what."""
    about = results.about
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return _block(
        f"{about['machine']}; {about['date']}; commit {about['commit']}; Python {about['python']}; "
        f"{versions}. Medians of {about['rounds']} rounds."
    )


def _axes(results: Results) -> str:
    """Each axis: its chart, and the figure that it is about."""
    return _block("\n\n".join(_section(axis) for axis in results.axes))


def _section(axis: Measured) -> str:
    places = list(dict.fromkeys(map(_place, axis.series)))
    names = list(dict.fromkeys(series.subject.name for series in axis.series))
    rows = [[_column(axis, axis.headline).heading, *(" ".join(place) or "median" for place in places)]]
    for name in names:
        found = (_find(axis, name, place) for place in places)
        rows.append([name, *(_number(axis, series, axis.headline) for series in found)])
    parts = [f"## {axis.title}", _table(rows)]
    if (_DRAWN / f"{axis.name}.svg").exists():
        parts.append(f"![{axis.title}](charts/{axis.name}.svg)")
    return "\n\n".join(parts)


def _noted(_: Results, name: str) -> str:
    """A figure that was taken by hand."""
    text: str = json.loads(NOTED.read_text(encoding="utf-8"))[name]["text"]
    return text


_KINDS: dict[str, Callable[..., str]] = {
    "value": _value,
    "ratio": _ratio,
    "compare": _compare,
    "run": _run,
    "axes": _axes,
    "noted": _noted,
}


def _table(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"| {' | '.join(['---'] * len(rows[0]))} |")
    return "\n".join(lines)


def _block(text: str) -> str:
    return f"\n\n{text}\n\n"
