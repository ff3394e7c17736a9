"""Draws `lag.svg` from two runs of `load.py`: python plot.py OURS.json ORIGINALS.json [lag.svg]."""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot


def main(ours: str, originals: str, svg: str = str(Path(__file__).parent / "lag.svg")) -> None:
    """Draw."""
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lag", "font.size": 10})
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for file, color, name in (
        (originals, "tab:red", "the originals"),
        (ours, "tab:blue", "arbitrageai_native"),
    ):
        run = json.loads(Path(file).read_text())
        for number, worker in enumerate(run["lag"]):
            axes.plot(
                [moment for moment, _ in worker],
                [max(late, 0.05) for _, late in worker],
                color=color,
                linewidth=0.8,
                marker=".",
                markersize=2,
                label=f"{name}, worst {run['worst_lag_ms']:,.0f} ms" if number == 0 else None,
            )
    axes.set_yscale("log")
    axes.axhline(20, color="grey", linestyle=":", linewidth=0.8)
    axes.set(xlabel="seconds", ylabel="lag of the event loop, ms", title="100 requests in flight, 2 workers")
    axes.legend(loc="center right")
    figure.savefig(svg, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
