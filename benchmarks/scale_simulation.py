"""Scanners that compete for postings over one database of locks, simulated event by event.

    python benchmarks/scale_simulation.py [--store postgresql] [--postings-a-day 10000000] [--outage 10] …

The database is a queue with so many workers; how long each operation keeps one is measured (`scale.json`).
Postings come at random (Poisson), service times are exponential: both are harsher than most days.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import statistics
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).parent / "scale.json"
DAY = 86_400


@dataclass(frozen=True)
class Load:
    """What scanners ask of the database."""

    postings_a_day: float = 10_000_000
    peak: float = 5
    """The busiest hour, in multiples of the day's average."""
    contenders: float = 3
    """Scanners that see a posting and want it."""
    spread: float = 1.0
    """Seconds within which all of them have seen it."""
    hold: float = 20.0
    """Seconds for which the winner keeps the lock: a model's answer, and the bid."""
    ttl: float = 60.0

    @property
    def postings_a_second(self) -> float:
        """In the busiest hour."""
        return self.postings_a_day / DAY * self.peak

    def operations_a_posting(self) -> dict[str, float]:
        """One contender wins, the others are refused; the lock is renewed, and released."""
        renewals = expected_renewals(self.hold, self.ttl / 3)
        return {"acquire": 1.0, "refused": self.contenders - 1, "renew": renewals, "release": 1.0}


def expected_renewals(hold: float, interval: float) -> float:
    """On average, where holds are spread evenly from half of `hold` to one and a half."""
    points = [hold * (0.5 + (number + 0.5) / 1000) for number in range(1000)]
    return statistics.fmean(point // interval for point in points)


@dataclass(frozen=True)
class Database:
    """How long each operation keeps a worker of the database, and how many workers there are."""

    seconds: Mapping[str, float]
    workers: int

    def utilisation(self, load: Load) -> float:
        """The share of its capacity that is used in the busiest hour; from 1 on the queue grows for ever."""
        a_posting = sum(self.seconds[name] * times for name, times in load.operations_a_posting().items())
        return load.postings_a_second * a_posting / self.workers


@dataclass
class Outcome:
    """What was seen, from when the first holders have ended on."""

    operations: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    busy: float = 0.0
    """Seconds of all workers together."""
    seconds: float = 0.0
    workers: int = 1
    longest_queue: int = 0
    most_held: int = 0
    lost: int = 0
    """Leases that expired while their holders worked."""

    @property
    def utilisation(self) -> float:
        return self.busy / self.seconds / self.workers

    def latency(self, share: float) -> float:
        """Seconds that all but this share of the operations took at most."""
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


@dataclass
class Grant:
    """A lock that a scanner works under."""

    posting: int
    expires_at: float
    ends_at: float


@dataclass
class Job:
    """One operation on its way."""

    name: str
    posting: int
    asked_at: float
    done: Callable[[], None]


class Simulation:
    """Time passes from event to event; what an event does may schedule others."""

    def __init__(self, database: Database, load: Load, seed: int = 1) -> None:
        self._database = database
        self._load = load
        self._random = random.Random(seed)
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._queue: deque[Job] = deque()
        self._idle = database.workers
        self._away_until = 0.0
        self._held: dict[int, Grant] = {}
        self._bid: set[int] = set()
        self._settled = 2 * load.hold + load.spread
        self.outcome = Outcome(workers=database.workers)

    def run(self, seconds: float, outage: tuple[float, float] | None = None) -> Outcome:
        """Let so much time pass after all has settled. In an outage (begin, length) nothing is served."""
        self.outcome.seconds = seconds
        if outage is not None:
            begin, length = outage
            self._at(self._settled + begin, lambda: self._go_away(length))
        self._at(0.0, lambda: self._arrive(0))
        while self._events and self._events[0][0] <= self._settled + seconds:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        return self.outcome

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (time, self._number, happen))

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        self._at(self._now + seconds, happen)

    # --- the scanners ---

    def _arrive(self, posting: int) -> None:
        """A posting appears, and is seen by its contenders; the next one is on its way."""
        count = int(self._load.contenders) + (self._random.random() < self._load.contenders % 1)
        for _ in range(count):
            seen = self._random.random() * self._load.spread
            self._after(seen, lambda: self._ask("acquire", posting, lambda: self._work(posting)))
        self._after(self._random.expovariate(self._load.postings_a_second), lambda: self._arrive(posting + 1))

    def _work(self, posting: int) -> None:
        """The winner works, half as long as usual at least and half as long again at most."""
        grant = self._held[posting]
        hold = self._load.hold * self._random.uniform(0.5, 1.5)
        grant.ends_at = self._now + hold
        self._after(self._load.ttl / 3, lambda: self._renew(grant))
        self._after(hold, lambda: self._finish(grant))

    def _renew(self, grant: Grant) -> None:
        if self._now < grant.ends_at:
            self._ask("renew", grant.posting, lambda: self._renewed(grant))

    def _renewed(self, grant: Grant) -> None:
        if self._is_held(grant):
            grant.expires_at = self._now + self._load.ttl
            self._after(self._load.ttl / 3, lambda: self._renew(grant))

    def _finish(self, grant: Grant) -> None:
        if not self._is_held(grant):
            self.outcome.lost += 1
        self._bid.add(grant.posting)
        self._ask("release", grant.posting, lambda: self._released(grant))

    def _released(self, grant: Grant) -> None:
        if self._held.get(grant.posting) is grant:
            del self._held[grant.posting]

    def _is_held(self, grant: Grant) -> bool:
        return self._held.get(grant.posting) is grant and self._now < grant.expires_at

    # --- the database ---

    def _ask(self, name: str, posting: int, done: Callable[[], None]) -> None:
        self._queue.append(Job(name, posting, self._now, done))
        self.outcome.longest_queue = max(self.outcome.longest_queue, len(self._queue))
        self._serve()

    def _go_away(self, seconds: float) -> None:
        self._away_until = self._now + seconds
        self._at(self._away_until, self._serve)

    def _serve(self) -> None:
        while self._queue and self._idle and self._now >= self._away_until:
            self._idle -= 1
            self._begin(self._queue.popleft())

    def _begin(self, job: Job) -> None:
        if job.name == "acquire":
            self._decide(job)
        seconds = self._random.expovariate(1 / self._database.seconds[job.name])
        if self._now >= self._settled:
            self.outcome.busy += seconds
        self._after(seconds, lambda: self._served(job))

    def _decide(self, job: Job) -> None:
        """Whoever comes when the bid is placed sees that, and goes."""
        held = self._held.get(job.posting)
        if job.posting in self._bid or (held is not None and self._now < held.expires_at):
            job.name = "refused"
            return
        self._held[job.posting] = Grant(job.posting, self._now + self._load.ttl, self._now)
        self.outcome.most_held = max(self.outcome.most_held, len(self._held))

    def _served(self, job: Job) -> None:
        self._idle += 1
        if self._now >= self._settled:
            self.outcome.operations[job.name] += 1
            self.outcome.latencies.append(self._now - job.asked_at)
        if job.name != "refused":
            job.done()
        self._serve()


