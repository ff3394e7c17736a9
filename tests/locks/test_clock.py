"""Locks while the system's clock is set: libfaketime shows another time of day to processes of the tests'.

The database's clock decides about expiry. PostgreSQL's is the server's, which is not touched here. SQLite's
is the machine's, which all its users share: there, all of them see the same jumps.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testing_support.servers.system import from_package

ROOT = Path(__file__).parents[2]
HOUR = 3600
JUMPS = pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forwards", "backwards"])


class Worker:
    """A `clock_worker` that goes by the clock."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, line: str) -> str:
        """Its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n".encode())
        return (await self._process.stdout.readline()).decode().strip()

    async def end(self) -> None:
        """End it."""
        await self._process.communicate(b"")
        assert self._process.returncode == 0


class Clock:
    """A clock that can be set, and the processes that go by it. Their monotonic clocks are the machine's."""

    def __init__(self, folder: Path) -> None:
        self._offset = folder / "offset"
        self._workers: list[Worker] = []
        self.set(0)

    def set(self, offset: int) -> None:
        """Show the machine's time and so many seconds more."""
        new = self._offset.with_suffix(".new")
        new.write_text(f"{offset:+d}\n")
        new.replace(self._offset)

    async def worker(self, url: str) -> Worker:
        """Start one."""
        environment = {
            "LD_PRELOAD": str(from_package("libfaketime", "/usr/lib/*/faketime/libfaketime.so.1")),
            "FAKETIME_TIMESTAMP_FILE": str(self._offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "testing_support.clock_worker", url),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **environment},
            cwd=ROOT,
        )
        self._workers.append(Worker(process))
        return self._workers[-1]

    async def end(self) -> None:
        """End all workers."""
        for worker in self._workers:
            await worker.end()


@pytest.fixture
async def clock(tmp_path: Path) -> AsyncIterator[Clock]:
    """A clock of the test's own."""
    made = Clock(tmp_path)
    yield made
    await made.end()


async def test_the_workers_go_by_the_clock(clock: Clock, sqlite_url: str) -> None:
    worker = await clock.worker(sqlite_url)
    for offset in (0, HOUR, -HOUR):
        clock.set(offset)
        assert float(await worker.ask("time")) == pytest.approx(time.time() + offset, abs=30)


@JUMPS
async def test_waiting_takes_its_time(clock: Clock, shared_url: str, jump: int) -> None:
    holder, waiter = await clock.worker(shared_url), await clock.worker(shared_url)
    assert await holder.ask(f"hold {10 * HOUR}") == "held"
    waited = asyncio.create_task(waiter.ask("wait 2"))
    await asyncio.sleep(0.7)
    clock.set(jump)
    assert 2 <= float(await waited) < 4


@JUMPS
async def test_a_lease_on_a_server_is_renewed_all_the_same(
    clock: Clock, postgres_url: str, jump: int
) -> None:
    holder, waiter = await clock.worker(postgres_url), await clock.worker(postgres_url)
    assert await holder.ask("hold 1.5") == "held"
    clock.set(jump)
    assert float(await waiter.ask("wait 4")) >= 4  # more than two lives
    assert await holder.ask("look") == "held"


async def test_a_lease_in_a_file_survives_a_clock_that_is_set_back(clock: Clock, sqlite_url: str) -> None:
    holder, waiter = await clock.worker(sqlite_url), await clock.worker(sqlite_url)
    assert await holder.ask("hold 1.5") == "held"
    clock.set(-HOUR)
    assert float(await waiter.ask("wait 4")) >= 4
    assert await holder.ask("look") == "held"


async def test_a_lease_in_a_file_ends_when_the_clock_jumps_beyond_it(clock: Clock, sqlite_url: str) -> None:
    holder, waiter = await clock.worker(sqlite_url), await clock.worker(sqlite_url)
    assert await holder.ask("hold 1.5") == "held"
    waiting = asyncio.create_task(waiter.ask("wait 20"))
    await asyncio.sleep(0.5)
    clock.set(HOUR)
    assert await waiting == "acquired"
    await asyncio.sleep(1.5)
    assert await holder.ask("look") == "not held"
