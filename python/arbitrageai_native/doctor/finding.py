"""What a look found."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Level(Enum):
    """How bad it is.

    Attributes:
        OK: Nothing is to be done.
        WARNING: It works, and may not do so for long, or not as it is meant to.
        ERROR: It does not work.
    """

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """One line of the diagnosis.

    Attributes:
        check: what was looked at.
        level: how bad it is.
        detail: what was found; without secrets.
        fix: what to do, in one sentence; empty if nothing is to be done.
    """

    check: str
    level: Level
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, str]:
        """The same for JSON."""
        return {"check": self.check, "level": self.level.value, "detail": self.detail, "fix": self.fix}