def measured_database(figures: Mapping[str, Any], store: str, workers: int | None = None) -> Database:
    """As it was measured: PostgreSQL works on every core, Redis on one, and SQLite's file has one writer."""
    of_store = figures["stores"][store]
    if store == "sqlite":
        # Processes share the file, so that what each of them takes of the writer's time is what counts.
        writing = 0.5 / of_store["pairs_a_second"]["processes"]
        reading = of_store["operations"]["refused"]["cpu"]
        return Database({"acquire": writing, "refused": reading, "renew": writing, "release": writing}, 1)
    seconds = {
        name: of_store["operations"][name]["cpu"] for name in ("acquire", "refused", "renew", "release")
    }
    return Database(seconds, 1 if store == "redis" else workers or figures["about"]["cores"])


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description="Scanners that compete over one database of locks.")
    parser.add_argument("--store", default="postgresql", choices=("sqlite", "postgresql", "redis"))
    parser.add_argument("--workers", type=int, help="cores of a PostgreSQL server (default: as measured)")
    parser.add_argument("--postings-a-day", type=float, default=Load.postings_a_day)
    parser.add_argument("--peak", type=float, default=Load.peak)
    parser.add_argument("--contenders", type=float, default=Load.contenders)
    parser.add_argument("--hold", type=float, default=Load.hold, help="seconds")
    parser.add_argument("--ttl", type=float, default=Load.ttl, help="seconds")
    parser.add_argument("--seconds", type=float, default=300.0, help="of simulated time (default: 300)")
    parser.add_argument(
        "--outage", type=float, default=0.0, help="seconds without the database, in the middle"
    )
    arguments = parser.parse_args()
    load = Load(
        arguments.postings_a_day, arguments.peak, arguments.contenders, hold=arguments.hold, ttl=arguments.ttl
    )
    database = measured_database(json.loads(FIGURES.read_text()), arguments.store, arguments.workers)
    outage = (arguments.seconds / 2, arguments.outage) if arguments.outage else None
    outcome = Simulation(database, load).run(arguments.seconds, outage)
    operations = sum(outcome.operations.values()) / outcome.seconds
    print(f"{load.postings_a_second:,.0f} postings/s, {operations:,.0f} operations/s")
    print(f"utilisation {outcome.utilisation:.1%} (computed: {database.utilisation(load):.1%})")
    print(
        f"an operation takes {statistics.fmean(outcome.latencies) * 1e3:.2f} ms,"
        f" p99 {outcome.latency(0.99) * 1e3:.2f} ms, at most {max(outcome.latencies) * 1e3:,.0f} ms"
    )
    print(
        f"longest queue {outcome.longest_queue:,}, most locks held {outcome.most_held:,}, lost {outcome.lost}"
    )


if __name__ == "__main__":
    main()
