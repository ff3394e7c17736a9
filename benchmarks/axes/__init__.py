"""The axes: what can be measured, by name, in the order in which a full run measures it."""

from __future__ import annotations

from benchmarks.axes.axis import Axis
from benchmarks.axes.bridge import Bridge
from benchmarks.axes.calls import Alone, Burst, Load, Sizes, Streaming
from benchmarks.axes.imports import Imports

AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (Bridge(), Imports(), Alone(), Load(100), Load(1_000), Burst(), Streaming(), Sizes())
}
