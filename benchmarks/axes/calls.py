"""Calls of a model server: alone, many in flight, all at once, streamed, and at growing sizes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from abc import ABC, abstractmethod
from typing import Any

from benchmarks import model_server, peers
from benchmarks.axes.axis import Column, Figures, Settings, Subject
from benchmarks.measured import percentile
from benchmarks.unmet import Unmet

_BARE = "bare-reqwest"
_SPARE_DESCRIPTORS = 200
_TIMEOUT = 900


def _in_own_process(subject: Subject, **request: Any) -> Figures:
    request |= {"peer": subject.name, "loop": subject.loop}
    return _figures([sys.executable, "-m", "benchmarks.measured", json.dumps(request)], subject)


def _figures(command: list[str], subject: Subject) -> Any:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if ended.returncode:
        last_line = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{subject.name} ended with {ended.returncode}: {last_line}")
    return json.loads(ended.stdout.splitlines()[-1])


class _Calls(ABC):
    """What all of them share: the peers, the server, a limit on descriptors."""

    who = tuple(peers.PEERS)
    reference = peers.OURS
    needs_server = True

    @abstractmethod
    def _most_in_flight(self, settings: Settings) -> int: ...

    def check(self, settings: Settings) -> None:
        peers.check(settings.chosen(self.who))
        model_server.binary("model-server")
        needed = self._most_in_flight(settings) + _SPARE_DESCRIPTORS
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < needed:
            raise Unmet(f"too few open files are allowed: run `ulimit -n {needed}` first")

    def subjects(self, settings: Settings) -> list[Subject]:
        return [
            Subject(name, loop)
            for loop in settings.loops
            for name in settings.chosen(self.who)
            if peers.PEERS[name].make is not None or loop == settings.loops[0]
        ]


_STEADY = (
    Column("cpu_us", "CPU µs/call"),
    Column("calls_per_s", "calls/s"),
    Column("p50_ms", "p50 ms", 2),
    Column("p99_ms", "p99 ms", 2),
)


def _steady(subject: Subject, settings: Settings, in_flight: int, stalls: bool) -> Figures:
    base_url = f"{settings.server}/v1"
    warm_up = settings.seconds / 4
    if subject.name != _BARE:
        return _in_own_process(
            subject,
            kind="load",
            base_url=base_url,
            in_flight=in_flight,
            seconds=settings.seconds,
            warm_up=warm_up,
            stalls=stalls,
        )
    program = str(model_server.binary("bare-client"))
    answer = _figures([program, base_url, str(in_flight), str(settings.seconds), str(warm_up)], subject)
    latencies = answer["latencies"]
    return {
        "cpu_us": answer["cpu_seconds"] / len(latencies) * 1e6,
        "calls_per_s": len(latencies) / answer["seconds"],
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
        "failures": 0,
    }


class Alone(_Calls):
    """One call after another."""

    name = "alone"
    title = "One call at a time"
    columns = _STEADY
    headline = "cpu_us"

    def _most_in_flight(self, settings: Settings) -> int:
        return 1

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        return _steady(subject, settings, 1, stalls=False)


class Load(_Calls):
    """A steady number of calls in flight, against a server that answers at once."""

    columns = (
        *_STEADY,
        Column("worst_stall_ms", "worst stall ms", 1),
        Column("p99_stall_ms", "p99 stall ms", 1),
        Column("rss_growth_kb", "RSS growth KB"),
        Column("failures", "failed"),
    )
    headline = "cpu_us"

    def __init__(self, in_flight: int) -> None:
        self.name = f"load-{in_flight}"
        self.title = f"{in_flight:,} calls in flight, answered at once"
        self.in_flight = in_flight

    def _most_in_flight(self, settings: Settings) -> int:
        return self.in_flight

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        return _steady(subject, settings, self.in_flight, stalls=True)


class Burst(_Calls):
    """Ten thousand calls at once, each answered two seconds later.

    The original's way would take as many times two seconds, threads a thousandth of that: neither is run.
    """

    name = "burst"
    title = "10,000 calls at once, answered after 2 s"
    who = tuple(name for name in peers.PEERS if name not in ("blocking", "to-thread", _BARE))
    columns = (
        Column("seconds", "all done s", 2),
        Column("failures", "failed"),
        Column("cpu_us", "CPU µs/call"),
        Column("worst_stall_ms", "worst stall ms", 1),
        Column("p99_stall_ms", "p99 stall ms", 1),
        Column("rss_growth_kb_per_call", "RSS growth KB/call", 1),
    )
    headline = "seconds"

    def _most_in_flight(self, settings: Settings) -> int:
        return 200 if settings.quick else 10_000

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        delay = 200 if settings.quick else 2_000
        base_url = f"{settings.server}/delay-ms={delay}/v1"
        return _in_own_process(subject, kind="burst", base_url=base_url, calls=self._most_in_flight(settings))


class Streaming(_Calls):
    """Streams side by side, their events 5 ms apart on average."""

    name = "streaming"
    title = "20 streams at once, an event each 5 ms"
    who = tuple(name for name in peers.PEERS if name not in ("blocking", "to-thread", _BARE))
    columns = (
        Column("cpu_us_per_chunk", "CPU µs/chunk", 1),
        Column("loop_wakeups_per_chunk", "loop wake-ups/chunk", 2),
        Column("wakeups_per_chunk", "all wake-ups/chunk", 2),
        Column("handed_over_per_chunk", "pieces/chunk", 2),
    )
    headline = "cpu_us_per_chunk"
    streams = 20

    def _most_in_flight(self, settings: Settings) -> int:
        return self.streams

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        chunks = 20 if settings.quick else 400
        base_url = f"{settings.server}/chunks={chunks}/interval-ms=5/v1"
        return _in_own_process(
            subject, kind="streams", base_url=base_url, in_flight=self.streams, chunks=chunks
        )


class Sizes(_Calls):
    """What a call costs when more and more are in flight: the curve that should be flat."""

    name = "sizes"
    title = "Cost of a call against the number in flight"
    who = (peers.OURS, "openai", "aiohttp", "pyreqwest", _BARE)
    columns = _STEADY
    headline = "cpu_us"

    def _sizes(self, settings: Settings) -> tuple[int, ...]:
        return (1, 10) if settings.quick else (1, 10, 100, 1_000, 10_000)

    def _most_in_flight(self, settings: Settings) -> int:
        return max(self._sizes(settings))

    def subjects(self, settings: Settings) -> list[Subject]:
        first_loop = settings.loops[:1]
        return [
            Subject(name, loop, size)
            for size in self._sizes(settings)
            for loop in first_loop
            for name in settings.chosen(self.who)
        ]

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        return _steady(subject, settings, subject.size, stalls=False)
