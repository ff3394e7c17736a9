"""The chart of a soak, in SVG. The same samples give the same file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.soaking.samples import Sample, columns
from benchmarks.soaking.verdict import memory_line, warm

_INK, _GREY = "#c2410c", "#64748b"
_LINES = ("#2563eb", "#059669", "#7c3aed", "#64748b")


def draw(samples: Sequence[Sample], path: Path) -> None:
    """Memory above, what is open and under way below."""
    values = columns(samples)
    minutes = [seconds / 60 for seconds in values["seconds"]]
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    memory, counts = figure.subplots(2, 1, sharex=True)
    memory.plot(minutes, [kilobytes / 1024 for kilobytes in values["resident_kb"]], color=_INK, linewidth=0.8)
    line, fitted = memory_line(warm(samples)), [sample.seconds / 60 for sample in warm(samples)]
    memory.plot(
        fitted,
        [line.intercept + line.slope * minute / 60 for minute in fitted],
        color=_GREY,
        linestyle="--",
        label=f"{line.slope:+.2f} ± {line.slope_error:.2f} MB/h",
    )
    memory.set_ylim(bottom=0)
    memory.set_ylabel("resident memory, MB")
    memory.legend(frameon=False, loc="lower right")
    shown = ("descriptors", "threads", "requests", "native_calls")
    for name, colour in zip(shown, _LINES, strict=True):
        counts.plot(minutes, values[name], color=colour, linewidth=0.8, label=name.replace("_", " "))
    counts.set_ylim(bottom=0)
    counts.set_xlabel("minutes")
    counts.legend(frameon=False, ncols=len(shown), loc="upper center", bbox_to_anchor=(0.5, 1.2))
    for panel in (memory, counts):
        panel.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "arbitrageai-native", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
