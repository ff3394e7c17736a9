"""Locks that nobody contends for: how many a second, and what they cost the client."""

from __future__ import annotations

from abc import ABC, abstractmethod

from benchmarks import installed, lock_peers, pgbench, stores
from benchmarks.axes.axis import Column, Figures, Plain, Settings, Subject, require_descriptors
from benchmarks.axes.own_process import measured_in
from benchmarks.lock_peers import KEYS, LockPeer

_DESCRIPTORS = 200
_PGBENCH_CLIENTS = 8


class OnStores(Plain, ABC):
    """What all comparisons of locks share: peers on stores, their servers."""

    reference = installed.OURS
    needs_stores = True

    @abstractmethod
    def takes_part(self, peer: LockPeer) -> bool:
        """Whether this can be measured of a peer."""

    def chosen(self, settings: Settings) -> list[LockPeer]:
        return [peer for peer in lock_peers.chosen(settings) if self.takes_part(peer)]

    def distributions(self, settings: Settings) -> set[str]:
        return lock_peers.distributions(self.chosen(settings)) | stores.distributions(settings.stores)

    def check(self, settings: Settings) -> None:
        installed.require(self.distributions(settings))
        require_descriptors(_DESCRIPTORS)

    def subjects(self, settings: Settings) -> list[Subject]:
        return [
            Subject(peer.name, loop, store=peer.store)
            for loop in settings.loops[:1]
            for peer in self.chosen(settings)
        ]

    def measured(self, subject: Subject, settings: Settings, **request: object) -> Figures:
        """In a process of its own, on an empty database."""
        return measured_in(
            "measured_locks",
            subject.name,
            peer=subject.name,
            store=subject.store,
            loop=subject.loop,
            url=settings.databases[subject.store].fresh(),
            **request,
        )


class Locks(OnStores):
    """Callers side by side, each with keys of its own: acquire, release, again."""

    headline = "pairs_per_s"

    def __init__(self, callers: int) -> None:
        alone = callers == 1
        self.name = "locks-alone" if alone else f"locks-{callers}"
        self.title = (
            "Lock and release, one at a time" if alone else f"Lock and release, {callers} keys at once"
        )
        self.callers = callers
        self.columns: tuple[Column, ...] = (
            Column("pairs_per_s", "pairs/s"),
            Column("cpu_us", "CPU µs/pair"),
            Column("p50_ms", "p50 ms", 2),
            Column("p99_ms", "p99 ms", 2),
        )
        if not alone:
            self.columns += (Column("worst_stall_ms", "worst stall ms", 1),)
            self.note = f"`pgbench` runs {_PGBENCH_CLIENTS} clients."

    def takes_part(self, peer: LockPeer) -> bool:
        return True

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        if subject.name in lock_peers.PROGRAMS:
            url = settings.databases[subject.store].fresh()
            clients = min(self.callers, _PGBENCH_CLIENTS)
            return {"pairs_per_s": pgbench.pairs_per_second(subject.name, url, clients, settings.seconds)}
        return self.measured(
            subject,
            settings,
            kind="pairs",
            callers=self.callers,
            keys=KEYS,
            seconds=settings.seconds,
            stalls=self.callers > 1,
        )
