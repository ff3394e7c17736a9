"""Waiting for locks that others hold: what it costs, how soon it ends, and what it does to the loop."""

from __future__ import annotations

from benchmarks import installed
from benchmarks.axes.axis import Column, Figures, Settings, Subject
from benchmarks.axes.locks import OnStores
from benchmarks.lock_peers import LockPeer, find


class Waiting(OnStores):
    """A thousand waiters that nobody serves; a crowd for one lock; locks that expire; a busy loop's waits."""

    name = "waiting"
    title = "Waiting for locks that others hold"
    columns = (
        Column("idle_percent", "CPU of 1,000 waiters, % of a core", 2),
        Column("idle_statements", "their statements/s", 1),
        Column("takeover_ms", "taken over after expiry ms", 1),
        Column("late_ms", "500 waiters: latest timeout ms", 1),
        Column("loop_excess_ms", "loop's p99.9 above an idle one ms", 1),
    )
    headline = "idle_percent"
    reference = ""
    most_rounds = 1
    note = "One round, since what is measured is a mean over time. SQLite has no server that would count."

    def takes_part(self, peer: LockPeer) -> bool:
        return peer.name == installed.OURS

    def distributions(self, settings: Settings) -> set[str]:
        """The holder of the locks that are waited for is the original's."""
        holders = (find("original", store) for store in settings.stores)
        return super().distributions(settings).union(*(holder.needs for holder in holders))

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        return self.measured(subject, settings, kind="waiting", quick=settings.quick)
