"""The watches over the client's tests see what they are there for."""

from __future__ import annotations

import asyncio
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testing_support import ticker
from tests.llm import loop_watch

ROOT = Path(__file__).parents[2]

HEADER = """
import asyncio, logging, pickle, sys, time
import pytest
from opentelemetry import trace
from arbitrageai_native import LLMService, exceptions, llm_service
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty

@pytest.fixture
def server():
    with faulty.FaultyServer(faulty.answer(before_head=0.1)) as server:
        yield server
"""

# Each is a test, and the words with which it has to be failed.
HOLDING: dict[str, tuple[str, str]] = {
    "blocking": ("async def test() -> None:\n    time.sleep(0.1)", "kept waiting"),
    "blocking by the package": (
        """
# As the original did it.
exec("async def complete_async(self, prompt): return self.complete(prompt)", vars(llm_service))

async def test(server, monkeypatch):
    monkeypatch.setattr(LLMService, "complete_async", llm_service.complete_async)
    await LLMService(server.base_url, KEY).complete_async("hi")
""",
        "kept waiting",
    ),
    "blocking a loop of its own": (
        "def test():\n    async def block():\n        time.sleep(0.1)\n    asyncio.run(block())",
        "kept waiting",
    ),
    "one long wait among many": (
        """
async def test():
    for _ in range(450):
        await asyncio.sleep(0.005)
    time.sleep(0.1)
    await asyncio.sleep(0.01)
""",
        "kept waiting",
    ),
}

LEAKING: dict[str, tuple[str, str]] = {
    "log": ("def test():\n    logging.getLogger('any').debug('to %s', KEY)", "the log any"),
    "argument of a log": (
        "def test():\n    logging.getLogger('any').debug('', extra={'k': KEY})",
        "the log any",
    ),
    "error": (
        "def test():\n    with pytest.raises(OSError):\n        raise OSError(KEY)",
        "the text of OSError",
    ),
    "cause": (
        "def test():\n    with pytest.raises(OSError):\n        raise OSError from ValueError(KEY)",
        "a traceback of OSError",
    ),
    "body of an error": (
        "def test():\n    exceptions.APIError('x', body={'headers': KEY})",
        "a pickle of APIError",
    ),
    "pickle": ("def test():\n    llm_service.ModelConfig(local_model=KEY)", "a pickle of ModelConfig"),
    "representation": (
        "def test():\n    LLMService('http://x/v1', 'k', model=KEY)",
        "the text of LLMService",
    ),
    "span": ("def test():\n    trace.get_tracer('t').start_span(KEY).end()", "a span"),
    "output": ("def test():\n    print(KEY)", "Captured stdout"),
    "errors of a process": (
        "import subprocess\ndef test():\n    subprocess.run([sys.executable, '-c', f'print({KEY!r})'])",
        "Captured stdout",
    ),
    "another key": (
        "def test(server):\n    LLMService(server.base_url, 'mine').complete('hi')",
        "would not be recognised",
    ),
}

HARMLESS = """
async def test(server):
    client = LLMService(server.base_url, KEY, model="m")
    assert client.complete("hi")["content"] == (await client.complete_async("hi"))["content"]
    with pytest.raises(exceptions.OpenAIError):
        await client.complete_async("hi", max_retries=-1)
"""


