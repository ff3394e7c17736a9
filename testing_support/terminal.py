"""Runs a command on a pseudo-terminal, as a user does."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

SECONDS_TO_END = 60


def on_a_terminal(
    command: Sequence[str],
    *,
    columns: int = 100,
    answer: tuple[str, bytes] | None = None,
    environment: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> tuple[int, str]:
    """Return the exit status, and all output to the terminal.

    With `answer` (text, keys) the keys are typed once the text has appeared.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=folder,
        start_new_session=True,
        env={**_surroundings(), "TERM": "xterm-256color", **(environment or {})},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    try:
        output = _read_to_its_end(master, answer)
        return process.wait(SECONDS_TO_END), output
    finally:
        process.kill()
        process.wait()
        os.close(master)


def _surroundings() -> dict[str, str]:
    """Return the environment of this process, without the size of another terminal."""
    return {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}


def _read_to_its_end(master: int, answer: tuple[str, bytes] | None) -> str:
    output = b""
    deadline = time.monotonic() + SECONDS_TO_END
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 0.1)[0]:
            continue
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # the other end is closed
            data = b""
        if not data:
            return output.decode().replace("\r\n", "\n")
        output += data
        if answer is not None and answer[0].encode() in output:
            os.write(master, answer[1])
            answer = None
    raise AssertionError(f"still running after {SECONDS_TO_END} s: {output!r}")
