"""How a run is shown: live on a terminal, as plain lines elsewhere, or not at all.

Control characters in text from a postings file or a server are escaped, because they could control the
terminal.
"""

from __future__ import annotations

import sys
from typing import Final, Protocol

from rich.box import ASCII, ROUNDED
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from arbitrageai_native._safe_text import printable
from arbitrageai_native.demo.messages import CallEnded
from arbitrageai_native.demo.progress import Outcome, Progress, ScannerProgress

LONGEST_TITLE: Final = 48
MOST_KEYS_NAMED: Final = 10
MOST_ERRORS_NAMED: Final = 5
# A stall above the first is worth a look, above the second it is a fault.
LAG_MS_TO_NOTICE: Final = 20.0
LAG_MS_TO_WORRY: Final = 100.0


class OutputConsole(Console):
    """A console that tells its caller when nobody reads any more; rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Let the error through."""
        raise BrokenPipeError


class Display(Protocol):
    """What a run tells whoever shows it, in this order: `begin`, the events, `end`, `show_outcome`."""

    def begin(self, progress: Progress) -> None:
        """Show that the scanners are ready and begin."""

    def call_ended(self, scanner: ScannerProgress, call: CallEnded) -> None:
        """Show that a call of the model ended, with a bid or an error."""

    def scanner_ended(self, scanner: ScannerProgress) -> None:
        """Show that a scanner has done its work, or that its process ended before."""

    def refresh(self) -> None:
        """Show the state as it is now; called several times a second."""

    def end(self) -> None:
        """Give the terminal back: the run is over, or was broken off."""

    def show_outcome(self, outcome: Outcome) -> None:
        """Show what came of the run."""


class SilentDisplay:
    """Shows nothing but what went wrong, on standard error: standard output is for the JSON."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def begin(self, progress: Progress) -> None:
        """Remember what to look at in the end."""
        self._progress = progress

    def call_ended(self, scanner: ScannerProgress, call: CallEnded) -> None:
        """Show nothing."""

    def scanner_ended(self, scanner: ScannerProgress) -> None:
        """Say it if a process ended early."""
        if scanner.ended is not None:
            print(f"{scanner.name} {printable(scanner.ended)}", file=sys.stderr)

    def refresh(self) -> None:
        """Show nothing."""

    def end(self) -> None:
        """Name the errors."""
        for line in error_lines(self._progress):
            print(line, file=sys.stderr)

    def show_outcome(self, outcome: Outcome) -> None:
        """Show nothing: the JSON says it."""


class PlainDisplay:
    """Prints a line for each event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    def begin(self, progress: Progress) -> None:
        """Say what is about to happen."""
        self._progress = progress
        self._print(heading(progress))

    def call_ended(self, scanner: ScannerProgress, call: CallEnded) -> None:
        """Print a bid or an error."""
        assert self._progress is not None
        posting = self._progress.postings[call.posting]
        key = printable(posting.key)
        if call.error is not None:
            self._print(f"{self._time()} {scanner.name} no bid on {key}: {printable(call.error)}")
        else:
            what = f"bid {price_text(call)} on {key} {title_of(posting.title)!r}"
            self._print(f"{self._time()} {scanner.name} {what} ({call.seconds:.2f} s)")

    def scanner_ended(self, scanner: ScannerProgress) -> None:
        """Print a scanner's sum."""
        status = scanner.status
        what = f"{printable(scanner.ended)}; " if scanner.ended is not None else "has seen every posting: "
        self._print(
            f"{self._time()} {scanner.name} {what}{status.bids} bids, {status.conflicts} conflicts, "
            f"worst stall {status.worst_lag_ms:.1f} ms"
        )

    def refresh(self) -> None:
        """Print nothing."""

    def end(self) -> None:
        """Print nothing."""

    def show_outcome(self, outcome: Outcome) -> None:
        """Print the table."""
        show_outcome(self._console, outcome)

    def _time(self) -> str:
        assert self._progress is not None
        return f"[{self._progress.seconds:6.2f} s]"

    def _print(self, line: str) -> None:
        self._console.out(line, highlight=False)
        self._console.file.flush()


