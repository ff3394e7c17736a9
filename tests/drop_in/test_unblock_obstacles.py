"""`unblock`: what other tasks could break in between blocks as before, or is reported, with its line."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import trio
from sqlalchemy.orm import scoped_session, sessionmaker

from arbitrageai_native import LLMService
from arbitrageai_native.llm import blocking, unblock
from arbitrageai_native.llm.unblock import obstacles, watch
from arbitrageai_native.testing import ModelServer
from testing_support.keys import KEY
from tests.drop_in.test_unblock import most_at_once

SECONDS = 0.1


@pytest.fixture(autouse=True)
def unblocked() -> Iterator[None]:
    unblock.install()
    blocking._logged.clear()
    obstacles._reported.clear()
    yield
    unblock.uninstall()


@pytest.fixture(scope="module")
def slow() -> Iterator[ModelServer]:
    """A model server that takes its time."""
    with ModelServer(answer="yes", delay=SECONDS) as server:
        yield server


@pytest.fixture
def service(slow: ModelServer) -> LLMService:
    return LLMService(slow.base_url, KEY, enable_circuit_breaker=False)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def twice_in_tasks(call: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> str:
    """Make the call in two tasks; it has to block both times, and to say why once."""
    results, most = asyncio.run(most_at_once([call] * 2))
    assert most == 1
    assert None not in results
    (warning,) = warnings_in(caplog)
    assert warning.startswith(f"{__file__}:")
    assert "complete() blocks the event loop, in spite of unblock: " in warning
    return warning


# Locks

LOCKS = {
    "Lock": threading.Lock,
    "RLock": threading.RLock,
    "Condition": threading.Condition,
    "Semaphore": threading.Semaphore,
    "multiprocessing": multiprocessing.Lock,
}


class Holder:
    def __init__(self, service: LLMService, lock: Any) -> None:
        self.service = service
        self.lock = lock

    def in_a_block(self) -> Any:
        with self.lock:
            return self.ask()

    def by_hand(self) -> Any:
        self.lock.acquire()
        try:
            return self.ask()
        finally:
            self.lock.release()

    def named(self) -> Any:
        lock = self.lock
        with contextlib.nullcontext(), lock:
            return self.ask()

    def of_a_call(self) -> Any:
        with self.the_lock():
            return self.ask()

    def the_lock(self) -> Any:
        return self.lock

    def ask(self) -> Any:
        return self.service.complete("x")["content"]


@pytest.mark.parametrize("way", ["in_a_block", "by_hand", "named", "of_a_call"])
@pytest.mark.parametrize("kind", LOCKS)
def test_a_call_under_a_lock_blocks_and_names_the_line(
    kind: str, way: str, service: LLMService, caplog: pytest.LogCaptureFixture
) -> None:
    holder = Holder(service, LOCKS[kind]())
    warning = twice_in_tasks(getattr(holder, way), caplog)
    assert f" in {way}" in warning
    assert "is held, since" in warning
    assert service.metrics()["blocking_calls_in_loop"] == 2


def test_a_lock_that_was_let_go_of_is_no_obstacle(
    service: LLMService, caplog: pytest.LogCaptureFixture
) -> None:
    lock = threading.Lock()

    def call() -> Any:
        with lock:
            pass
        found = service.complete("x")["content"]
        with lock:
            return found

    assert asyncio.run(most_at_once([call] * 3)) == (["yes"] * 3, 3)
    assert warnings_in(caplog) == []


def test_an_asyncio_lock_is_no_obstacle(service: LLMService, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        lock = asyncio.Lock()
        async with lock:
            service.complete("x")
        await lock.acquire()
        try:
            service.complete("x")
        finally:
            lock.release()

    asyncio.run(main())
    assert warnings_in(caplog) == []


def test_a_loop_that_waits_for_a_lock_of_a_suspended_task_is_reported(
    service: LLMService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock whose holder no source shows: it is found while the loop stands still."""
    monkeypatch.setattr(watch, "INTERVAL", 0.02)
    lock = threading.Lock()
    hidden = {"lock": lock}

    def takes_it() -> None:
        hidden["lock"].acquire()
        service.complete("x")

    def wants_it() -> None:
        lock.acquire()  # the test lets go of it, from outside
        lock.release()

    async def main() -> None:
        first = asyncio.create_task(asyncio.to_thread(lambda: None))
        await first

        async def one() -> None:
            takes_it()

        holder = asyncio.create_task(one())
        await asyncio.sleep(SECONDS / 4)
        wants_it()
        await holder

    def let_go() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not any("waits for a lock" in text for text in caplog.messages):
            time.sleep(0.01)
        lock.release()

    helper = threading.Thread(target=let_go)
    helper.start()
    asyncio.run(main())
    helper.join()
    (message,) = [text for text in caplog.messages if "waits for a lock" in text]
    assert f"{__file__}:" in message
    assert " in wants_it (lock.acquire()" in message
    assert " in takes_it" in message
    assert "1 calls of the service are suspended" in message


