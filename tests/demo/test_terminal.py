"""The demo on a terminal: the live display, Ctrl-C, and the processes it leaves behind (none)."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

import pytest

from arbitrageai_native.testing import Failure, ModelServer
from testing_support.terminal import on_a_terminal
from tests.demo.support import (
    ALONE,
    COMMAND,
    POSTINGS,
    QUICK,
    last_frame,
    processes_with,
    scanner_processes,
    wait_for_exit,
    write_postings,
)


class Terminal:
    """A process on a pseudo-terminal of its own."""

    def __init__(self, *options: str, environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
        self._output = bytearray()
        self.process = subprocess.Popen(
            [*COMMAND, *options],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "110", "LINES": "40", **environment},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 1 << 16):
                self._output += data
        except OSError:  # the other end is closed
            return

    @property
    def raw(self) -> bytes:
        return bytes(self._output)

    @property
    def text(self) -> str:
        return last_frame(self.raw)

    def press_ctrl_c(self) -> None:
        os.write(self._master, b"\x03")

    def wait_for_text(self, pattern: str) -> None:
        deadline = time.monotonic() + 20
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"{pattern!r} did not appear in {self.text!r}"
            assert self.process.poll() is None, self.text
            time.sleep(0.01)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(10)
        os.close(self._master)


@contextmanager
def terminal(*options: str, environment: dict[str, str] | None = None) -> Iterator[Terminal]:
    started = Terminal(*options, environment=environment or {})
    try:
        yield started
    finally:
        started.end()


def wait_until_gone(marker: str) -> None:
    deadline = time.monotonic() + 10
    while left := processes_with(marker):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment variable by which the processes of one test can be found; none may be left."""
    yield {"DEMO_TEST_MARKER": str(tmp_path)}
    wait_until_gone(str(tmp_path))


def test_the_live_display(tmp_path: Path, marker: dict[str, str]) -> None:
    with terminal("--postings", str(write_postings(tmp_path)), *QUICK, environment=marker) as shown:
        assert wait_for_exit(shown.process) == 0
        assert shown.raw.count(b"\x1b[1A") > 10, "nothing was redrawn"
        text = shown.text
    for name in ("scanner-1", "scanner-2", "scanner-3"):
        assert f"{name} done" in text
    for title in ("bids placed", "conflicts", "calls in flight", "loop lag now", "12/12"):
        assert title in text
    assert text.rstrip().endswith("Every posting was bid on exactly once.")


@pytest.mark.parametrize("columns", [60, 80])
def test_scanners_and_prices_are_whole_on_a_narrow_terminal(tmp_path: Path, columns: int) -> None:
    titled = [
        {**posting, "title": "A title that is as long as there is room for one"} for posting in POSTINGS
    ]
    command = [*COMMAND, "--postings", str(write_postings(tmp_path, titled)), *ALONE]
    status, output = on_a_terminal(command, columns=columns)
    assert status == 0
    frame = last_frame(output.encode())
    assert frame.count("scanner-1") > 1
    assert re.search(r"scanner-\d +\$[\d,]+ +market-\d:\d+ +A title.*…", frame)
    assert "scanner…" not in frame


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path, marker: dict[str, str]) -> None:
    options = ("--postings", str(write_postings(tmp_path)), *ALONE)
    with terminal(*options, environment={**marker, "TERM": "dumb"}) as shown:
        assert wait_for_exit(shown.process) == 0
        assert b"\x1b[1A" not in shown.raw
        assert "scanner-1 has seen every posting" in shown.text


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_ctrl_c_ends_everything(tmp_path: Path, marker: dict[str, str], extra: tuple[str, ...]) -> None:
    with ModelServer(delay=60) as server:
        options = ("--postings", str(write_postings(tmp_path)), "--base-url", server.base_url, *QUICK, *extra)
        with terminal(*options, environment={**marker, "TMPDIR": str(tmp_path)}) as shown:
            deadline = time.monotonic() + 20
            while server.statistics.in_flight < len(POSTINGS):
                assert time.monotonic() < deadline, shown.text
                time.sleep(0.01)
            pressed = time.monotonic()
            shown.press_ctrl_c()
            shown.press_ctrl_c()
            assert wait_for_exit(shown.process) == 130
            assert time.monotonic() - pressed < 5
            wait_until_gone(str(tmp_path))
            assert "Traceback" not in shown.text
            assert "Error" not in shown.text
            assert b"\x1b[?25l" not in shown.raw or shown.raw.rindex(b"\x1b[?25h") > shown.raw.rindex(
                b"\x1b[?25l"
            )
    assert not list(tmp_path.glob("arbitrageai-demo-*")), "the temporary database was left"


