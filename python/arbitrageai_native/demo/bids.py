"""The demo application's own table of bids.

It stands for what an application keeps beside the locks: plain synchronous `sqlite3`, called in worker
threads. It has no unique constraint on purpose: nothing but the lock keeps two scanners from bidding on one
posting, and if both do, both rows are there to be counted. Runs are told apart by their id, so that a
database can be used again.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from arbitrageai_native.cli.main import BadInputError
from arbitrageai_native.demo.postings import Posting

SECONDS_TO_WAIT_FOR_OTHER_WRITERS: Final = 30.0
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS demo_bids (
    run_id TEXT NOT NULL,
    marketplace TEXT NOT NULL,
    posting_id TEXT NOT NULL,
    price_dollars INTEGER,
    proposal TEXT NOT NULL,
    scanner TEXT NOT NULL,
    fencing_token INTEGER NOT NULL,
    placed_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS demo_bids_by_posting ON demo_bids (run_id, marketplace, posting_id);
"""


class Bid(NamedTuple):
    """An offer for a posting, in the order of the table's columns. No `price_dollars`: none was named."""

    posting: Posting
    price_dollars: int | None
    proposal: str
    scanner: str
    fencing_token: int


class BidTable:
    """The bids of one run. Every method waits for the database: call it off the event loop."""

    def __init__(self, path: Path, run_id: str) -> None:
        self._run_id = run_id
        # One connection, used by worker threads one at a time.
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(
            path, timeout=SECONDS_TO_WAIT_FOR_OTHER_WRITERS, isolation_level=None, check_same_thread=False
        )

    @classmethod
    def create(cls, path: Path, run_id: str) -> BidTable:
        """Make the table unless it is there."""
        bids = cls(path, run_id)
        try:
            bids._connection.executescript(SCHEMA)
        except BaseException:
            bids.close()
            raise
        return bids

    def has_bid(self, posting: Posting) -> bool:
        """Say whether this run has bid on the posting."""
        statement = "SELECT 1 FROM demo_bids WHERE run_id = ? AND marketplace = ? AND posting_id = ? LIMIT 1"
        with self._lock:
            cursor = self._connection.execute(statement, (self._run_id, posting.marketplace, posting.id))
            return cursor.fetchone() is not None

    def place(self, bid: Bid) -> None:
        """Record a bid."""
        posting, *others = bid
        row = (self._run_id, posting.marketplace, posting.id, *others, time.time())
        with self._lock:
            self._connection.execute("INSERT INTO demo_bids VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def count_by_posting(self, postings: Sequence[Posting]) -> list[int]:
        """Count this run's bids on each posting."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT marketplace, posting_id, COUNT(*) FROM demo_bids WHERE run_id = ? GROUP BY 1, 2",
                (self._run_id,),
            ).fetchall()
        counts = {(marketplace, posting_id): count for marketplace, posting_id, count in rows}
        return [counts.get((posting.marketplace, posting.id), 0) for posting in postings]

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._connection.close()


def database_path(url: str) -> Path | None:
    """Return the file that a database URL in SQLAlchemy's form names; None if it names a PostgreSQL database.

    Raises:
        BadInputError: it names neither.
    """
    scheme, separator, rest = url.partition("://")
    engine = scheme.partition("+")[0].lower()
    if not separator:
        raise BadInputError(f"--database-url: {url!r} is not a database URL, such as sqlite:///bids.db")
    if engine in ("postgresql", "postgres"):
        return None
    if engine != "sqlite":
        raise BadInputError(f"--database-url: scheme {scheme!r} is not supported; sqlite and postgresql are")
    host, slash, path = rest.partition("?")[0].partition("/")
    if host:
        raise BadInputError(
            f"--database-url: {url!r} needs a third slash before a path: sqlite:///{host}{slash}{path}"
        )
    if path in ("", ":memory:"):
        raise BadInputError("--database-url: a database in memory is private to one process; give it a file")
    return Path(path)


def bids_path_for(locks: Path | None, temporary: Path) -> Path:
    """Say in which SQLite file the bids go: that of the locks if there is one, else a temporary one."""
    if locks is None:
        return temporary
    if sys.platform == "linux":
        return locks
    # Elsewhere Python's SQLite and the package's own, in one process, are no safe neighbours in one file.
    return locks.with_name(f"{locks.stem}-bids{locks.suffix}")


def prepare_database(path: Path, run_id: str) -> BidTable:
    """Open the database and make the table of bids.

    Raises:
        BadInputError: the folder or the file cannot be used; the message says why.
    """
    complaint = _complaint(path)
    if complaint is None:
        try:
            return BidTable.create(path, run_id)
        except (sqlite3.Error, ValueError) as error:
            complaint = f"{path} cannot be used as a database: {error}"
    raise BadInputError(f"--database-url: {complaint}")


def _complaint(path: Path) -> str | None:
    try:
        folder = path.parent
        if not folder.exists():
            return f"folder {folder} does not exist"
        if not folder.is_dir():
            return f"{folder} is not a folder"
        if path.is_dir():
            return f"{path} is a folder, not a file"
        # SQLite keeps its journal beside the file, so the folder must be writable too.
        for place, kind in ((folder, "folder"), (path, "file")):
            if place.exists() and not _is_writable(place):
                return f"{kind} {place} is read-only"
    except (OSError, ValueError) as error:
        return f"{str(path)!r}: {getattr(error, 'strerror', None) or error}"
    return None


def _is_writable(place: Path) -> bool:
    # The superuser may write where the permission bits forbid it to everyone; the demo does as they say.
    return os.access(place, os.W_OK) and bool(place.stat().st_mode & 0o222)