# Transactions


def test_an_open_session_is_reported_and_the_loop_goes_on(
    service: LLMService, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'a.db'}")

    def call() -> Any:
        with sessionmaker(engine)() as session:
            assert session.scalar(sqlalchemy.text("SELECT 1")) == 1
            found = service.complete("x")["content"]
            assert session.scalar(sqlalchemy.text("SELECT 2")) == 2
            return found

    assert asyncio.run(most_at_once([call] * 3)) == (["yes"] * 3, 3)
    (warning,) = warnings_in(caplog)
    assert warning.startswith(f"{__file__}:")
    assert " in call: session has a transaction open" in warning
    engine.dispose()


def test_a_session_without_a_transaction_is_none(
    service: LLMService, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'a.db'}")

    def call() -> Any:
        with sessionmaker(engine)() as session:
            session.scalar(sqlalchemy.text("SELECT 1"))
            session.commit()
            return service.complete("x")["content"]

    assert asyncio.run(most_at_once([call] * 2))[1] == 2
    assert warnings_in(caplog) == []
    engine.dispose()


def test_a_session_that_all_tasks_share_blocks(
    service: LLMService, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    shared = scoped_session(sessionmaker(engine))

    def call() -> Any:
        shared.scalar(sqlalchemy.text("SELECT 1"))
        found = service.complete("x")["content"]
        shared.commit()
        return found

    warning = twice_in_tasks(call, caplog)
    assert "shared has a transaction open, and every task of the thread has the same session" in warning
    shared.remove()
    engine.dispose()


def test_a_write_transaction_of_sqlite3_is_reported(
    service: LLMService, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("CREATE TABLE t (a)")

    class Repository:
        def __init__(self) -> None:
            self.connection = connection

        def save(self) -> Any:
            self.connection.execute("INSERT INTO t VALUES (1)")
            found = service.complete("x")["content"]
            self.connection.commit()
            return found

    assert asyncio.run(most_at_once([Repository().save])) == (["yes"], 1)
    (warning,) = warnings_in(caplog)
    assert " in save: self.connection has a transaction open" in warning
    connection.close()


# Generators


def test_a_generator_that_calls_and_one_around_the_call(service: LLMService) -> None:
    def answers() -> Iterator[Any]:
        for _ in range(2):
            yield service.complete("x")["content"]

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        yield

    def call() -> Any:
        with around():
            return list(answers())

    assert asyncio.run(most_at_once([call] * 3)) == ([["yes", "yes"]] * 3, 3)


def test_a_generator_that_two_tasks_share_raises_at_once(service: LLMService) -> None:
    def answers() -> Iterator[Any]:
        while True:
            yield service.complete("x")["content"]

    async def main() -> list[Any]:
        shared = answers()

        async def one() -> Any:
            return next(shared)

        return await asyncio.gather(one(), one(), return_exceptions=True)

    first, second = asyncio.run(main())
    assert first == "yes"
    assert str(second) == "generator already executing"


# Where nothing can be suspended


def test_a_callback_of_the_loop_blocks(service: LLMService, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> list[Any]:
        results: list[Any] = []
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        for _ in range(2):
            loop.call_soon(lambda: results.append(service.complete("x")))
        loop.call_soon(called.set)
        await called.wait()
        return results

    assert len(asyncio.run(main())) == 2
    (warning,) = warnings_in(caplog)
    assert "a callback of the loop, not a task" in warning


def test_a_task_that_the_loop_did_not_make_blocks(
    service: LLMService, caplog: pytest.LogCaptureFixture
) -> None:
    async def one() -> Any:
        return service.complete("x")["content"]

    async def main() -> Any:
        return await asyncio.Task(one(), loop=asyncio.get_running_loop())

    assert asyncio.run(main()) == "yes"
    assert "the task has no portal" in warnings_in(caplog)[0]


if sys.version_info >= (3, 12):

    def test_an_eager_task_that_the_loop_did_not_make_blocks(
        service: LLMService, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def one() -> Any:
            return service.complete("x")["content"]

        async def main() -> Any:
            return await asyncio.Task(one(), loop=asyncio.get_running_loop(), eager_start=True)

        assert asyncio.run(main()) == "yes"
        assert "within a step of another task" in warnings_in(caplog)[0]


def test_trio_blocks(service: LLMService, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Any:
        return [service.complete("x")["content"] for _ in range(2)]

    assert trio.run(main) == ["yes", "yes"]
    (warning,) = warnings_in(caplog)
    assert "the loop is trio's" in warning


def test_a_finalizer_blocks(service: LLMService, caplog: pytest.LogCaptureFixture) -> None:
    class Forgotten:
        def __del__(self) -> None:
            self.answer = service.complete("x")

    def call() -> Any:
        Forgotten()
        gc.collect()
        return True

    assert "is a __del__" in twice_in_tasks(call, caplog)


def test_an_import_blocks(
    service: LLMService, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "asks.py").write_text("import builtins\nanswer = builtins.ask_it()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.ask_it", lambda: service.complete("x")["content"], raising=False)

    def call() -> Any:
        import asks  # type: ignore[import-not-found]

        sys.modules.pop("asks", None)
        return asks.answer

    assert "a module is being imported" in twice_in_tasks(call, caplog)


@pytest.mark.parametrize("kind", ["function", "method"])
def test_a_signal_handler_blocks(kind: str, service: LLMService, caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = []

    def handler(*_: Any) -> None:
        answers.append(service.complete("x"))

    class Handling:
        def handle(self, *_: Any) -> None:
            answers.append(service.complete("x"))

    def call() -> Any:
        signal.raise_signal(signal.SIGUSR1)
        return True

    before = signal.signal(signal.SIGUSR1, handler if kind == "function" else Handling().handle)
    try:
        assert "is a signal handler" in twice_in_tasks(call, caplog)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(answers) == 2


def test_native_code_that_calls_the_application_blocks(
    service: LLMService, slow: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Native code asks an object for its JSON, and the object asks the model: no frame of ours is saved."""

    class Dumped:
        def model_dump(self, **_: Any) -> Any:
            return {"answer": service.complete("x")["content"]}

    other = LLMService(slow.base_url, KEY, enable_circuit_breaker=False)

    def call() -> Any:
        return other.complete("x", extra_body={"more": Dumped()})["content"]

    results, _ = asyncio.run(most_at_once([call] * 2))
    assert results == ["yes", "yes"]
    assert any("native code called" in text for text in warnings_in(caplog))
    assert service.metrics()["blocking_calls_in_loop"] == 2


# Without unblock


def test_without_unblock_each_calling_line_is_named_once(
    service: LLMService, caplog: pytest.LogCaptureFixture
) -> None:
    unblock.uninstall()

    def call() -> None:
        service.complete("x")
        list(service.complete_streaming("x"))

    async def main() -> None:
        call()
        call()
        with pytest.warns(RuntimeWarning, match="stops the event loop"):
            LLMService(service.base_url, KEY, stealth_range=(0, 0)).complete("x", stealth_mode=True)

    asyncio.run(main())
    lines = call.__code__.co_firstlineno
    first, second, third = warnings_in(caplog)
    assert first.startswith(f"{__file__}:{lines + 1}: complete() blocks the event loop")
    assert "await complete_async()" in first
    assert "unblock" in first
    assert second.startswith(f"{__file__}:{lines + 2}: complete_streaming() blocks the event loop")
    assert "complete_streaming_async()" in second
    assert "complete()" in third


def test_without_unblock_nothing_is_logged_where_no_loop_runs(
    service: LLMService, caplog: pytest.LogCaptureFixture
) -> None:
    unblock.uninstall()
    service.complete("x")
    assert warnings_in(caplog) == []
