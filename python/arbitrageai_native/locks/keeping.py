"""How the leases of one manager are kept: for how long, and how a loss is found."""

from __future__ import annotations

from typing import Any

from arbitrageai_native import defaults

__all__ = ["BY_TTL", "Keeping"]

BY_TTL: Any = type("_ByTtl", (), {"__repr__": lambda _: f"{defaults.MAX_HOLD_TTLS} * ttl"})()
"""The default of `max_hold`, in signatures."""


class Keeping:
    """What a manager was given; the arguments of `BidLockManager` have the same names."""

    __slots__ = ("loss_check", "margin", "max_hold")

    def __init__(self, max_hold: float | None, margin: float | None, loss_check: float | None) -> None:
        self.max_hold, self.margin, self.loss_check = max_hold, margin, loss_check

    def longest(self, ttl: float) -> float | None:
        """Return the seconds for which a lock is renewed at most; None for no limit."""
        if self.max_hold is not BY_TTL:
            return self.max_hold
        try:
            return defaults.MAX_HOLD_TTLS * ttl
        except TypeError:  # a `ttl` of a wrong type is refused by its own name
            return None

    def terms(self, ttl: float, auto_renew: bool, margin: float | None = None) -> dict[str, Any]:
        """Return the keywords of a lease, which has its own `margin` unless it is None."""
        return {
            "ttl": ttl,
            "auto_renew": auto_renew,
            "max_hold": self.longest(ttl),
            "margin": self.margin if margin is None else margin,
            "loss_check": self.loss_check,
        }
