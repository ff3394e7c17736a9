"""Interpreter exits with a hundred calls in flight each: exit status kept, nothing on stderr, no waiting.

    python benchmarks/exits.py [--exits 200]

The same scenarios as `tests/bridge/test_exit.py`, in turn. Prints one line, and exits with 1 if any exit
went wrong.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from testing_support.exits import WAYS_TO_END, end, exit_status


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--exits", type=int, default=200)
    options = parser.parse_args()

    slowest, faults = 0.0, []
    for way in itertools.islice(itertools.cycle(WAYS_TO_END), options.exits):
        started = time.perf_counter()
        ended = end(way)
        slowest = max(slowest, time.perf_counter() - started)
        if ended.stderr or ended.returncode != exit_status(way):
            faults.append(f"{way}: exit status {ended.returncode}, stderr {ended.stderr!r}")
    print(f"{options.exits} exits, {len(faults)} faults, slowest {slowest:.2f} s from start to end")
    print("\n".join(faults), end="")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
