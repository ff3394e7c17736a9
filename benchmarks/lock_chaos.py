"""Locks while everything goes wrong, for minutes: no two holders, and no stale write.

    python benchmarks/lock_chaos.py [--store sqlite|postgresql|redis] [--seconds 600] [--workers 8]

Workers increment a number under one lock. Meanwhile holders are killed, and stopped for longer than their
time to live; with PostgreSQL and Redis connections are cut, or go silent and deliver late what was sent
on them, and the server is restarted as after a crash. Then the history of all of them is checked: see
`testing_support/chaos/history.py`. The tests run the same for seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from testing_support.chaos.torment import FAULTS, run

TTL = 2.0


def main() -> None:
    """Torment, check, print."""
    parser = argparse.ArgumentParser(description="Locks while everything goes wrong.")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--store", choices=list(FAULTS), default="postgresql")
    parser.add_argument("--workers", type=int, default=8)
    arguments = parser.parse_args()
    outcome = asyncio.run(run(arguments.store, workers=arguments.workers, ttl=TTL, seconds=arguments.seconds))
    load = os.getloadavg()[0]
    print(f"{arguments.store}, {arguments.workers} workers, {arguments.seconds:.0f} s; load {load:.1f}")
    print(f"  faults: {', '.join(f'{count} x {fault}' for fault, count in outcome.faults.items())}")
    print(f"  {outcome.holds} holds, in the order of their tokens, never two at a time")
    print(f"  {outcome.handed_over} of them handed over in memory")
    print(f"  {outcome.died_holding} ended with their worker, {outcome.losses} losses were told")
    print(f"  {outcome.unanswered} acquisitions without an answer")
    print(f"  {outcome.writes} writes, none lost; {outcome.stale} stale visits turned away")
    print(f"  longest time between two acquisitions: {outcome.longest_gap:.1f} s")


if __name__ == "__main__":
    main()
