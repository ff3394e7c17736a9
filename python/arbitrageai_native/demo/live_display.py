"""The live display of a run on a terminal; it needs rich, the extra `cli`."""

from __future__ import annotations

from typing import Final

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from arbitrageai_native._safe_text import printable
from arbitrageai_native.demo import display
from arbitrageai_native.demo.progress import Outcome, Progress

# A stall above the first is worth a look, above the second it is a fault.
LAG_MS_TO_NOTICE: Final = 20.0
LAG_MS_TO_WORRY: Final = 100.0


class LiveDisplay(display.Display):
    """Redraws a table of the scanners, a progress bar and the latest bids in place."""

    def __init__(self) -> None:
        self._console = Console()
        self._live: Live | None = None
        self._bar = ProgressBar(
            TextColumn("bids"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            expand=True,
        )

    def begin(self, progress: Progress) -> None:
        """Take over the lower part of the terminal."""
        super().begin(progress)
        self._task = self._bar.add_task("bids", total=len(progress.postings))
        self._live = Live(self.draw(), console=self._console, auto_refresh=False)
        self._live.start()

    def refresh(self) -> None:
        """Redraw."""
        if self._live is not None:
            self._live.update(self.draw(), refresh=True)

    def end(self) -> None:
        """Draw the last state and give the terminal back."""
        if self._live is not None:
            self.refresh()
            self._live.stop()
            self._live = None
            for line in display.error_lines(self.progress):
                self._console.print(Text(line, style="red"))

    def show_outcome(self, outcome: Outcome) -> None:
        """Print a row for each figure, and in a sentence whether all is right."""
        table = Table(box=ROUNDED, show_header=False, title="Result", title_justify="left")
        table.add_column()
        table.add_column(justify="right")
        for name, value in display.figures(outcome):
            table.add_row(name, value)
        self._console.print(table)
        style = "bold green" if outcome.is_right else "bold red"
        for sentence in display.verdict(outcome):
            self._console.print(Text(sentence, style), soft_wrap=True)

    def draw(self) -> RenderableType:
        """Draw the state as it is now."""
        self._bar.update(self._task, completed=self.progress.bids)
        return Group(
            Text(display.heading(self.progress), style="bold"),
            scanner_table(self.progress),
            self._bar,
            recent_table(self.progress),
        )


def scanner_table(progress: Progress) -> Table:
    """Draw a row for each scanner."""
    table = Table(box=ROUNDED, expand=True)
    table.add_column("scanner", no_wrap=True)
    for title in ("bids placed", "conflicts", "calls in flight", "loop lag now", "worst"):
        table.add_column(title, justify="right")
    for scanner in progress.scanners:
        status = scanner.status
        name = Text(scanner.name)
        if scanner.ended is not None:
            name.append(f" {printable(scanner.ended)}", style="red")
        elif status.finished:
            name.append(" done", style="green")
        table.add_row(
            name,
            str(status.bids),
            str(status.conflicts),
            str(status.in_flight),
            lag_text(status.lag_ms),
            lag_text(status.worst_lag_ms),
        )
    return table


def recent_table(progress: Progress) -> Table:
    """Draw the latest bids."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    # On a narrow terminal, rich shortens columns that may wrap first. Only the title may wrap.
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right", style="green", no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for scanner, call in progress.recent:
        posting = progress.postings[call.posting]
        table.add_row(
            scanner.name,
            display.price_text(call),
            Text(display.shortened(printable(posting.key), 24)),
            Text(display.title_of(posting.title), no_wrap=True, overflow="ellipsis"),
        )
    return table


def lag_text(lag: float) -> Text:
    """Show a lag in milliseconds in a colour that says what to think of it."""
    style = "green" if lag < LAG_MS_TO_NOTICE else "yellow" if lag < LAG_MS_TO_WORRY else "bold red"
    return Text(f"{lag:.1f} ms", style=style)
