"""One await across the boundary that has nothing to do."""

from __future__ import annotations

from benchmarks import installed
from benchmarks.axes.axis import Column, Figures, Plain, Settings, Subject
from benchmarks.axes.own_process import measured_in

_WAYS = ("this bridge", "stock bridge", "asyncio.sleep(0)")


class Bridge(Plain):
    """The package's bridge, the stock one, and the floor; 100 tasks at once."""

    name = "bridge"
    title = "One no-op await across the boundary, 100 tasks at once"
    columns = (Column("cpu_us", "CPU µs/await", 2), Column("awaits_per_s", "awaits/s"))
    headline = "cpu_us"
    reference = _WAYS[0]

    def check(self, settings: Settings) -> None:
        installed.require([installed.OURS])

    def subjects(self, settings: Settings) -> list[Subject]:
        return [Subject(way, loop) for loop in settings.loops for way in _WAYS]

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        calls = 2_000 if settings.quick else 50_000
        request = {"way": subject.name, "loop": subject.loop, "calls": calls, "tasks": 100}
        return measured_in("bridge", subject.name, **request)
