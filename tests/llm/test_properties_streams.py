"""Any sequence of operations on a stream, against a model of it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from typing import Any

import pytest
import uvloop
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from arbitrageai_native import LLMService, _native, exceptions
from arbitrageai_native.llm.streams import AsyncStream
from testing_support.keys import KEY
from testing_support.loops import LoopWithoutReaders
from testing_support.servers import faulty_http as faulty
from tests.properties import examples

SECONDS = 10.0
GRACE = 1.0
LOOPS = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
    "portable": LoopWithoutReaders,
}


class Script:
    """The server's side of one stream, sent when the test says so."""

    def __init__(self) -> None:
        self.orders: queue.Queue[bytes | str] = queue.Queue()
        self.server = faulty.FaultyServer(self._serve)

    def _serve(self, connection: faulty.Connection) -> bool:
        connection.send(faulty.head(200, "Content-Type: text/event-stream", "Transfer-Encoding: chunked"))
        while isinstance(order := self.orders.get(), bytes):
            connection.send(b"%x\r\n%s\r\n" % (len(order), order))
        if order == "done":
            connection.send(b"0\r\n\r\n")
        return faulty.end(connection, order)

    def close(self) -> None:
        self.orders.put("close")
        self.server.close()


class StreamMachine(RuleBasedStateMachine):
    """Callers that come and go, and a server that sends, falls silent, ends or breaks off."""

    def __init__(self) -> None:
        super().__init__()
        self.script = Script()
        self.sent = 0
        self.ending: str | None = None
        self.received: list[str] = []
        self.ends: list[BaseException | None] = []
        self.waits: list[asyncio.Task[None]] = []
        self.closed = False
        # A slow machine may let the grace period pass between two steps.
        self.given_up_at = float("inf")
        self.may_be_abandoned = False

    @initialize(kind=st.sampled_from(sorted(LOOPS)))
    def open(self, kind: str) -> None:
        self.loop = LOOPS[kind]()
        service = LLMService(
            base_url=self.script.server.base_url, api_key=KEY, enable_circuit_breaker=False, max_retries=0
        )
        self.stream: AsyncStream[str] | None = service.complete_streaming_async("hi")
        self.requests = _native.requests_under_way()

    async def wait_for_a_piece(self) -> None:
        assert self.stream is not None
        try:
            self.received.append(await self.stream.__anext__())
        except StopAsyncIteration:
            self.ends.append(None)
        except exceptions.OpenAIError as error:
            self.ends.append(error)

    def run(self, seconds: float = 0.0, turns: int = 1) -> None:
        async def some() -> None:
            await asyncio.sleep(seconds)
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(some())
        self.waits = [wait for wait in self.waits if not wait.done()]

    # --- the server ---

    @precondition(lambda self: self.ending is None)
    @rule(count=st.integers(1, 3))
    def send(self, count: int) -> None:
        pieces = b"".join(faulty.chunk(f"{self.sent + number + 1},") for number in range(count))
        self.sent += count
        self.script.orders.put(pieces)

    @precondition(lambda self: self.ending is None)
    @rule(ending=st.sampled_from(["done", "done", "close", "reset"]))
    def end(self, ending: str) -> None:
        self.ending = ending
        if ending == "done":
            self.script.orders.put(faulty.DONE)
        self.script.orders.put(ending)

    # --- the callers ---

    # What depends on when something comes is no precondition: the same steps have to be possible again.

    @precondition(lambda self: self.stream is not None)
    @rule()
    def wait(self) -> None:
        if len(self.waits) == 2:
            return
        self.may_be_abandoned |= time.monotonic() - self.given_up_at > GRACE / 2
        self.waits.append(self.loop.create_task(self.wait_for_a_piece()))
        self.run()

    @rule(milliseconds=st.integers(1, 4))
    def let_time_pass(self, milliseconds: int) -> None:
        self.run(milliseconds / 1000)

    @rule(which=st.integers(0, 1), blocked=st.sampled_from([0.0, 0.003]), turns=st.integers(0, 3))
    def cancel(self, which: int, blocked: float, turns: int) -> None:
        if not self.waits:
            return
        wait = self.waits[which % len(self.waits)]
        # Whatever comes while the loop stands still is there at once when it goes on.
        time.sleep(blocked)
        self.run(turns=turns)
        wait.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(wait)
        self.given_up_at = time.monotonic()
        self.run()

    @precondition(lambda self: self.stream is not None)
    @rule()
    def close(self) -> None:
        assert self.stream is not None
        self.loop.run_until_complete(self.stream.aclose())
        self.closed = True
        self.run(0.001)

    @precondition(lambda self: self.stream is not None)
    @rule()
    def drop(self) -> None:
        if not self.waits:
            self.closed = True
        # A wait keeps the stream to its own end.
        self.stream = None

    # --- what holds ---

    @invariant()
    def no_piece_is_lost_and_none_comes_twice(self) -> None:
        assert self.received == [f"{number + 1}," for number in range(len(self.received))]
        assert len(self.received) <= self.sent

    @invariant()
    def a_stream_that_broke_does_not_end_well(self) -> None:
        if self.closed or self.may_be_abandoned:
            return
        errors = [end for end in self.ends if end is not None]
        assert all(isinstance(error, exceptions.APIConnectionError) for error in errors), errors
        # Everyone who waited when it broke is told, and nobody who comes later.
        assert self.ends == errors + [None] * (len(self.ends) - len(errors))
        assert len(errors) <= 3  # two waits, and the one at the end
        if self.ends:
            assert self.ending is not None, "it ended of itself"
            assert bool(errors) == (self.ending != "done")
            # A reset may overtake what was sent before it.
            assert self.ending == "reset" or len(self.received) == self.sent

    def teardown(self) -> None:
        try:
            if self.ending is not None and not self.closed and self.stream is not None:
                self.may_be_abandoned |= time.monotonic() - self.given_up_at > GRACE / 2
                while len(self.ends) < 2:
                    self.loop.run_until_complete(asyncio.wait_for(self.wait_for_a_piece(), SECONDS))
                    self.no_piece_is_lost_and_none_comes_twice()
                self.a_stream_that_broke_does_not_end_well()
            self.nothing_is_left_open()
        finally:
            for wait in self.waits:
                wait.cancel()
            self.run()
            self.loop.close()
            self.script.close()

    def nothing_is_left_open(self) -> None:
        if self.stream is None:
            for wait in self.waits:
                wait.cancel()
            self.run()
        else:
            self.loop.run_until_complete(self.stream.aclose())
            for wait in self.waits:  # each ends by itself now
                self.loop.run_until_complete(asyncio.wait_for(wait, SECONDS))
        self.stream = None
        self.waits.clear()
        deadline = time.monotonic() + SECONDS
        while _native.requests_under_way() > self.requests:
            assert time.monotonic() < deadline, "the request is still open"
            time.sleep(0.001)


