"""From one's release to the next one's acquisition, for a lock that is waited for."""

from __future__ import annotations

import random
import statistics
import time
from contextlib import ExitStack

from benchmarks.axes.axis import Column, Figures, Settings, Subject
from benchmarks.axes.locks import OnStores
from benchmarks.hands import Process
from benchmarks.lock_peers import LockPeer, find

_WAITERS = 20
_HOLD = 0.005


class HandOff(OnStores):
    """In one process, between two, and through a queue of twenty that hold the lock for 5 ms each."""

    name = "hand-off"
    title = "Hand-off of a lock, from the release to the next acquisition"
    columns = (
        Column("within_ms", "one process ms", 2),
        Column("between_ms", "two processes ms", 2),
        Column("queue", "20 waiters / their holds", 2),
    )
    headline = "between_ms"
    note = (
        "Who can't wait asks every 0.1 s, as the original does. "
        "The original on SQLAlchemy is spared the 20 waiters: the sixteenth gets no connection, "
        "and stops the loop for half a minute."
    )

    def takes_part(self, peer: LockPeer) -> bool:
        return peer.waits

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        times = 2 if settings.quick else 6
        url = settings.databases[subject.store].fresh()
        with ExitStack() as stack:
            one, other = (stack.enter_context(Process(subject, url)) for _ in range(2))
            figures = {
                "within_ms": _hand_over(one, one, times) * 1e3,
                "between_ms": _hand_over(one, other, times) * 1e3,
            }
            if find(subject.name, subject.store).crowds:
                figures["queue"] = one.queue(_WAITERS, _HOLD)
        return figures


def _hand_over(one: Process, other: Process, times: int) -> float:
    """The median of the seconds that the lock is nobody's, handed to and fro.

    The wait before each release is as long as it happens: who asks every 0.1 s is met anywhere in between.
    """
    hands = [one.hand(), other.hand()]
    hands[0].take()
    hands[0].taken()
    gaps = []
    for _ in range(times):
        giver, taker = hands
        taker.take()
        time.sleep(random.uniform(0.02, 0.12))
        giver.give()
        gaps.append(taker.taken() - giver.given())
        hands.reverse()
    hands[0].give()
    hands[0].given()
    return statistics.median(gaps)
