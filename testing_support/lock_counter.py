"""Processes that count together under one lock, and whether they lost an update."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent


def count_together(
    kinds: Sequence[str], url: str, folder: Path, *, rounds: int, seconds: float, ttl: float = 300
) -> Counter[str]:
    """Let a process of each kind (see `lock_worker`) count; how often each kind has entered.

    Raises:
        AssertionError: an update was lost, two were in at one time, or a process failed.
    """
    (folder / "counter").write_text("0")
    limits = [str(rounds), str(seconds), str(ttl)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "testing_support.lock_worker", kind, url, str(folder), *limits], cwd=ROOT
        )
        for kind in kinds
    ]
    assert [worker.wait(seconds + 60) for worker in workers] == [0] * len(kinds)
    entries = _check_alternation(folder / "log")
    assert int((folder / "counter").read_text()) == entries.total(), "an update was lost"
    return entries


def _check_alternation(log: Path) -> Counter[str]:
    """Every entry is followed by the same one's exit; how often each kind has entered."""
    lines = log.read_text().splitlines()
    entries: Counter[str] = Counter()
    for enter, leave in zip(lines[::2], lines[1::2], strict=True):
        assert enter.startswith("enter "), f"{enter} after an exit"
        assert leave == enter.replace("enter", "leave"), f"{enter} and then {leave}"
        entries[enter.removeprefix("enter ").split("-")[0]] += 1
    return entries