class LiveDisplay:
    """Redraws a table of the scanners, a progress bar and the latest bids in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._live: Live | None = None
        self._bar = ProgressBar(
            TextColumn("bids"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            expand=True,
        )
        self._task: TaskID | None = None

    def begin(self, progress: Progress) -> None:
        """Take over the lower part of the terminal."""
        self._progress = progress
        self._task = self._bar.add_task("bids", total=len(progress.postings))
        self._live = Live(self.draw(), console=self._console, auto_refresh=False)
        self._live.start()

    def call_ended(self, scanner: ScannerProgress, call: CallEnded) -> None:
        """Wait for the next refresh."""

    def scanner_ended(self, scanner: ScannerProgress) -> None:
        """Wait for the next refresh."""

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
            for line in error_lines(self._progress):
                self._console.print(Text(line, style="red"))

    def show_outcome(self, outcome: Outcome) -> None:
        """Print the table."""
        show_outcome(self._console, outcome)

    def draw(self) -> RenderableType:
        """Draw the state as it is now."""
        assert self._progress is not None
        assert self._task is not None
        self._bar.update(self._task, completed=self._progress.bids)
        return Group(
            Text(heading(self._progress), style="bold"),
            scanner_table(self._progress),
            self._bar,
            recent_table(self._progress),
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
            price_text(call),
            Text(shortened(printable(posting.key), 24)),
            Text(title_of(posting.title), no_wrap=True, overflow="ellipsis"),
        )
    return table


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Print the table at the end, and in a sentence whether all is right."""
    table = Table(
        box=ROUNDED if console.is_terminal else ASCII, show_header=False, title="Result", title_justify="left"
    )
    table.add_column()
    table.add_column(justify="right")
    once = outcome.postings - len(outcome.missing) - len(outcome.duplicates)
    faster = (
        f" ({outcome.one_at_a_time_seconds / outcome.seconds:.1f} times as long)"
        if outcome.seconds > 0
        else ""
    )
    for name, value in (
        ("postings", str(outcome.postings)),
        ("bid on exactly once", str(once)),
        ("without a bid", str(len(outcome.missing))),
        ("bid on more than once", str(len(outcome.duplicates))),
        ("locks found held by another", str(outcome.conflicts)),
        ("total time", f"{outcome.seconds:.2f} s"),
        ("the same calls one at a time (sum)", f"{outcome.one_at_a_time_seconds:.2f} s{faster}"),
        ("worst stall of an event loop", f"{outcome.worst_stall_ms:.1f} ms"),
    ):
        table.add_row(name, value)
    console.print(table)
    if outcome.is_right:
        console.print(Text("Every posting was bid on exactly once.", style="bold green"))
    for keys, what in ((outcome.missing, "Without a bid"), (outcome.duplicates, "Bid on more than once")):
        if keys:
            console.print(Text(f"{what}: {key_list(keys)}", style="bold red"), soft_wrap=True)


def heading(progress: Progress) -> str:
    """Say what takes part in the run."""
    postings, scanners = len(progress.postings), len(progress.scanners)
    return (
        f"{postings} posting{'s' * (postings != 1)}, {scanners} scanner process{'es' * (scanners != 1)}, "
        f"model server {printable(progress.model_server)}"
    )


def error_lines(progress: Progress | None) -> list[str]:
    """Name the errors of calls, the most frequent first."""
    if progress is None or not progress.errors:
        return []
    counted = sorted(progress.errors.items(), key=lambda item: -item[1])
    lines = [
        f"{count} call{'s' * (count != 1)} failed: {printable(text)}"
        for text, count in counted[:MOST_ERRORS_NAMED]
    ]
    if len(counted) > MOST_ERRORS_NAMED:
        lines.append(f"and {len(counted) - MOST_ERRORS_NAMED} other errors")
    return lines


def key_list(keys: list[str]) -> str:
    """Name the first few postings."""
    more = f" and {len(keys) - MOST_KEYS_NAMED} more" if len(keys) > MOST_KEYS_NAMED else ""
    return ", ".join(printable(key) for key in keys[:MOST_KEYS_NAMED]) + more


def lag_text(milliseconds: float) -> Text:
    """Show a lag in a colour that says what to think of it."""
    style = (
        "green"
        if milliseconds < LAG_MS_TO_NOTICE
        else "yellow"
        if milliseconds < LAG_MS_TO_WORRY
        else "bold red"
    )
    return Text(f"{milliseconds:.1f} ms", style=style)


def price_text(call: CallEnded) -> str:
    """Show a price."""
    return f"${call.price_dollars:,}" if call.price_dollars is not None else "no price"


def title_of(title: str) -> str:
    """Show a posting's title in the space there is."""
    return shortened(printable(title), LONGEST_TITLE)


def shortened(text: str, longest: int) -> str:
    """Cut a text that is too long, visibly."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
