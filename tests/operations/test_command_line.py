"""Output that can't be written, or that nobody reads: no command ends with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = {
    "--help": 0,
    "--version": 0,
    "locks": 0,
    "locks --help": 0,
    "locks list --json": 0,
    "locks cleanup": 0,
    "audit --json .": 0,
    "audit .": 0,
    "doctor --json": None,  # whether anything is wrong depends on the machine
    "demo --help": 0,
    "run -- true": 0,
}
PRINTING = [command for command in COMMANDS if command != "run -- true"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a module, and a database that has a lock."""
    (tmp_path / "module.py").write_text("import time\n\nasync def f():\n    time.sleep(1)\n")
    url = f"sqlite:///{tmp_path}/locks.db"
    program = (
        "import asyncio, sys, os; from arbitrageai_native import BidLockManager\n"
        "assert asyncio.run(BidLockManager(database_url=sys.argv[1]).acquire_lock('m', 'p')); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, url], check=True)
    return tmp_path


def run(
    folder: Path, command: str, redirection: str = "", output: int = subprocess.PIPE, unbuffered: str = ""
) -> tuple[int, str]:
    """Run a command in a shell; return its exit status, and what it printed on standard error."""
    environment = {
        **os.environ,
        "DATABASE_URL": f"sqlite:///{folder}/locks.db",
        "PYTHONUNBUFFERED": unbuffered,
    }
    line = f"exec '{sys.executable}' -m arbitrageai_native {command} {redirection}"
    finished = subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, stdout=output, stderr=subprocess.PIPE, text=True
    )
    assert "Traceback" not in finished.stderr
    assert "Exception ignored" not in finished.stderr
    return finished.returncode, finished.stderr


# Without a buffer each line fails as it is printed, with one all of them at the end.
PRINTED = [*((command, "") for command in PRINTING), ("--help", "1"), ("locks", "1")]


@pytest.mark.parametrize(("command", "unbuffered"), PRINTED)
def test_a_full_disk_is_reported(folder: Path, command: str, unbuffered: str) -> None:
    status, errors = run(folder, command, ">/dev/full", unbuffered=unbuffered)
    assert status == 74
    assert errors.count("\n") == 1
    assert "No space left on device" in errors


@pytest.mark.parametrize(("command", "unbuffered"), PRINTED)
def test_a_reader_that_has_gone_is_no_error(folder: Path, command: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run(folder, command, output=writer, unbuffered=unbuffered) == (141, "")
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    ("command", "redirection"),
    [*((command, ">&-") for command in COMMANDS), ("locks", "2>&-"), ("locks", ">&- 2>&-")],
)
def test_what_is_printed_to_a_closed_stream_vanishes(folder: Path, command: str, redirection: str) -> None:
    status, errors = run(folder, command, redirection)
    assert COMMANDS[command] in (status, None)
    assert errors == ""


def test_errors_that_nobody_can_read_leave_the_exit_status(folder: Path) -> None:
    assert run(folder, "audit missing", "2>&-")[0] == 2
    assert run(folder, "locks --every", "2>&-")[0] == 2
