"""What one operation costs when there are more and more of something: the curve that should be flat."""

from __future__ import annotations

from abc import ABC, abstractmethod

from benchmarks import installed, peers
from benchmarks.axes.axis import Column, Figures, Settings, Subject
from benchmarks.axes.calls import STEADY, Calls, steady_load
from benchmarks.axes.locks import OnStores
from benchmarks.lock_peers import LockPeer


class CallSizes(Calls):
    """Calls in flight, from one to ten thousand."""

    name = "sizes-calls"
    title = "Cost of a call against the number in flight"
    who = (peers.OURS, "aiohttp", "pyreqwest", peers.BARE)
    columns = STEADY
    headline = "cpu_us"

    def _sizes(self, settings: Settings) -> tuple[int, ...]:
        return (1, 10) if settings.quick else (1, 100, 1_000, 10_000)

    def _most_in_flight(self, settings: Settings) -> int:
        return max(self._sizes(settings))

    def subjects(self, settings: Settings) -> list[Subject]:
        return [
            Subject(name, settings.loops[0], size)
            for size in self._sizes(settings)
            for name in self.chosen(settings)
        ]

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        return steady_load(subject, settings, subject.size, stalls=False)


class _LockSizes(OnStores, ABC):
    """What locking costs on each store beside many others' locks."""

    reference = ""
    kind: str

    @abstractmethod
    def _sizes(self, settings: Settings) -> tuple[int, ...]: ...

    def takes_part(self, peer: LockPeer) -> bool:
        return peer.name == installed.OURS

    def subjects(self, settings: Settings) -> list[Subject]:
        return [
            Subject(peer.name, settings.loops[0], size, peer.store)
            for peer in self.chosen(settings)
            for size in self._sizes(settings)
        ]

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        pairs = 20 if settings.quick else 300
        return self.measured(subject, settings, kind=self.kind, count=subject.size, pairs=pairs)


class HeldSizes(_LockSizes):
    """Locks held by the process, from one to a hundred thousand."""

    name = "sizes-held"
    title = "Cost of a lock against the number of locks held"
    columns = (Column("pair_us", "µs/pair"), Column("cpu_us", "CPU µs/pair"))
    headline = "pair_us"
    size = "held"
    kind = "held"

    def _sizes(self, settings: Settings) -> tuple[int, ...]:
        return (1, 100) if settings.quick else (1, 100, 10_000, 100_000)


class WaiterSizes(_LockSizes):
    """Tasks that wait for one lock, from one to ten thousand."""

    name = "sizes-waiters"
    title = "Cost of a hand-off against the number of waiters"
    columns = (
        Column("served_us", "µs/waiter served"),
        Column("pair_us", "µs/pair of another key"),
        Column("cpu_us", "CPU µs/pair"),
    )
    headline = "served_us"
    size = "waiting"
    kind = "waiters"

    def _sizes(self, settings: Settings) -> tuple[int, ...]:
        return (1, 100) if settings.quick else (1, 100, 10_000)
