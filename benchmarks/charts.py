"""Charts of a run, in SVG. The same figures give the same file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.results import Measured, Results

_OURS, _OTHERS = "#c2410c", "#64748b"
_LINES = ("#c2410c", "#2563eb", "#059669", "#7c3aed", "#64748b", "#d97706")


def draw(results: Results, directory: Path) -> None:
    """One file for each axis of the run that compares something."""
    directory.mkdir(parents=True, exist_ok=True)
    for measured in results.axes:
        if any(series.subject.size for series in measured.series):
            figure = _curves(measured)
        elif measured.reference:
            figure = _bars(measured)
        else:
            continue
        with rc_context({"svg.hashsalt": "arbitrageai-native", "svg.fonttype": "none"}):
            figure.savefig(directory / f"{measured.name}.svg", metadata={"Date": None})


def _bars(measured: Measured) -> Figure:
    """The headline of every subject, longest last, one panel a loop and store."""
    panels: dict[str, list[tuple[float, str]]] = {}
    for series in measured.series:
        subject = series.subject
        bars = panels.setdefault(" ".join(filter(None, (subject.store, subject.loop))), [])
        median = series.median(measured.headline)
        if median is not None:
            bars.append((median, subject.name))
    rows = max(len(bars) for bars in panels.values())
    figure = Figure(figsize=(5 * len(panels) + 1, 0.34 * rows + 1.3), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for (title, bars), panel in zip(panels.items(), axes[0], strict=True):
        bars.sort(key=lambda bar: -bar[0])
        medians = [median for median, _ in bars]
        names = [name for _, name in bars]
        colours = [_OURS if name == measured.reference else _OTHERS for name in names]
        drawn = panel.barh(names, medians, color=colours)
        panel.bar_label(
            drawn, labels=[f" {median:,.3g}" if median < 100 else f" {median:,.0f}" for median in medians]
        )
        panel.set_xscale("log")
        panel.margins(x=0.25)
        panel.set_xlabel(f"{measured.headline_heading}, logarithmic")
        panel.set_title(title)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(measured.title)
    return figure


def _curves(measured: Measured) -> Figure:
    """The headline against the size, one line a subject."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    panel = figure.subplots()
    lines: dict[str, list[tuple[int, float]]] = {}
    for series in measured.series:
        median = series.median(measured.headline)
        if median is not None:
            points = lines.setdefault(str(replace(series.subject, size=0, loop="")), [])
            points.append((series.subject.size, median))
    for (name, points), colour in zip(lines.items(), _LINES, strict=False):
        panel.plot(*zip(*sorted(points), strict=True), marker="o", label=name, color=colour)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel(measured.size)
    panel.set_ylabel(measured.headline_heading)
    panel.legend(frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title(measured.title)
    return figure
