"""What is known of a run while it goes on, and what came of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from arbitrageai_native.demo.messages import CallEnded, Status
from arbitrageai_native.demo.postings import Posting

RECENT_BIDS: Final = 6


@dataclass
class ScannerProgress:
    """One scanner, as last heard of. `ended` says how its process ended, if it did so too early."""

    name: str
    status: Status = field(default_factory=Status)
    ended: str | None = None


@dataclass
class Progress:
    """A run as it stands."""

    postings: Sequence[Posting]
    scanners: list[ScannerProgress]
    model_server: str
    started: float = field(default_factory=time.perf_counter)
    bids: int = 0
    one_at_a_time_seconds: float = 0.0
    recent: deque[tuple[ScannerProgress, CallEnded]] = field(
        default_factory=lambda: deque(maxlen=RECENT_BIDS)
    )
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return time.perf_counter() - self.started

    def call_ended(self, scanner: ScannerProgress, call: CallEnded) -> None:
        """Count a call in: with a bid or with an error."""
        self.one_at_a_time_seconds += call.seconds
        if call.error is None:
            self.bids += 1
            self.recent.append((scanner, call))
        else:
            self.errors[call.error] = self.errors.get(call.error, 0) + 1


@dataclass(frozen=True)
class Outcome:
    """What came of a run: the table of bids, counted, and what was measured.

    `one_at_a_time_seconds` is the sum of what the run's calls of the model took, each measured where it was
    made.
    """

    postings: int
    bids: int
    missing: list[str]
    duplicates: list[str]
    conflicts: int
    seconds: float
    one_at_a_time_seconds: float
    worst_stall_ms: float

    @property
    def is_right(self) -> bool:
        """Whether every posting was bid on exactly once."""
        return not self.missing and not self.duplicates

    @classmethod
    def of(cls, progress: Progress, bids_by_posting: Sequence[int], seconds: float) -> Outcome:
        """Draw the sum of a finished run."""
        counted = list(zip(progress.postings, bids_by_posting, strict=True))
        statuses = [scanner.status for scanner in progress.scanners]
        return cls(
            postings=len(counted),
            bids=sum(bids_by_posting),
            missing=[posting.key for posting, bids in counted if bids == 0],
            duplicates=[posting.key for posting, bids in counted if bids > 1],
            conflicts=sum(status.conflicts for status in statuses),
            seconds=seconds,
            one_at_a_time_seconds=progress.one_at_a_time_seconds,
            worst_stall_ms=max((status.worst_lag_ms for status in statuses), default=0.0),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as `--json` prints it."""
        figures = {name: value for name, value in asdict(self).items() if name != "conflicts"}
        return {name: round(value, 3) if type(value) is float else value for name, value in figures.items()}
