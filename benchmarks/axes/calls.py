"""Calls of a model server: alone, many in flight, all at once, streamed."""

from __future__ import annotations

from abc import ABC, abstractmethod

from benchmarks import installed, model_server, peers
from benchmarks.axes.axis import Column, Figures, Plain, Settings, Subject, require_descriptors
from benchmarks.axes.own_process import figures_of, measured_in
from benchmarks.measured import percentile

_THREADS = ("blocking", "to-thread")
_SLOW = ("litellm", "httpx", *_THREADS)
# So many calls at once, and every peer has answered within a second.
_WAVE = 100
_IN_PYTHON = tuple(name for name in peers.PEERS if name not in (*_THREADS, peers.BARE))


class Calls(Plain, ABC):
    """What all of them share: the peers, the server, a limit on descriptors."""

    who = tuple(peers.PEERS)
    only_if_named: tuple[str, ...] = ()
    """Peers that would take minutes a round."""
    on_one_loop: tuple[str, ...] = _SLOW
    """Peers whose cost is not the event loop's: run on the first one only."""
    reference = peers.OURS
    needs_server = True
    size = "in flight"

    @abstractmethod
    def _most_in_flight(self, settings: Settings) -> int: ...

    @property
    def note(self) -> str:
        """Who is left out."""
        if not self.only_if_named:
            return ""
        return f"Only run if named with `--peers`, since a round takes long: {', '.join(self.only_if_named)}."

    def chosen(self, settings: Settings) -> list[str]:
        return settings.chosen(self.who, self.only_if_named)

    def check(self, settings: Settings) -> None:
        installed.require(peers.distributions(self.chosen(settings)))
        require_descriptors(self._most_in_flight(settings))
        model_server.binary("model-server")

    def subjects(self, settings: Settings) -> list[Subject]:
        return [
            Subject(name, loop)
            for loop in settings.loops
            for name in self.chosen(settings)
            if name not in (*peers.PROGRAMS, *self.on_one_loop) or loop == settings.loops[0]
        ]


STEADY = (
    Column("cpu_us", "CPU µs/call"),
    Column("calls_per_s", "calls/s"),
    Column("p50_ms", "p50 ms", 2),
    Column("p99_ms", "p99 ms", 2),
)


def _measured(subject: Subject, **request: object) -> Figures:
    return measured_in("measured", subject.name, peer=subject.name, loop=subject.loop, **request)


def steady_load(subject: Subject, settings: Settings, in_flight: int, stalls: bool) -> Figures:
    """So many calls in flight for `settings.seconds`."""
    base_url = f"{settings.server}/v1"
    warm_up = settings.seconds / 4
    if subject.name != peers.BARE:
        return _measured(
            subject,
            kind="load",
            base_url=base_url,
            in_flight=in_flight,
            seconds=settings.seconds,
            warm_up=warm_up,
            stalls=stalls,
        )
    program = str(model_server.binary("bare-client"))
    command = [program, base_url, str(in_flight), str(settings.seconds), str(warm_up)]
    answer = figures_of(command, subject.name)
    latencies = answer["latencies"]
    return {
        "cpu_us": answer["cpu_seconds"] / len(latencies) * 1e6,
        "calls_per_s": len(latencies) / answer["seconds"],
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
        "failures": 0,
    }


class Alone(Calls):
    """One call after another."""

    name = "alone"
    title = "One call at a time"
    columns = STEADY
    headline = "cpu_us"

    def _most_in_flight(self, settings: Settings) -> int:
        return 1

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        return steady_load(subject, settings, 1, stalls=False)


class Load(Calls):
    """A steady number of calls in flight, against a server that answers at once."""

    columns = (
        *STEADY,
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
        if in_flight > _WAVE:
            self.only_if_named = _SLOW
            self.on_one_loop = ("openai", "openai-aiohttp", *_SLOW)

    def _most_in_flight(self, settings: Settings) -> int:
        return min(self.in_flight, _WAVE) if settings.quick else self.in_flight

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        return steady_load(subject, settings, self._most_in_flight(settings), stalls=True)


class Burst(Calls):
    """Ten thousand calls at once, each answered two seconds later.

    The original's way would take as many times two seconds, threads a thousandth of that: neither is run.
    """

    name = "burst"
    title = "10,000 calls at once, answered after 2 s"
    who = _IN_PYTHON
    only_if_named = ("openai", "openai-aiohttp", "litellm", "httpx")
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
        return _measured(subject, kind="burst", base_url=base_url, calls=self._most_in_flight(settings))


class Streaming(Calls):
    """Streams side by side, their events 5 ms apart on average."""

    name = "streaming"
    title = "20 streams at once, an event each 5 ms"
    who = _IN_PYTHON
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
        return _measured(subject, kind="streams", base_url=base_url, in_flight=self.streams, chunks=chunks)
