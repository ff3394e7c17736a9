"""What the lock protects: a number behind a fence, in a SQLite file of its own.

A visitor enters with its fencing token before it reads, and so keeps out everyone with a lesser one; it
writes only if nobody has entered after it. Every visit is recorded, in order, in the transaction that
decides on it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .history import Visit

_TABLES = """
PRAGMA journal_mode = WAL;
CREATE TABLE number (fence INTEGER, value INTEGER);
INSERT INTO number VALUES (0, 0);
CREATE TABLE visits (position INTEGER PRIMARY KEY, worker INTEGER, token INTEGER, action TEXT, value INTEGER,
    accepted INTEGER);
"""


class Register:
    """A connection to the register in a folder."""

    def __init__(self, folder: Path, worker: int = 0) -> None:
        path = folder / "register.db"
        is_new = not path.exists()
        # Whoever is stopped in the midst of a transaction keeps the others waiting.
        self._database = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._database.execute("PRAGMA synchronous = OFF")
        self._worker = worker
        if is_new:
            self._database.executescript(_TABLES)

    def enter(self, token: int) -> int | None:
        """Raise the fence, and read the number; None for a visitor who comes too late."""
        accepted = self._visit("enter", token, 0, "UPDATE number SET fence = :token WHERE fence < :token")
        if not accepted:
            return None
        value: int = self._database.execute("SELECT value FROM number").fetchone()[0]
        return value

    def write(self, token: int, value: int) -> bool:
        """Store a number, unless somebody has entered since."""
        statement = "UPDATE number SET value = :value WHERE fence = :token"
        return self._visit("write", token, value, statement)

    def _visit(self, action: str, token: int, value: int, statement: str) -> bool:
        self._database.execute("BEGIN IMMEDIATE")
        accepted = self._database.execute(statement, {"token": token, "value": value}).rowcount == 1
        self._database.execute(
            "INSERT INTO visits (worker, token, action, value, accepted) VALUES (?, ?, ?, ?, ?)",
            (self._worker, token, action, value, accepted),
        )
        self._database.execute("COMMIT")
        return accepted

    def inside(self) -> int | None:
        """The process that has entered and not yet written: it holds the lock, or believes so."""
        query = "SELECT worker, action FROM visits WHERE accepted ORDER BY position DESC LIMIT 1"
        worker, action = self._database.execute(query).fetchone() or (None, None)
        return worker if action == "enter" else None

    def visits(self) -> list[Visit]:
        """Every visit, in order."""
        query = "SELECT token, action, value, accepted FROM visits ORDER BY position"
        return [
            Visit(token, action, value, bool(accepted))
            for token, action, value, accepted in self._database.execute(query)
        ]

    def close(self) -> None:
        """Close the connection."""
        self._database.close()
