"""Tables of a run: medians, their spread, and ratios; for the terminal, or in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from benchmarks.axes.axis import Column
from benchmarks.results import Measured, Results, Series
from benchmarks.targets import judge


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
    heading = next(column.heading for column in measured.columns if column.key == measured.headline)
    loops = any(series.subject.loop for series in measured.series)
    sizes = any(series.subject.size for series in measured.series)
    yield [
        *(["loop"] if loops else []),
        *(["in flight"] if sizes else []),
        "who",
        *(column.heading for column in measured.columns),
        f"{heading} / {measured.reference}",
    ]
    for series in measured.series:
        subject = series.subject
        yield [
            *([subject.loop] if loops else []),
            *([f"{subject.size:,}"] if sizes else []),
            subject.name,
            *(_cell(series, column) for column in measured.columns),
            _ratio(measured, series),
        ]


def show(results: Results, console: Console) -> None:
    """Print every table."""
    for measured in results.axes:
        headings, *body = rows(measured)
        table = Table(title=f"{measured.title}: medians (middle half of the rounds)", title_justify="left")
        for heading in headings:
            left = heading in ("loop", "who")
            table.add_column(heading, justify="left" if left else "right")
        for row in body:
            table.add_row(*row)
        console.print(table)
        for series in measured.series:
            if series.fault:
                console.print(f"{series.subject.name} {series.subject.loop}: {series.fault}")
    verdicts = list(judge(results))
    if verdicts:
        table = Table(title="Targets", title_justify="left")
        for heading in ("loop", "target", "measured", "bound", ""):
            table.add_column(heading)
        for verdict in verdicts:
            table.add_row(
                verdict.loop,
                verdict.text,
                verdict.measured,
                verdict.bound,
                "met" if verdict.met else "MISSED",
            )
        console.print(table)


def markdown(results: Results) -> str:
    """The same tables, to be pasted into a page."""
    parts = []
    for measured in results.axes:
        parts.append(f"### {measured.title}\n\n{_markdown_table(list(rows(measured)))}")
        parts += [
            f"{series.subject.name} on {series.subject.loop}: {series.fault}"
            for series in measured.series
            if series.fault
        ]
    verdicts = [
        [verdict.loop, verdict.text, verdict.measured, verdict.bound, "met" if verdict.met else "**missed**"]
        for verdict in judge(results)
    ]
    if verdicts:
        table = _markdown_table([["loop", "target", "measured", "bound", ""], *verdicts])
        parts.append(f"### Targets\n\n{table}")
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in table]
    lines.insert(1, f"|{' --- |' * len(table[0])}")
    return "\n".join(lines)
