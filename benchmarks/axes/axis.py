"""What an axis is: subjects that take turns, and figures of each."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.stores import TITLES, Store
from benchmarks.unmet import Unmet

Figures = dict[str, float]
_SPARE_DESCRIPTORS = 200


@dataclass(frozen=True)
class Column:
    """One figure of every subject."""

    key: str
    heading: str
    digits: int = 0
    """After the decimal point."""


@dataclass(frozen=True)
class Subject:
    """Who is measured, and on which event loop and store, if on one."""

    name: str
    loop: str = ""
    size: int = 0
    """How much of it at once, where that is what varies."""
    store: str = ""

    def __str__(self) -> str:
        size = f"{self.size:,}" if self.size else ""
        return " ".join(filter(None, (self.name, self.store, self.loop, size)))


@dataclass(frozen=True)
class Settings:
    """Of a run."""

    rounds: int
    seconds: float
    """How long one measurement of a steady load lasts."""
    loops: tuple[str, ...]
    quick: bool
    stores: tuple[str, ...] = tuple(TITLES)
    server: str = ""
    """`http://127.0.0.1:PORT`, while a server is running."""
    databases: Mapping[str, Store] = field(default_factory=dict)
    """Those of `stores`, while they are running."""
    peers: tuple[str, ...] = ()
    """Only these, if any."""
    without: tuple[str, ...] = ()

    def chosen(self, names: tuple[str, ...], only_if_named: tuple[str, ...] = ()) -> list[str]:
        """Those of `names` that the user wants."""
        return [
            name
            for name in names
            if name not in self.without and (name in self.peers or not (self.peers or name in only_if_named))
        ]


class Axis(Protocol):
    """One comparison."""

    name: str
    title: str
    columns: tuple[Column, ...]
    headline: str
    """The column that ratios are made of."""
    reference: str
    """The subject that every other one is compared with; empty if nothing is compared."""
    needs_server: bool
    needs_stores: bool
    size: str
    """What a subject's size counts."""
    note: str
    """What a reader of the table has to know, such as who is left out and why."""
    most_rounds: int | None
    """None: as many as the run has."""

    def check(self, settings: Settings) -> None:
        """Raise `Unmet` if the run would fail."""

    def subjects(self, settings: Settings) -> list[Subject]:
        """In the order in which they take turns."""

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        """One round of one subject."""


class Plain:
    """What most axes have in common."""

    needs_server = False
    needs_stores = False
    size = ""
    note = ""
    most_rounds: int | None = None


def require_descriptors(in_use: int) -> None:
    """Raise `Unmet` unless this process may open so many files and some more."""
    needed = in_use + _SPARE_DESCRIPTORS
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < needed:
        raise Unmet(f"too few open files are allowed: run `ulimit -n {needed}` first")
