"""Draws two runs of `load.py`: python plot.py OURS.json ORIGINALS.json [lag.svg [NAME OTHER-NAME TITLE]]."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

SECONDS = 0.5
# A logarithmic axis has no zero.
LEAST_MS = 0.1


def worst_of_each(seconds: float, lag: list[list[float]]) -> tuple[list[float], list[float]]:
    """The worst lag of each so many seconds: (moments, lags)."""
    worst: dict[float, float] = {}
    for moment, late in lag:
        beginning = moment // seconds * seconds
        worst[beginning] = max(worst.get(beginning, LEAST_MS), late)
    return list(worst), list(worst.values())


def main(
    ours: str,
    originals: str,
    svg: str = str(Path(__file__).parent / "lag.svg"),
    name: str = "arbitrageai_native",
    other: str = "the originals",
    title: str = "100 requests in flight, 2 workers",
) -> None:
    """Draw."""
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lag", "font.size": 10})
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    runs = ((originals, "tab:red", other), (ours, "tab:blue", name))
    for file, color, label_of_run in runs:
        run = json.loads(Path(file).read_text())
        label: str | None = f"{label_of_run}, worst {run['worst_lag_ms']:,.0f} ms"
        for worker in run["lag"]:
            moments, lags = worst_of_each(SECONDS, worker)
            axes.plot(moments, lags, color=color, linewidth=1, marker=".", markersize=3, label=label)
            label = None
    axes.set_yscale("log")
    axes.axhline(20, color="grey", linestyle=":", linewidth=0.8)
    axes.set(xlabel="seconds", ylabel="lag of the event loop, ms", title=title)
    axes.legend(loc="center right")
    figure.savefig(svg, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
