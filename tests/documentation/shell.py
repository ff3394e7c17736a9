"""A shell for the console blocks of a page."""

from __future__ import annotations

import os
import re
import selectors
import signal
import subprocess
import time
import uuid
from pathlib import Path

from tests.documentation.blocks import Command

SECONDS = 60
SECONDS_TO_END = 3


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

    def run(self, command: Command) -> None:
        """Run a command.

        Raises:
            AssertionError: it printed something else than what is shown, or failed without showing it.
        """
        marker = uuid.uuid4().hex
        self._input.write(f"{command.text}\necho {marker}$?\n".encode())
        self._input.flush()
        end = re.compile(rf"{marker}(\d+)\n")
        printed = ""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            printed += self._read(deadline)
            ended = end.search(printed)
            if ended is None:
                continue
            output = end.sub("", printed).replace(f"{self._folder}/", "")
            shown = shows(command.output, output)
            if shown or not command.is_in_background:
                assert shown, f"{command.block}: $ {command.text}\nprinted:\n{output}"
                assert command.output or ended[1] == "0", f"{command.block}: $ {command.text}\n{output}"
                return
        raise AssertionError(f"{command.block}: $ {command.text}\nprinted in {SECONDS} s:\n{printed}")

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
