"""The examples run as they are, and show what they say."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name: str) -> list[str]:
    # By itself, an example asks a server of its own.
    environment = {name: value for name, value in os.environ.items() if name != "BASE_URL"}
    command = [sys.executable, str(EXAMPLES / name)]
    completed = subprocess.run(
        command, capture_output=True, text=True, timeout=110, check=False, env=environment
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    return completed.stdout.splitlines()


def test_quickstart_llm() -> None:
    *answers, summary = run_example("quickstart_llm.py")
    assert answers == [f"Write a one-line proposal for: Job posting {number}" for number in range(1, 11)]
    seconds, added_up, ticks = [
        float(word.strip("(")) for word in summary.split() if word.strip("(").replace(".", "").isdigit()
    ][1:]
    assert seconds < added_up / 2
    assert ticks > 20


def test_quickstart_lock() -> None:
    placed, refused, counted = run_example("quickstart_lock.py")
    assert "bid placed; the lock is held: True, fencing token " in placed
    assert refused.endswith("has bid already")
    assert counted == "2 locks taken, 1 found held"