def run(folder: Path, tests: dict[str, str]) -> str:
    """Run each in a file of its own, in a folder with the conftest of the client's tests."""
    (folder / "conftest.py").write_text("from tests.llm.conftest import *")
    for number, test in enumerate(tests.values()):
        (folder / f"test_{number}.py").write_text(HEADER + test)
    options = ["-p", "no:cacheprovider", "-q", f"--rootdir={folder}", "-oasyncio_mode=auto"]
    command = [sys.executable, "-m", "pytest", *options, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize("cases", [HOLDING, LEAKING], ids=["held up", "leaking"])
def test_what_is_not_in_order_fails(cases: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    output = run(tmp_path, {name: test for name, (test, _) in cases.items()} | {"harmless": HARMLESS})
    for number, (name, (_, expected)) in enumerate(cases.items()):
        assert re.search(rf"FAILED \S*test_{number}.py::test", output), (name, output)
        assert expected in output, (name, output)
    assert re.search(rf"{len(cases)} failed, 1 passed", output), output


def test_a_long_wait_counts_for_all_the_ticks_that_it_held_up() -> None:
    quiet = [0.0001] * 10_000
    assert ticker.high(quiet) < 0.001
    assert ticker.high([*quiet, 0.1]) > 0.05
    assert ticker.high([*quiet, 0.003]) < 0.005
    assert ticker.high([0.001, 0.03]) == 0.03
    assert ticker.high([]) == 0


def test_the_control_ticks_all_the_time() -> None:
    with ticker.control() as control:
        start = time.monotonic()
        time.sleep(0.5)
        end = time.monotonic()
        waits = control.waits_between(start, end)
    # Each ticker has ticked, or noted that it came too late.
    ticked = sum(waits) + len(waits) * ticker.PAUSE
    assert ticked > (end - start) * len(os.sched_getaffinity(0)) / 2


# What a callback must not do, and is found if it does so for 30 ms. A wait for a lock has to be longer to be
# found on a busy machine: it may be a wait for a thread that has no processor.
PLANTED: dict[str, Callable[[], object]] = {
    "asleep": lambda: time.sleep(0.03),
    "waiting for a lock": lambda: held_lock().acquire(timeout=0.3),
    "waiting for a descriptor": lambda: select.select([], [], [], 0.03),
    "running": lambda: run_for(0.03),
}


def held_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def run_for(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def alarm(control: ticker.Control, callback: Callable[[], object]) -> str:
    """What the watch says of a loop with this callback."""

    async def main() -> None:
        await asyncio.sleep(0.005)
        callback()
        await asyncio.sleep(0.005)

    with loop_watch.watched() as watch:
        asyncio.run(main())
    try:
        watch.judge(control)
    except loop_watch.LoopHeldUpError as error:
        return str(error)
    return ""


@pytest.fixture
def busy_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(request.param)]
    yield
    for process in spinning:
        process.kill()
        process.wait()


@pytest.mark.holds_the_loop("what is planted has to be found by a watch of the test's own")
@pytest.mark.usefixtures("busy_processes")
@pytest.mark.parametrize("busy_processes", [0, 2], ids=["alone", "beside two busy processes"], indirect=True)
def test_what_holds_a_loop_up_is_found_and_what_does_not_is_not() -> None:
    with ticker.control() as control:
        for name, callback in PLANTED.items():
            alarms = [alarm(control, callback) for _ in range(5)]
            assert all(alarms), (name, alarms)
            assert any(f"{__file__}:" in told for told in alarms), (name, alarms)
        innocent = [alarm(control, lambda: run_for(0.002)) for _ in range(50)]
    assert not any(innocent), innocent


@pytest.mark.holds_the_loop("what is planted has to be found by a watch of the test's own")
def test_waiting_for_python_is_no_fault_of_the_loop() -> None:
    ended = threading.Event()
    busy = threading.Thread(target=lambda: [None for _ in iter(ended.is_set, True)])
    with ticker.control() as control:
        busy.start()
        # Each of them gives the interpreter's lock away, and has to wait for it again.
        innocent = [alarm(control, lambda: [time.sleep(0) for _ in range(4)]) for _ in range(10)]
        ended.set()
        busy.join()
    assert not any(innocent), innocent


def span(**causes: Any) -> loop_watch.Span:
    nothing = dict.fromkeys(["ran", "queued", "slept", "others_ran", "others_queued"], 0.0)
    counts = {"switches": 1, "reads": 0, "writes": 0}
    return loop_watch.Span(**{"start": 0.0, "end": 0.1, **nothing, **counts, **causes})


def looks(states: str) -> list[ticker.Wait]:
    return [ticker.Wait(0, 0.02 * number, 0.0, state) for number, state in enumerate(states, start=1)]


@pytest.mark.parametrize(
    ("span", "states", "caused_here"),
    [
        (span(ran=0.1), "RRRR", 0.1),
        (span(ran=0.1, others_ran=0.5, others_queued=0.5), "RRRR", 0.1),
        (span(ran=0.03, queued=0.07), "RRRR", 0.03),
        (span(slept=0.1), "SSSS", 0.1),
        (span(slept=0.1), "", 0.1),
        (span(slept=0.1), "RRRR", 0.0),  # its processor stood still
        (span(slept=0.1), "RRRS", 0.1),
        (span(slept=0.1, others_queued=0.04), "SSSS", 0.1),  # on no lock
        (span(slept=0.1), "LLLL", 0.1),  # which nobody had
        (span(slept=0.1, others_queued=0.04), "LLLL", 0.06),
        (span(slept=0.1, others_queued=0.04), "SSLL", 0.06),
        (span(slept=0.02, switches=4, others_ran=0.02), "LLLL", 0.0),  # it asked for the lock four times
        (span(slept=0.02, switches=4, others_ran=0.005), "LLLL", 0.015),
        (span(slept=0.1, switches=1, others_ran=0.1), "LLLL", 0.1),  # one sleep, however busy others are
        (span(slept=0.1, switches=2, others_ran=0.1), "LLLL", 0.0945),
        (span(slept=0.1), "DDDD", 0.0),
        (span(slept=0.1), "DDSS", 0.05),
        (span(slept=0.1, writes=1), "DDDD", 0.1),  # what it wrote itself
        (span(slept=0.1, reads=1), "SSSS", 0.1),
        (span(slept=0.1, reads=1), "", 0.0),
        (span(slept=0.1, is_main_thread=False), "DDDD", 0.1),  # that was another thread
    ],
)
def test_a_callback_is_judged_by_what_it_did(span: loop_watch.Span, states: str, caused_here: float) -> None:
    assert loop_watch.LateCallback("it", span).caused_here(looks(states)) == pytest.approx(caused_here)


@pytest.mark.parametrize(
    ("span", "caused_here"),
    [
        (span(ran=0.1), 0.098),
        (span(ran=0.06, queued=0.04), 0.05),  # a quarter of what it was late came due meanwhile
        (span(slept=0.03), 0.03),
        (span(slept=0.03, switches=7, others_ran=0.5), 0.0),
    ],
)
def test_many_callbacks_are_judged_together(span: loop_watch.Span, caused_here: float) -> None:
    assert loop_watch.LateTick(0.098, span).caused_here([]) == pytest.approx(caused_here)
