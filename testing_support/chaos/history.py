"""What happened to one lock, and whether a lock may behave so.

Every worker notes what it asks for and what it is told, with the time, in a file of its own. The database
stands on the same machine, so that its clock and the workers' are one and the same, and its times can be
compared with theirs.

A lock with expiry is linearizable if for each operation a moment between its call and its answer can be
named, so that at these moments, one after another, a lock in a single process would have given the same
answers. In general that is a search; here the answers leave no choice. An acquisition happened at
`acquired_at`, by the database's own clock, and the fencing tokens say in which order. A lock that was
handed over in memory (its token follows the one before without a gap) was acquired at some moment between
call and answer, of which `acquired_at` is an estimate. What remains to be found is the moment at which a
holder ceased to be one: by its release, between call and answer, or by expiry. The earliest such moment is
the best, since it forbids the successor the least.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

CLOCK_GRAIN = 0.002
"""Seconds: times are rounded, and SQLite gives milliseconds."""
ESTIMATE = 0.025
"""Seconds by which the database's clock may be misjudged by a process that hands a lock over in memory."""


class Violation(AssertionError):  # noqa: N818 - what a lock did, not an error of the program's
    """Something that no lock may do."""


@dataclass
class Hold:
    """One acquisition, as its worker saw it. Times are Unix seconds; None: it did not come to that."""

    name: str
    asked: float
    answered: float | None = None
    token: int = 0
    acquired_at: float = 0.0
    """By the database."""
    expires_at: float = 0.0
    """By the database, the last time that the worker heard of it: a renewal may have moved it further."""
    believed: float | None = None
    """The last moment at which the holder looked, and was told that it holds the lock."""
    releasing: float | None = None
    released: float | None = None
    was_ours: bool | None = None
    """The release's answer."""
    loss: str | None = None

    @property
    def earliest_end(self) -> float:
        """The first moment at which another may have it."""
        return self.expires_at if self.releasing is None else min(self.releasing, self.expires_at)


class Notes:
    """A worker's file. What was noted stays when the worker is killed."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._file = os.open(folder / f"{worker}.notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, hold: str, **facts: Any) -> None:
        """Note what became known of a hold."""
        os.write(self._file, json.dumps({"name": hold, **facts}).encode() + b"\n")

    def moment(self, hold: str, what: str, **facts: Any) -> None:
        """Note something that happens now."""
        self.note(hold, **{what: time.time()}, **facts)


def read_history(folder: Path) -> list[Hold]:
    """What all workers noted."""
    holds: dict[str, Hold] = {}
    for file in folder.glob("*.notes"):
        for line in file.read_text().splitlines():
            facts = json.loads(line)
            name = facts.pop("name")
            if name not in holds:
                holds[name] = Hold(name, **facts)
            else:
                vars(holds[name]).update(facts)
    return list(holds.values())


def check_holds(holds: Iterable[Hold]) -> list[Hold]:
    """The holds in the order of holding, if there is one that a lock allows.

    An acquisition without an answer (its worker was killed, or the database did not answer) may have
    happened or not: it forbids nothing.

    Raises:
        Violation: there is no such order.
    """
    order = sorted((hold for hold in holds if hold.answered is not None), key=lambda hold: hold.token)
    moments: list[Moment] = []
    for earlier, hold in zip([None, *order], order, strict=False):
        moments.append(_moment(hold, in_memory=earlier is not None and is_handed_over(earlier, hold)))
    for (earlier, before), (later, after) in pairwise(zip(order, moments, strict=True)):
        _check_succession(earlier, later, before, after)
    return order


def is_handed_over(earlier: Hold, later: Hold) -> bool:
    """Whether the lock went from one to the other in a process's memory: all other tokens leave a gap."""
    return later.token == earlier.token + 1


class Moment(NamedTuple):
    """Between when and when something happened."""

    earliest: float
    latest: float


def _moment(hold: Hold, *, in_memory: bool) -> Moment:
    """When a hold began; refuse a lock that was acquired by somebody who did not ask."""
    assert hold.answered is not None
    tolerance = ESTIMATE if in_memory else CLOCK_GRAIN
    if not hold.asked - tolerance <= hold.acquired_at <= hold.answered + tolerance:
        raise Violation(f"acquired while nobody asked: {hold}")
    if in_memory:
        return Moment(hold.asked, hold.answered)
    return Moment(hold.acquired_at, hold.acquired_at + CLOCK_GRAIN)


def _check_succession(earlier: Hold, later: Hold, before: Moment, after: Moment) -> None:
    """Refuse what the next holder, by its token, can't have seen."""
    if earlier.token == later.token:
        raise Violation(f"two holds with one token: {earlier} and {later}")
    taken = after.latest
    if taken < before.earliest:
        raise Violation(f"the tokens' order is not the order of holding: {earlier} and then {later}")
    if taken < earlier.earliest_end:
        raise Violation(f"two holders by the database's clock: {earlier} and {later}")
    if earlier.believed is not None and taken < earlier.believed:
        raise Violation(f"believed in a lock that another had: {earlier} and {later}")
    if earlier.was_ours and earlier.releasing is not None and taken < earlier.releasing:
        raise Violation(f"released what another had by then: {earlier} and {later}")


@dataclass(frozen=True)
class Visit:
    """A holder's visit to what the lock protects, in the order in which they happened there."""

    token: int
    action: str
    """`enter` raises the fence to the holder's token; `write` stores a value."""
    value: int
    accepted: bool


def check_visits(visits: Iterable[Visit]) -> int:
    """How many writes were accepted, if each followed the one before and every stale visit was turned away.

    Raises:
        Violation: a stale visit was accepted, a good one turned away, or an update was lost.
    """
    fence = stored = writes = 0
    for visit in visits:
        good = visit.token > fence if visit.action == "enter" else visit.token == fence
        if visit.accepted != good:
            raise Violation(f"behind the fence {fence}: {visit}")
        if not visit.accepted:
            continue
        if visit.action == "enter":
            fence = visit.token
        elif visit.value != stored + 1:
            raise Violation(f"an update was lost: {visit} after the value {stored}")
        else:
            stored, writes = visit.value, writes + 1
    return writes
