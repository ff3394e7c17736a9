"""Half an hour of everything at once: memory, descriptors and threads have to stay where they are.

    python benchmarks/soak.py [--minutes 30] [--in-flight 200] [--loop asyncio|uvloop]

Calls, streams (read whole and left early), locks in SQLite and PostgreSQL, answers that fail, a breaker that
trips and recovers, and cancellations at any moment, so many under way at all times. Samples go to a file, a
line each second. Prints what was done, judges it, draws a chart; exits with 1 if a bound was missed.

The model servers are `ModelServer.in_subprocess`, since they have to fail in many ways, which the compiled
one of `benchmarks/server` can't. Python serves fewer requests, so an answer takes 0.1 to 0.5 s: 200 in flight
are then some hundred activities a second, and two cores are not full.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import logging
import os
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

sys.path.insert(0, str(Path(__file__).parent.parent))

from arbitrageai_native import BidLockManager, LLMService
from arbitrageai_native._native import Probe, requests_under_way
from arbitrageai_native.llm_health_check import CircuitState, get_health_checker
from arbitrageai_native.testing import ModelServer
from benchmarks.soaking import answers
from benchmarks.soaking.load import Load
from benchmarks.soaking.samples import Record, Sample, read
from benchmarks.soaking.verdict import Check, Ending, judge
from testing_support.servers.postgres import PostgresServer

ROOT = Path(__file__).parent.parent
TTL = 3.0
RECOVERY = 1.0
SECONDS_TO_CALM_DOWN = 10.0
WIDTH_OF_A_FILE = 200


class Messages(logging.Handler):
    """Counts what the package logs, by its form."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.counts[f"{record.levelname}: {record.msg}"] += 1


class Soak:
    """The servers, and what runs against them."""

    def __init__(self, steady_url: str, moody_url: str, sqlite_file: Path, postgres: PostgresServer) -> None:
        self._steady = LLMService(steady_url, "key", enable_circuit_breaker=False, retry_base=0.02)
        self._moody = LLMService(moody_url, "key", max_retries=0)
        self._circuit = get_health_checker().health_status[moody_url]
        self._circuit.recovery_timeout_seconds = RECOVERY
        self._sqlite_file = sqlite_file
        self._postgres = postgres
        self.sqlite = BidLockManager(TTL, f"sqlite:///{sqlite_file}")
        self.postgresql = BidLockManager(TTL, postgres.url())
        self.load = Load(self._steady, self._moody, [self.sqlite, self.postgresql])

    async def run(self, seconds: float, in_flight: int, record: Record) -> Ending:
        """Soak for so long; what is left after it."""
        load = asyncio.ensure_future(self.load.run(in_flight))
        started = time.monotonic()
        second = 0
        while (now := time.monotonic() - started) < seconds and not load.done():
            record.add(await self._sample(now))
            second += 1
            await asyncio.sleep(max(started + second - time.monotonic(), 0))
        self.load.end()
        await load
        return await self._ending()

    async def _sample(self, seconds: float) -> Sample:
        sqlite, postgresql = await asyncio.gather(self.sqlite.locks(), self.postgresql.locks())
        return Sample.take(
            seconds,
            sqlite_rows=len(sqlite.held),
            postgresql_rows=len(postgresql.held),
            activities=self.load.total,
            circuit_open=self._circuit.state is not CircuitState.CLOSED,
        )

    async def _ending(self) -> Ending:
        """What a cancelled activity left undone is being undone: it is given some time."""
        deadline = time.monotonic() + SECONDS_TO_CALM_DOWN
        while time.monotonic() < deadline:
            ending = Ending(requests_under_way(), Probe.live_calls(), await asyncio.to_thread(self._rows))
            if not (ending.requests or ending.native_calls or any(ending.rows.values())):
                break
            await asyncio.sleep(0.1)
        return ending

    def _rows(self) -> dict[str, int]:
        """Counted past the package."""
        count = "SELECT count(*) FROM distributed_locks"
        with contextlib.closing(sqlite3.connect(self._sqlite_file)) as connection:
            (in_sqlite,) = connection.execute(count).fetchone()
        return {"SQLite": in_sqlite, "PostgreSQL": int(self._postgres.execute(count))}


