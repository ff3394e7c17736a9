"""Workers on one lock, and everything that can go wrong with them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer
from testing_support.servers.tcp_proxy import TcpProxy

from .history import check_holds, check_visits, is_handed_over, read_history
from .register import Register

ROOT = Path(__file__).parent.parent.parent
STOPPED_FOR = 1.3
"""Times the time to live."""
SILENT_FOR = 1.5
"""Times the time to live: what was sent arrives after the lock of its sender has expired."""
FAULTS = {
    "sqlite": ("kill", "stop"),
    "postgresql": ("kill", "stop", "cut", "silence", "restart"),
    "redis": ("kill", "stop", "cut", "silence", "restart"),
}
"""What can be done to the users of each kind of database."""


@dataclass
class Outcome:
    """What was done, and what came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    holds: int = 0
    handed_over: int = 0
    """Holds that went on to a waiter of the same process in memory."""
    unanswered: int = 0
    """Acquisitions whose worker was killed, or which failed."""
    died_holding: int = 0
    """Holds that ended with their worker."""
    losses: int = 0
    """Holds whose worker was told that it had lost them."""
    writes: int = 0
    stale: int = 0
    """Visits that the fence turned away."""
    longest_gap: float = 0.0
    """Seconds from one acquisition to the next."""


Server: TypeAlias = "PostgresServer | RedisServer"


class Torment:
    """Keeps so many workers running, whatever happens to them."""

    def __init__(self, url: str, folder: Path, ttl: float, server: Server | None) -> None:
        self._command = [sys.executable, "-m", "testing_support.chaos.worker", url, str(folder), str(ttl)]
        self._register = Register(folder)
        self._ttl = ttl
        self._server = server
        self._workers: list[asyncio.subprocess.Process] = []
        self._stopped: dict[int, asyncio.Task[None]] = {}
        self._silence: asyncio.Task[None] | None = None
        self.proxy: TcpProxy | None = None
        self.faults: Counter[str] = Counter()

    async def start(self, workers: int) -> None:
        """Start so many workers, and wait until one of them has held the lock."""
        for _ in range(workers):
            await self._start_one()
        await self._holder()

    async def _start_one(self) -> None:
        self._workers.append(await asyncio.create_subprocess_exec(*self._command, cwd=ROOT))

    async def _holder(self) -> asyncio.subprocess.Process:
        """A worker that holds the lock at this moment, or did a moment ago."""
        while True:
            inside = self._register.inside()
            for worker in self._running():
                if worker.pid == inside:
                    return worker
            await asyncio.sleep(0.002)

    async def _victim(self) -> asyncio.subprocess.Process:
        """The holder, half of the time, if there is one soon."""
        if random.random() < 0.5:
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                return await asyncio.wait_for(self._holder(), self._ttl)
        return random.choice(self._running())

    def _running(self) -> list[asyncio.subprocess.Process]:
        """Who is not stopped: those are to wake up, and see what has become of their locks."""
        return [worker for worker in self._workers if worker.pid not in self._stopped]

    async def inflict(self, fault: str) -> None:
        """Do one thing."""
        while not self._running():
            await next(iter(self._stopped.values()))
        self.faults[fault] += 1
        match fault:
            case "kill":
                victim = await self._victim()
                victim.kill()
                await victim.wait()
                self._workers.remove(victim)
                await self._start_one()
            case "stop":
                victim = await self._victim()
                self._stopped[victim.pid] = asyncio.create_task(self._stop(victim))
            case "cut":
                assert self.proxy is not None
                self.proxy.cut()
            case "silence":
                assert self.proxy is not None
                if self._silence is not None:
                    await self._silence
                self._silence = asyncio.create_task(self._be_silent(self.proxy))
            case "restart":
                assert self._server is not None
                await asyncio.to_thread(self._server.restart)
            case _:
                raise ValueError(f"no such fault: {fault}")

    async def _stop(self, victim: asyncio.subprocess.Process) -> None:
        """Stop a worker for longer than its lock lives."""
        victim.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STOPPED_FOR * self._ttl)
        victim.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.1)  # time to see
        del self._stopped[victim.pid]

    async def _be_silent(self, proxy: TcpProxy) -> None:
        """Keep for a while what is sent on the connections there are."""
        proxy.hold_back()
        await asyncio.sleep(SILENT_FOR * self._ttl)
        proxy.let_go()

    async def end(self) -> None:
        """Let those who were stopped wake up and see, and kill everyone."""
        await asyncio.gather(*self._stopped.values())
        if self._silence is not None:
            await self._silence
        for worker in self._workers:
            assert worker.returncode is None, "a worker ended by itself"
            worker.kill()
            await worker.wait()
        self._register.close()


_SERVERS: dict[str, Callable[[], Server]] = {
    "postgresql": PostgresServer,
    # What Redis has answered is on disk, as PostgreSQL's answers are: no lock outlives a restart otherwise.
    "redis": lambda: RedisServer(durable=True),
}


@contextlib.asynccontextmanager
async def tormented(store: str, workers: int, ttl: float, folder: Path) -> AsyncIterator[Torment]:
    """Workers on a database of their own; a proxy stands before a server."""
    async with contextlib.AsyncExitStack() as stack:
        if store == "sqlite":
            torment = Torment(f"sqlite:///{folder}/locks.db", folder, ttl, None)
        else:
            server = await asyncio.to_thread(_SERVERS[store])
            stack.callback(server.stop)
            proxy = await stack.enter_async_context(TcpProxy(server.port))
            torment = Torment(server.url().replace(str(server.port), str(proxy.port)), folder, ttl, server)
            torment.proxy = proxy
        await torment.start(workers)
        yield torment
        await torment.end()


async def run(
    store: str, *, workers: int, ttl: float, faults: Iterable[str] | None = None, seconds: float = 0.0
) -> Outcome:
    """Inflict the given faults (or any, for so long), and check what the workers saw.

    Raises:
        Violation: no lock may behave so.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with tormented(store, workers, ttl, folder) as torment:
            end = time.monotonic() + seconds
            for fault in faults or iter(lambda: random.choice(FAULTS[store]), ""):
                if faults is None and time.monotonic() > end:
                    break
                await torment.inflict(fault)
                await asyncio.sleep(random.uniform(0.1, 0.5) * ttl)
        return check(folder, torment.faults)


def check(folder: Path, faults: Counter[str]) -> Outcome:
    """What the workers in a folder saw."""
    history, register = read_history(folder), Register(folder)
    visits = register.visits()
    register.close()
    order = check_holds(history)
    return Outcome(
        faults=faults,
        holds=len(order),
        handed_over=sum(is_handed_over(earlier, later) for earlier, later in itertools.pairwise(order)),
        unanswered=len(history) - len(order),
        died_holding=sum(hold.releasing is None for hold in order),
        losses=sum(hold.loss is not None for hold in order),
        writes=check_visits(visits),
        stale=sum(not visit.accepted for visit in visits),
        longest_gap=max(
            (later.acquired_at - earlier.acquired_at for earlier, later in itertools.pairwise(order)),
            default=0.0,
        ),
    )
