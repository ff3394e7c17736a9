"""One await across the boundary that has nothing to do."""

from __future__ import annotations

from importlib.util import find_spec

from benchmarks import peers
from benchmarks.axes.axis import Column, Figures, Settings, Subject
from benchmarks.unmet import Unmet


class Bridge:
    """The package's bridge, the stock one, and the floor; 100 tasks at once."""

    name = "bridge"
    title = "One no-op await across the boundary, 100 tasks at once"
    columns = (Column("cpu_us", "CPU µs/await", 2), Column("awaits_per_s", "awaits/s"))
    headline = "cpu_us"
    reference = "this bridge"
    needs_server = False

    def check(self, settings: Settings) -> None:
        peers.check([peers.OURS])
        if find_spec("uvloop") is None:
            raise Unmet("not installed: uvloop; run `pip install '.[bench]'`")

    def subjects(self, settings: Settings) -> list[Subject]:
        from benchmarks.bridge import WAYS

        return [Subject(way, loop) for loop in settings.loops for way in WAYS]

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        from benchmarks.bridge import NEW_LOOP, WAYS, measure

        calls = 2_000 if settings.quick else 50_000
        cost = measure(NEW_LOOP[subject.loop], WAYS[subject.name], calls, 100)
        return {"cpu_us": cost.cpu * 1e6, "awaits_per_s": 1 / cost.wall}
