"""What an axis is: subjects that take turns, and figures of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Figures = dict[str, float]


@dataclass(frozen=True)
class Column:
    """One figure of every subject."""

    key: str
    heading: str
    digits: int = 0
    """After the decimal point."""


@dataclass(frozen=True)
class Subject:
    """Who is measured, and on which event loop, if on one."""

    name: str
    loop: str = ""
    size: int = 0
    """How much of it at once, where that is what varies."""


@dataclass(frozen=True)
class Settings:
    """Of a run."""

    rounds: int
    seconds: float
    """How long one measurement of a steady load lasts."""
    loops: tuple[str, ...]
    quick: bool
    server: str = ""
    """`http://127.0.0.1:PORT`, while a server is running."""
    peers: tuple[str, ...] = ()
    """Only these, if any."""
    without: tuple[str, ...] = ()

    def chosen(self, names: tuple[str, ...]) -> list[str]:
        """Those of `names` that the user wants."""
        return [name for name in names if name not in self.without and (not self.peers or name in self.peers)]


class Axis(Protocol):
    """One comparison."""

    name: str
    title: str
    columns: tuple[Column, ...]
    headline: str
    """The column that ratios are made of."""
    reference: str
    """The subject that every other one is compared with."""
    needs_server: bool

    def check(self, settings: Settings) -> None:
        """Raise `Unmet` if the run would fail."""

    def subjects(self, settings: Settings) -> list[Subject]:
        """In the order in which they take turns."""

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        """One round of one subject."""
