"""Charts of a run, in SVG. The same figures give the same file."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.results import Measured, Results

_OURS, _OTHERS = "#c2410c", "#64748b"
_LINES = ("#c2410c", "#2563eb", "#059669", "#7c3aed", "#64748b", "#d97706")


def draw(results: Results, directory: Path) -> None:
    """One file for each axis of the run."""
    directory.mkdir(parents=True, exist_ok=True)
    for measured in results.axes:
        sizes = any(series.subject.size for series in measured.series)
        figure = _curves(measured) if sizes else _bars(measured)
        with rc_context({"svg.hashsalt": "arbitrageai-native", "svg.fonttype": "none"}):
            figure.savefig(directory / f"{measured.name}.svg", metadata={"Date": None})


def _heading(measured: Measured) -> str:
    return next(column.heading for column in measured.columns if column.key == measured.headline)


def _bars(measured: Measured) -> Figure:
    """The headline of every subject, shortest first, one panel a loop."""
    loops = sorted({series.subject.loop for series in measured.series})
    rows = max(sum(s.subject.loop == loop for s in measured.series) for loop in loops)
    figure = Figure(figsize=(5 * len(loops) + 1, 0.34 * rows + 1.3), layout="constrained")
    axes = figure.subplots(1, len(loops), squeeze=False)
    for loop, panel in zip(loops, axes[0], strict=True):
        figures = [
            (median, series)
            for series in measured.series
            if series.subject.loop == loop and (median := series.median(measured.headline)) is not None
        ]
        figures.sort(key=lambda pair: -pair[0])
        names = [series.subject.name for _, series in figures]
        colours = [_OURS if name == measured.reference else _OTHERS for name in names]
        bars = panel.barh(names, [median for median, _ in figures], color=colours)
        panel.bar_label(
            bars, labels=[f" {median:,.3g}" if median < 100 else f" {median:,.0f}" for median, _ in figures]
        )
        panel.set_xscale("log")
        panel.margins(x=0.25)
        panel.set_xlabel(f"{_heading(measured)}, logarithmic")
        panel.set_title(loop)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(measured.title)
    return figure


def _curves(measured: Measured) -> Figure:
    """The headline against the size, one line a subject."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    panel = figure.subplots()
    names = dict.fromkeys(series.subject.name for series in measured.series)
    for name, colour in zip(names, _LINES, strict=False):
        points = [
            (series.subject.size, median)
            for series in measured.series
            if series.subject.name == name and (median := series.median(measured.headline)) is not None
        ]
        if points:
            panel.plot(*zip(*sorted(points), strict=True), marker="o", label=name, color=colour)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("at once")
    panel.set_ylabel(_heading(measured))
    panel.legend(frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title(measured.title)
    return figure
