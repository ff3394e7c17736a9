"""Runs the demo as a user does: as a process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "arbitrageai_native", "demo")
QUICK = ("--stealth-range", "0", "0.05")
ALONE = (*QUICK, "--scanners", "1")  # where it is not the subject that there are several
SECONDS_TO_END = 110

POSTINGS = [
    {
        "marketplace": f"market-{number % 2}",
        "id": str(number),
        "title": f"Job {number}",
        "description": "Do it.",
    }
    for number in range(12)
]


def run_demo(
    *options: str, environment: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run the demo to its end."""
    return subprocess.run(
        [*COMMAND, *options],
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_END,
        check=False,
        env={**os.environ, **(environment or {})},
    )


def write_postings(folder: Path, postings: object = POSTINGS) -> Path:
    """Write a postings file."""
    path = folder / "postings.json"
    path.write_text(json.dumps(postings), encoding="utf-8")
    return path


def outcome_of(completed: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Read what `--json` printed."""
    outcome: dict[str, Any] = json.loads(completed.stdout)
    return outcome


def processes_with(marker: str) -> list[str]:
    """Return the command lines and environments of the processes that mention `marker`, this one left out."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                text = (folder / "cmdline").read_bytes() + b"\0\0" + (folder / "environ").read_bytes()
            except OSError:
                continue
            if marker.encode() in text:
                found.append(text.replace(b"\0", b" ").decode(errors="replace"))
    return found


def last_frame(output: bytes) -> str:
    """Strip a terminal's escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode(errors="replace")).replace("\r", "")


def wait_for_exit(process: "subprocess.Popen[Any]", seconds: float = 20) -> int:
    """Wait for a process, and fail if it hangs."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def scanner_processes(parent: int) -> Sequence[int]:
    """Return the ids of the demo's scanner processes."""
    children = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == parent and b"demo.scanner" in command:
                children.append(int(folder.name))
    return children
