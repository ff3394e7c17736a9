"""Runs an axis: the subjects in turn, round after round, so that a change of the machine's mood meets all."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress

from benchmarks.axes.axis import Axis, Settings
from benchmarks.results import Measured


def measure(axis: Axis, settings: Settings, console: Console) -> Measured:
    """Measure every subject `settings.rounds` times. One that fails is left out of that round, and said."""
    measured = Measured.begin(axis, settings)
    rounds = min(settings.rounds, axis.most_rounds or settings.rounds)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(axis.title, total=rounds * len(measured.series))
        for _ in range(rounds):
            for series in measured.series:
                subject = series.subject
                progress.update(task, description=f"{axis.name}: {subject}")
                try:
                    series.rounds.append(axis.measure(subject, settings))
                except Exception as fault:  # a peer's failure is a figure, too: the others go on
                    series.rounds.append(None)
                    series.fault = str(fault)
                progress.advance(task)
    return measured