@pytest.mark.holds_the_loop("the machine stops and starts the loop")
class TestStream(StreamMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = examples(25, steps=30)


def test_a_failure_that_was_delivered_and_not_received_comes_again() -> None:
    machine: Any = StreamMachine()
    machine.open("asyncio")
    machine.wait()
    machine.send(1)
    machine.end("close")
    machine.cancel(0, 0.05, 0)
    machine.teardown()
    assert machine.received == ["1,"]
    assert [type(end) for end in machine.ends] == [exceptions.APIConnectionError, type(None)]


def test_both_of_two_callers_that_wait_are_told_that_the_stream_broke() -> None:
    machine: Any = StreamMachine()
    machine.open("asyncio")
    machine.wait()
    machine.wait()
    machine.end("close")
    machine.run(0.05)
    machine.teardown()
    assert [type(end) for end in machine.ends[:2]] == [exceptions.APIConnectionError] * 2


def test_pieces_that_one_of_two_callers_has_fetched_come_before_the_failure() -> None:
    machine: Any = StreamMachine()
    machine.open("asyncio")
    machine.wait()
    machine.wait()
    machine.send(3)
    machine.run(0.05)
    machine.end("close")
    machine.run(0.05)
    machine.a_stream_that_broke_does_not_end_well()
    machine.teardown()
    assert machine.received == ["1,", "2,", "3,"]
    assert isinstance(machine.ends[0], exceptions.APIConnectionError)