@contextlib.asynccontextmanager
async def soak() -> AsyncIterator[Soak]:
    """A soak with servers of its own."""
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        postgres = await asyncio.to_thread(PostgresServer)
        stack.callback(postgres.stop)
        steady, moody = [
            await stack.enter_async_context(ModelServer.in_subprocess(answer=answer, record=False))
            for answer in (answers.steady, answers.moody)
        ]
        made = Soak(steady.base_url, moody.base_url, Path(folder, "locks.db"), postgres)
        async with made.sqlite, made.postgresql:
            yield made


async def run(options: argparse.Namespace, console: Console) -> list[Check]:
    """Soak, print, judge."""
    messages = Messages()
    logging.getLogger("arbitrageai_native").addHandler(messages)
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    async with soak() as made:
        with options.csv.open("w", newline="") as file:
            cpu, started = time.process_time(), time.monotonic()
            ending = await made.run(options.minutes * 60, options.in_flight, Record(file))
            cpu, seconds = time.process_time() - cpu, time.monotonic() - started
        locks = {
            name: await manager.get_metrics_async()
            for name, manager in (("SQLite", made.sqlite), ("PostgreSQL", made.postgresql))
        }
    load = made.load
    console.print(
        f"{load.total:,} activities in {seconds / 60:.1f} minutes, {options.in_flight} at a time, "
        f"{load.total / seconds:.0f} a second, {cpu / seconds:.0%} of a core; load {os.getloadavg()[0]:.1f}"
    )
    table = Table("activity", "what came of it", title="What was done", title_justify="left")
    table.add_column("how often", justify="right")
    for (activity, outcome), count in sorted(load.outcomes.items()):
        table.add_row(activity, outcome, f"{count:,}")
    for name, metrics in locks.items():
        for counter in ("lock_conflicts", "lock_timeouts", "lock_renewals", "lock_losses", "backend_errors"):
            table.add_row(f"locks in {name}", counter, f"{metrics[counter]:,}")
    for message, count in sorted(messages.counts.items()):
        table.add_row("log", Text(message), f"{count:,}")
    console.print(table)
    return judge(read(options.csv), ending, load.outcomes, load.faults)


def print_checks(checks: list[Check], console: Console) -> None:
    """One line each."""
    table = Table("what", "measured", "bound", "", title="Judged", title_justify="left")
    verdicts = {True: "met", False: "[red]missed[/red]", None: ""}
    for check in checks:
        table.add_row(check.what, Text(check.measured), check.bound, verdicts[check.met])
    console.print(table)


def main() -> int:
    """Soak as the command line says; 1 if a bound was missed, 2 if something is lacking."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--in-flight", type=int, default=200)
    parser.add_argument("--loop", choices=["asyncio", "uvloop"], default="asyncio")
    parser.add_argument("--csv", type=Path, default=ROOT / "target" / "soak.csv", help="where samples go")
    parser.add_argument("--chart", type=Path, default=ROOT / "benchmarks" / "charts" / "soak.svg")
    parser.add_argument("--no-chart", action="store_true", help="draw none: matplotlib is not needed then")
    options = parser.parse_args()
    if not options.no_chart and importlib.util.find_spec("matplotlib") is None:
        print(
            "soak: matplotlib is not installed: install the extra `bench`, or pass --no-chart",
            file=sys.stderr,
        )
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_FILE)
    checks = run_in(options.loop, run(options, console))
    print_checks(checks, console)
    if not options.no_chart:
        from benchmarks.soaking.chart import draw

        draw(read(options.csv), options.chart)
    return 1 if any(check.met is False for check in checks) else 0


def run_in(loop: str, work: Coroutine[Any, Any, list[Check]]) -> list[Check]:
    """Run it on a loop of that kind."""
    if loop == "uvloop":
        import uvloop

        return uvloop.run(work)
    return asyncio.run(work)


if __name__ == "__main__":
    sys.exit(main())
