"""How a run is shown where there is no live display: as plain lines, or as JSON.

Control characters in text from a postings file or a server are escaped, because they could control the
terminal.
"""

from __future__ import annotations

import json
import sys
from typing import Final

from arbitrageai_native._safe_text import printable
from arbitrageai_native.demo.messages import CallEnded
from arbitrageai_native.demo.progress import Outcome, Progress, ScannerProgress

LONGEST_TITLE: Final = 48
MOST_KEYS_NAMED: Final = 10
MOST_ERRORS_NAMED: Final = 5


class Display:
    """What a run tells whoever shows it, in this order: `begin`, the events, `end`, `show_outcome`."""

    progress: Progress

    def begin(self, progress: Progress) -> None:
        """Show that the scanners are ready and begin."""
        self.progress = progress

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


class JsonDisplay(Display):
    """Prints the outcome as a JSON object; what goes wrong before is told on standard error."""

    def scanner_ended(self, scanner: ScannerProgress) -> None:
        """Say it if a process ended early."""
        if scanner.ended is not None:
            print(f"{scanner.name} {printable(scanner.ended)}", file=sys.stderr)

    def end(self) -> None:
        """Name the errors."""
        for line in error_lines(self.progress):
            print(line, file=sys.stderr)

    def show_outcome(self, outcome: Outcome) -> None:
        """Print the JSON."""
        print(json.dumps(outcome.as_dict()), flush=True)


class PlainDisplay(Display):
    """Prints a line for each event, for logs and pipes."""

    def begin(self, progress: Progress) -> None:
        """Say what is about to happen."""
        super().begin(progress)
        print(heading(progress), flush=True)

    def call_ended(self, scanner: ScannerProgress, call: CallEnded) -> None:
        """Print a bid or an error."""
        posting = self.progress.postings[call.posting]
        key = printable(posting.key)
        if call.error is not None:
            self._print(scanner, f"no bid on {key}: {printable(call.error)}")
        else:
            what = f"bid {price_text(call)} on {key} {title_of(posting.title)!r}"
            self._print(scanner, f"{what} ({call.seconds:.2f} s)")

    def scanner_ended(self, scanner: ScannerProgress) -> None:
        """Print a scanner's sum."""
        status = scanner.status
        what = f"{printable(scanner.ended)}; " if scanner.ended is not None else "has seen every posting: "
        counts = f"{status.bids} bids, {status.conflicts} conflicts"
        self._print(scanner, f"{what}{counts}, worst stall {status.worst_lag_ms:.1f} ms")

    def show_outcome(self, outcome: Outcome) -> None:
        """Print a line for each figure."""
        for name, value in figures(outcome):
            print(f"{name:<34} {value}")
        for sentence in verdict(outcome):
            print(sentence)

    def _print(self, scanner: ScannerProgress, what: str) -> None:
        print(f"[{self.progress.seconds:6.2f} s] {scanner.name} {what}", flush=True)


def figures(outcome: Outcome) -> list[tuple[str, str]]:
    """What was counted and measured: (name, value)."""
    once = outcome.postings - len(outcome.missing) - len(outcome.duplicates)
    one_at_a_time = f"{outcome.one_at_a_time_seconds:.2f} s"
    if outcome.seconds > 0:
        one_at_a_time += f" ({outcome.one_at_a_time_seconds / outcome.seconds:.1f} times as long)"
    return [
        ("postings", str(outcome.postings)),
        ("bid on exactly once", str(once)),
        ("without a bid", str(len(outcome.missing))),
        ("bid on more than once", str(len(outcome.duplicates))),
        ("locks found held by another", str(outcome.conflicts)),
        ("total time", f"{outcome.seconds:.2f} s"),
        ("the same calls one at a time (sum)", one_at_a_time),
        ("worst stall of an event loop", f"{outcome.worst_stall_ms:.1f} ms"),
    ]


def verdict(outcome: Outcome) -> list[str]:
    """Say that all is right, or name the first few postings of each kind that should not be."""
    if outcome.is_right:
        return ["Every posting was bid on exactly once."]
    kinds = ((outcome.missing, "Without a bid"), (outcome.duplicates, "Bid on more than once"))
    return [f"{what}: {key_list(keys)}" for keys, what in kinds if keys]


def heading(progress: Progress) -> str:
    """Say what takes part in the run."""
    postings, scanners = len(progress.postings), len(progress.scanners)
    return (
        f"{postings} posting{'s' * (postings != 1)}, {scanners} scanner process{'es' * (scanners != 1)}, "
        f"model server {printable(progress.model_server)}"
    )


def error_lines(progress: Progress) -> list[str]:
    """Name the errors of calls, the most frequent first."""
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


def price_text(call: CallEnded) -> str:
    """Show a price."""
    return f"${call.price_dollars:,}" if call.price_dollars is not None else "no price"


def title_of(title: str) -> str:
    """Show a posting's title in the space there is."""
    return shortened(printable(title), LONGEST_TITLE)


def shortened(text: str, longest: int) -> str:
    """Cut a text that is too long, visibly."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
