"""Processes that wait beside a busy one: how long each is passed over.

    python -m testing_support.lock_fairness URL busy TASKS HOLD
    python -m testing_support.lock_fairness URL waiting SECONDS

The tasks of the busy process want one lock all the time, so that it goes from hand to hand in memory. A
process that waits wants it again and again, and prints for how long it waited each time.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

ROOT = Path(__file__).parent.parent
TTL = 30.0
PATIENCE = 300.0
_PAUSE = 0.05
"""Seconds that a waiting process lets pass after it had the lock."""


@contextmanager
def busy_process(url: str, tasks: int, hold: float) -> Iterator[subprocess.Popen[str]]:
    """A process with so many tasks, each of which holds the lock for so many seconds, again and again."""
    with _process(url, "busy", str(tasks), str(hold)) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        yield busy


def waits(url: str, processes: int, seconds: float) -> list[list[float]]:
    """How long each of so many processes waited, each time, during so many seconds."""
    with ExitStack() as stack:
        waiting = [stack.enter_context(_process(url, "waiting", str(seconds))) for _ in range(processes)]
        outputs = [process.communicate()[0] for process in waiting]
        assert not any(process.returncode for process in waiting)
    return [[float(line) for line in output.splitlines()] for output in outputs]


@contextmanager
def _process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "testing_support.lock_fairness", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


async def _be_busy(url: str, tasks: int, hold: float) -> None:
    manager = BidLockManager(TTL, url)

    async def work() -> None:
        while True:
            async with manager.with_lock("m", "hot", timeout=PATIENCE):
                await asyncio.sleep(hold)

    async with manager.with_lock("m", "hot", timeout=PATIENCE):
        print("has it", flush=True)
    await asyncio.gather(*(work() for _ in range(tasks)))


async def _wait(url: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    async with BidLockManager(TTL, url) as manager:
        while (started := time.monotonic()) < end:
            lease = await manager.acquire_lease("m", "hot", timeout=PATIENCE)
            print(time.monotonic() - started, flush=True)
            await lease.release()
            await asyncio.sleep(_PAUSE)


if __name__ == "__main__":
    _url, _kind, *_numbers = sys.argv[1:]
    if _kind == "busy":
        asyncio.run(_be_busy(_url, int(_numbers[0]), float(_numbers[1])))
    else:
        asyncio.run(_wait(_url, float(_numbers[0])))
