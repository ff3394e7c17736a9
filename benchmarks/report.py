"""Tables of a run: medians, their spread, and ratios; for the terminal, or in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.axes.axis import Column
from benchmarks.reasons import why
from benchmarks.results import Measured, Results, Series
from benchmarks.targets import Verdict, judge
from benchmarks.unmet import Unmet

BEGIN, END = "<!-- generated: report --markdown -->", "<!-- end of what is generated -->"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _cell(series: Series, column: Column) -> str:
    """The median, and how far the middle half of the rounds lies around it."""
    values = sorted(series.values(column.key))
    if not values:
        return ""
    median = _number(statistics.median(values), column.digits)
    if len(values) < 3 or column.key == "failures":
        return median
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median} ({_number(low, column.digits)} to {_number(high, column.digits)})"


def _ratio(measured: Measured, series: Series) -> str:
    reference = measured.reference_for(series.subject)
    if reference is None or reference is series:
        return ""
    ratios = series.ratios(reference, measured.headline)
    if not ratios:
        return ""
    digits = 1 if statistics.median(ratios) >= 10 else 2
    spread = f" ({min(ratios):.{digits}f} to {max(ratios):.{digits}f})" if len(ratios) > 1 else ""
    return f"{statistics.median(ratios):.{digits}f}x{spread}"


def rows(measured: Measured) -> Iterator[list[str]]:
    """The headings, then a row for each subject."""
    subjects = [series.subject for series in measured.series]
    stores = any(subject.store for subject in subjects)
    loops = any(subject.loop for subject in subjects)
    sizes = any(subject.size for subject in subjects)
    compared = bool(measured.reference)
    yield [
        *(["store"] if stores else []),
        *(["loop"] if loops else []),
        *([measured.size] if sizes else []),
        "who",
        *(column.heading for column in measured.columns),
        *([f"{measured.headline_heading} / {measured.reference}"] if compared else []),
    ]
    for series in measured.series:
        subject = series.subject
        yield [
            *([subject.store] if stores else []),
            *([subject.loop] if loops else []),
            *([f"{subject.size:,}"] if sizes else []),
            subject.name,
            *(_cell(series, column) for column in measured.columns),
            *([_ratio(measured, series)] if compared else []),
        ]


def _remarks(measured: Measured) -> Iterator[str]:
    """What stands under a table."""
    if measured.note:
        yield measured.note
    for series in measured.series:
        if series.fault:
            yield f"{series.subject}: {series.fault}"


def show(results: Results, console: Console) -> None:
    """Print every table."""
    for measured in results.axes:
        headings, *body = rows(measured)
        table = Table(title=f"{measured.title}: medians (middle half of the rounds)", title_justify="left")
        for heading in headings:
            left = heading in ("store", "loop", "who")
            table.add_column(heading, justify="left" if left else "right")
        for row in body:
            table.add_row(*row)
        console.print(table)
        for remark in _remarks(measured):
            console.print(remark)
    verdicts = list(judge(results))
    if verdicts:
        table = Table(title="Targets", title_justify="left")
        for heading in _VERDICT:
            table.add_column(heading)
        for verdict in verdicts:
            table.add_row(*_judged(verdict, "MISSED"))
        console.print(table)


_VERDICT = ("loop", "target", "measured", "bound", "")


def _judged(verdict: Verdict, missed: str) -> list[str]:
    return [verdict.loop, verdict.text, verdict.measured, verdict.bound, "met" if verdict.met else missed]


def markdown(results: Results, charts: Path | None = None) -> str:
    """The same as a part of a page, with what judges it, why targets were missed, and the charts."""
    parts = [_circumstances(results.about)] if results.about else []
    verdicts = list(judge(results))
    if verdicts:
        judged = [_judged(verdict, "**missed**") for verdict in verdicts]
        parts.append(f"### Targets\n\n{_markdown_table([list(_VERDICT), *judged])}")
    reasons = list(why({verdict.text for verdict in verdicts if not verdict.met}))
    if reasons:
        listed = "\n".join(f"- **{'; '.join(texts)}**: {reason}" for texts, reason in reasons)
        parts.append(f"Why the missed ones are missed:\n\n{listed}")
    for measured in results.axes:
        parts.append(f"### {measured.title}")
        if measured.about:
            parts.append(f"Of another run: {_circumstances(measured.about)}")
        parts.append(_markdown_table(list(rows(measured))))
        parts += _remarks(measured)
        chart = charts / f"{measured.name}.svg" if charts else None
        if chart is not None and chart.exists():
            parts.append(f"![{measured.title}]({chart.parent.name}/{chart.name})")
    return "\n\n".join(parts) + "\n"


def replace_in(page: Path, text: str) -> None:
    """Put what is generated in place of what was.

    Raises `Unmet` if the page does not say where.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise Unmet(f"{page} has no lines {BEGIN!r} and {END!r}: put them where the tables are to stand")
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")


def _circumstances(about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    minutes = f" {about['minutes']} minutes in all;" if "minutes" in about else ""
    return (
        f"{about['machine']}; {about['date']}; commit {about['commit']}; "
        f"Python {about['python']}; {versions}.\n"
        f"{about['rounds']} rounds; a steady load lasts {about['seconds']} s a round;{minutes} "
        f"the load of the machine before was {about['load_at_start']}."
    )


def _markdown_table(table: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in table]
    lines.insert(1, f"|{' --- |' * len(table[0])}")
    return "\n".join(lines)
