"""The axes: what can be measured, by name, in the order in which a full run measures it."""

from __future__ import annotations

from benchmarks.axes.axis import Axis
from benchmarks.axes.bridge import Bridge
from benchmarks.axes.calls import Alone, Burst, Load, Streaming
from benchmarks.axes.hand_off import HandOff
from benchmarks.axes.imports import Imports
from benchmarks.axes.locks import Locks
from benchmarks.axes.sizes import CallSizes, HeldSizes, WaiterSizes
from benchmarks.axes.waiting import Waiting

AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Bridge(),
        Imports(),
        Alone(),
        Load(100),
        Load(1_000),
        Burst(),
        Streaming(),
        Locks(1),
        Locks(100),
        HandOff(),
        Waiting(),
        CallSizes(),
        HeldSizes(),
        WaiterSizes(),
    )
}


def named(name: str) -> list[Axis]:
    """The axis of this name; or all that begin with it: `locks` is `locks-alone` and `locks-100`."""
    return [axis for axis in AXES.values() if axis.name == name or axis.name.startswith(f"{name}-")]
