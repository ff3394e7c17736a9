"""The process in which a lock is taken and given back on command.

    python -m benchmarks.measured_hands '{"peer": …, "store": …, "loop": …, "url": …}'

Says `ready 0 0`, reads commands, a line each, and answers each when it is done: `take 1`, hand number 1 waits
for the lock, and `taken 1 SECONDS` when it has it; `give 1` and `given 1 SECONDS`, the moment before the
release; `queue 20 0.005` and `queued 0 RATIO`. The clock is the machine's, alike in all processes. The end
of the input ends it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Coroutine
from typing import Any

from benchmarks.lock_peers import Locker, find
from benchmarks.measured import run_on

_KEY = "handed"


class _Worker:
    """What such a process does."""

    def __init__(self, locker: Locker) -> None:
        self._locker = locker
        self._held: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def obey(self) -> None:
        """Carry out commands until there are no more."""
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
        )
        while line := await commands.readline():
            command, *arguments = line.decode().split()
            self._start(getattr(self, f"_{command}")(*arguments))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._or_die(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _or_die(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            traceback.print_exc()
            os._exit(1)  # the other process waits for an answer

    async def _take(self, hand: str) -> None:
        held = await self._locker.acquire(_KEY)
        taken = time.monotonic()
        self._held[hand] = held
        print("taken", hand, taken, flush=True)

    async def _give(self, hand: str) -> None:
        held = self._held.pop(hand)
        given = time.monotonic()
        await self._locker.release(held)
        print("given", hand, given, flush=True)

    async def _queue(self, waiters: str, hold: str) -> None:
        seconds = float(hold)
        started = time.monotonic()
        for _ in range(int(waiters)):
            await asyncio.sleep(seconds)
        alone = time.monotonic() - started

        async def wait() -> None:
            held = await self._locker.acquire("queue")
            await asyncio.sleep(seconds)
            await self._locker.release(held)

        first = await self._locker.acquire("queue")
        tasks = [asyncio.create_task(wait()) for _ in range(int(waiters))]
        await asyncio.sleep(0.1)
        started = time.monotonic()
        await self._locker.release(first)
        await asyncio.gather(*tasks)
        print("queued", 0, (time.monotonic() - started) / alone, flush=True)


async def _serve(peer: str, store: str, url: str) -> dict[str, float]:
    make = find(peer, store).make
    assert make is not None
    locker = make(url)
    await locker.open()
    print("ready", 0, 0, flush=True)
    await _Worker(locker).obey()
    await locker.close()
    return {}


if __name__ == "__main__":
    _request = json.loads(sys.argv[1])
    run_on(_request.pop("loop"), _serve(**_request))