@pytest.mark.parametrize("moment", [0.1, 0.2, 0.3, 0.45, 0.6, 0.9])
def test_ctrl_c_at_any_moment_of_the_start(tmp_path: Path, marker: dict[str, str], moment: float) -> None:
    with terminal(
        "--postings", str(write_postings(tmp_path)), "--stealth-range", "20", "20", environment=marker
    ) as shown:
        time.sleep(moment)
        shown.press_ctrl_c()
        # Until the package is imported it is Python itself that is interrupted, with statuses of its own.
        assert wait_for_exit(shown.process) in (130, -signal.SIGINT, 1)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_end_everything_too(
    tmp_path: Path, marker: dict[str, str], number: signal.Signals, status: int
) -> None:
    with terminal("--stealth-range", "20", "20", environment=marker) as shown:
        shown.wait_for_text("scanner-1")
        shown.process.send_signal(number)
        assert wait_for_exit(shown.process) == status
        assert "Traceback" not in shown.text


def test_no_scanner_outlives_a_demo_that_was_killed(tmp_path: Path, marker: dict[str, str]) -> None:
    with terminal("--stealth-range", "20", "20", environment={**marker, "TMPDIR": str(tmp_path)}) as shown:
        shown.wait_for_text("scanner-1")
        shown.process.kill()
        shown.process.wait()
        wait_until_gone(str(tmp_path))
    assert gettempdir() != str(tmp_path)


def test_a_scanner_that_is_killed_is_replaced_by_the_others(tmp_path: Path, marker: dict[str, str]) -> None:
    # Bids come for some seconds: in that time there are some, and not yet all.
    options = ("--stealth-range", "0.5", "4", "--lock-ttl", "2")
    with terminal(*options, environment=marker) as shown:
        shown.wait_for_text("scanner-3")
        victim = scanner_processes(shown.process.pid)[0]
        shown.wait_for_text(r"\b([1-9]|[123]\d)/40")
        os.kill(victim, signal.SIGKILL)
        assert wait_for_exit(shown.process, 40) == 0
        text = shown.text
    assert "killed by signal 9" in text
    assert "Every posting was bid on exactly once." in text


def test_the_api_key_is_shown_nowhere(tmp_path: Path, marker: dict[str, str]) -> None:
    key = "sk-demo-7c1f0e"
    with ModelServer(delay=1.0) as server:
        server.script("I can.")
        options = (
            "--postings",
            str(write_postings(tmp_path)),
            "--base-url",
            server.base_url,
            "--api-key",
            key,
            *ALONE,
        )
        with terminal(*options, environment=marker) as shown:
            shown.wait_for_text("scanner-1")
            mentions = processes_with(key)
            assert len(mentions) == 1, "the demo's own command line alone, as the user typed it"
            assert wait_for_exit(shown.process) == 0
            assert key not in shown.text
        assert {request.api_key for request in server.requests} == {key}


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_server_that_repeats_the_key_does_not_get_it_shown(
    tmp_path: Path, marker: dict[str, str], by_environment: bool
) -> None:
    key = "sk-demo-9d2a4b"
    options = ("--postings", str(write_postings(tmp_path)), *ALONE)
    if by_environment:
        marker = {**marker, "API_KEY": key}
    else:
        options = (*options, "--api-key", key)
    with ModelServer(answer=Failure(401, f"Incorrect API key provided: {key}")) as server:
        with terminal(*options, "--base-url", server.base_url, environment=marker) as shown:
            assert wait_for_exit(shown.process) == 1
            assert key not in shown.text
            assert "***" in shown.text
        assert {request.api_key for request in server.requests} == {key}
