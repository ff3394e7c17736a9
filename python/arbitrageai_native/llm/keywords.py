"""Keywords that are probably misspelt: one edit away from a name that is known."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection

# Members of requests that other servers know, though OpenAI's API has others of nearly the same name.
_OF_OTHERS = frozenset(("models", "top_a", "top_k", "top_n"))

# A shorter name has too many neighbours that mean something else.
_SHORTEST = 4


def meant(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is one edit away: a letter more, fewer, another, or two exchanged."""
    if len(name) < _SHORTEST or name in known or name in _OF_OTHERS:
        return None
    return next((other for other in known if _is_one_edit_away(name, other)), None)


def warn_of_misspelt(names: Collection[str], known: Collection[str]) -> None:
    """Warn of names that are probably misspelt, at the line outside this package that gave them."""
    for name in names:
        other = meant(name, known)
        if other is not None:
            warnings.warn(
                f"{name} is no setting of a call, and is sent to the server: did you mean {other}?",
                UserWarning,
                stacklevel=levels_to_caller(),
            )


def _is_one_edit_away(name: str, other: str) -> bool:
    if abs(len(name) - len(other)) > 1 or len(other) < _SHORTEST:
        return False
    start = 0
    while start < min(len(name), len(other)) and name[start] == other[start]:
        start += 1
    ours, theirs = name[start:], other[start:]
    return (
        ours[1:] == theirs[1:]
        or ours[1:] == theirs
        or ours == theirs[1:]
        or (ours[:2] == theirs[1::-1] and ours[2:] == theirs[2:])
    )


def levels_to_caller() -> int:
    """Return the `stacklevel` of the first line outside this package."""
    package = __name__.partition(".")[0]
    frame, levels = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, levels = frame.f_back, levels + 1
    return levels
