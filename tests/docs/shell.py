"""A shell for the console blocks of a page."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.docs.blocks import Command

SECONDS = 60
SECONDS_TO_END = 3


@dataclass(frozen=True)
class _Job:
    """A command in the background, and the file with its output."""

    command: Command
    folder: Path
    log: Path

    @property
    def printed(self) -> str:
        """Return the output so far."""
        return self.log.read_text(errors="replace").replace(f"{self.folder}/", "")

    @property
    def has_failed(self) -> bool:
        """Whether the command has ended with a status other than 0."""
        status = self.log.with_suffix(".status")
        return status.exists() and status.read_text() not in ("", "0\n")

    @property
    def report(self) -> str:
        """Return the command and all its output, also the output that the page redirects to a file."""
        files = [self.folder / name for name in re.findall(r">\s*([^\s&>]+)", self.command.text)]
        said = [file.read_text(errors="replace") for file in files if file.is_file()]
        return f"$ {self.command.text}\n{''.join([self.printed, *said])}"


class Shell:
    """A bash that keeps its folder and its background jobs from one block to the next."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        self._logs = tempfile.TemporaryDirectory()
        self._jobs: list[_Job] = []
        # Background jobs inherit this pipe, although their output goes to files, until they end.
        self._tell("exec 9>&1")

    def run(self, command: Command) -> None:
        """Run a command.

        Raises:
            AssertionError: the output differs from the page, the command failed and the page does not show
                that, or a background job has failed.
        """
        if command.is_in_background:
            self._run_in_background(command)
        else:
            self._run(command)

    def _run(self, command: Command) -> None:
        marker = uuid.uuid4().hex
        self._tell(f"{command.text}\necho {marker}$?")
        end = re.compile(rf"{marker}(\d+)\n")
        printed = ""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            printed += self._read(deadline)
            ended = end.search(printed)
            if ended is None:
                self._check_jobs()
                continue
            output = end.sub("", printed).replace(f"{self._folder}/", "")
            is_right = shows(command.output, output) and (command.output or ended[1] == "0")
            assert is_right, f"{command.block}: $ {command.text}\nprinted:\n{output}{self._what_jobs_said()}"
            return
        said = f"{printed}{self._what_jobs_said()}"
        raise AssertionError(f"{command.block}: $ {command.text}\nprinted in {SECONDS} s:\n{said}")

    def _run_in_background(self, command: Command) -> None:
        """Start a command with its output in a file, which keeps it apart from that of later commands."""
        job = _Job(command, self._folder, Path(self._logs.name, str(len(self._jobs))))
        self._jobs.append(job)
        text = command.text.rstrip().removesuffix("&")
        status = f"status=$?; echo $status > {job.log}.status; (exit $status)"
        self._tell(f"{{ {text}\n{status}; }} > {job.log} 2>&1 &")
        deadline = time.monotonic() + SECONDS
        while not (job.log.exists() and shows(command.output, job.printed)):
            self._check_jobs()
            assert time.monotonic() < deadline, f"in {SECONDS} s:{self._what_jobs_said()}"
            time.sleep(0.01)

    def _check_jobs(self) -> None:
        failed = [job for job in self._jobs if job.has_failed]
        assert not failed, "\n".join(f"{job.command.block} has failed: {job.report}" for job in failed)

    def _what_jobs_said(self) -> str:
        return "".join(f"\nin the background: {job.report}" for job in self._jobs)

    def _tell(self, text: str) -> None:
        self._input.write(f"{text}\n".encode())
        self._input.flush()

    def _read(self, deadline: float) -> str:
        self._selector.select(min(0.1, deadline - time.monotonic()))
        return (self._output.read() or b"").decode(errors="replace")

    def close(self) -> None:
        """End it, and all that it has started."""
        self._input.close()
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            if not self._has_ended():
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(SECONDS_TO_END)
        finally:
            self._selector.close()
            self._output.close()
            self._logs.cleanup()

    def _has_ended(self) -> bool:
        """Whether nobody has the output open any more, after waiting for it."""
        deadline = time.monotonic() + SECONDS_TO_END
        while time.monotonic() < deadline:
            self._selector.select(deadline - time.monotonic())
            if self._output.read() == b"":
                return True
        return False


def shows(shown: str, printed: str) -> bool:
    """Whether a page that shows this says the truth about what was printed.

    `…` stands for any text, and a number with a decimal point for any other: it is a time, or a measurement.
    """
    if not shown:
        return True
    # Python underlines the place in a line of a traceback, where and how depends on its version.
    lines = [line.rstrip() for line in printed.splitlines() if not re.fullmatch(r"[ ^~]+", line)]
    pattern = re.escape(shown.strip()).replace("…", ".*")
    pattern = re.sub(r"\d+\\\.\d+", r"\\d+\\.\\d+", pattern)
    return re.fullmatch(pattern, "\n".join(lines).strip(), re.DOTALL) is not None
