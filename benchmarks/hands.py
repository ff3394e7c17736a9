"""Hands that take a lock and give it back when they are told to, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType

from benchmarks.axes.axis import Subject
from benchmarks.axes.own_process import last_line


class Process:
    """A process with hands, as long as the block lasts."""

    def __init__(self, subject: Subject, url: str) -> None:
        self._name = subject.name
        self._request = {"peer": subject.name, "store": subject.store, "loop": subject.loop, "url": url}
        self._hands = 0
        self._answers: dict[tuple[str, str], float] = {}

    def __enter__(self) -> Process:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.measured_hands", json.dumps(self._request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.answer("ready", "0")  # tables are made by one process, before the next one looks for them
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate()

    def hand(self) -> Hand:
        """One more."""
        self._hands += 1
        return Hand(self, self._hands)

    def queue(self, waiters: int, hold: float) -> float:
        """How long it takes to serve so many, each for so many seconds: as a multiple of the holds."""
        self.tell(f"queue {waiters} {hold}")
        return self.answer("queued", "0")

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()

    def answer(self, event: str, hand: str) -> float:
        """Wait for one."""
        assert self._process.stdout is not None
        while (event, hand) not in self._answers:
            line = self._process.stdout.readline()
            if not line:
                _, errors = self._process.communicate()
                raise RuntimeError(f"{self._name} ended: {last_line(errors)}")
            found, number, value = line.split()
            self._answers[found, number] = float(value)
        return self._answers.pop((event, hand))


class Hand:
    """One holder or waiter; its moments are seconds of the monotonic clock."""

    def __init__(self, process: Process, number: int) -> None:
        self._process = process
        self._number = str(number)

    def take(self) -> None:
        self._process.tell(f"take {self._number}")

    def taken(self) -> float:
        return self._process.answer("taken", self._number)

    def give(self) -> None:
        self._process.tell(f"give {self._number}")

    def given(self) -> float:
        return self._process.answer("given", self._number)
