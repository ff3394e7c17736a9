"""What the demo and its scanner processes say to each other, as lines of JSON.

Down a scanner's standard input: its `ScannerSettings`, then `GO` once every scanner is ready. The end of the
input means "stop". Up its standard output: `READY`, then a `Status` ten times a second and at the end, and a
`CallEnded` for each call of the model. The API key travels this way so that no process listing shows it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from arbitrageai_native.demo.postings import Posting

GO: Final = b"go\n"
READY: Final = "ready"


@dataclass(frozen=True)
class ScannerSettings:
    """All that a scanner process needs to know.

    The locks are in the database of `database_url`, the bids in the SQLite file at `bids_path`, which may be
    the same.
    """

    run_id: str
    postings: list[Posting]
    database_url: str
    bids_path: str
    base_url: str | None
    api_key: str | None = field(repr=False)
    model: str
    stealth_range: tuple[float, float]
    lock_ttl: float
    name: str = ""

    def encode(self) -> bytes:
        """Write the settings as a line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> ScannerSettings:
        """Read the settings from a line."""
        values: dict[str, Any] = json.loads(line)
        shortest, longest = values.pop("stealth_range")
        postings = [Posting(**posting) for posting in values.pop("postings")]
        return cls(postings=postings, stealth_range=(shortest, longest), **values)


@dataclass(frozen=True)
class Status:
    """Where a scanner stands. `lag_ms`: its loop's lag now; `worst_lag_ms`: the longest so far."""

    bids: int = 0
    conflicts: int = 0
    in_flight: int = 0
    lag_ms: float = 0.0
    worst_lag_ms: float = 0.0
    finished: bool = False


@dataclass(frozen=True)
class CallEnded:
    """A call of the model ended: with a bid, or with an error."""

    posting: int
    seconds: float
    price_dollars: int | None = None
    error: str | None = None


Event = Status | CallEnded


def encode_event(event: Event) -> bytes:
    """Write an event as a line."""
    return json.dumps({"event": type(event).__name__, **asdict(event)}).encode() + b"\n"


def decode_event(line: bytes) -> Event | None:
    """Read an event from a line; None for a line that is none."""
    try:
        values: dict[str, Any] = json.loads(line)
        kind = values.pop("event")
    except (ValueError, KeyError, AttributeError):
        return None
    made = {"Status": Status, "CallEnded": CallEnded}.get(kind)
    return None if made is None else made(**values)
