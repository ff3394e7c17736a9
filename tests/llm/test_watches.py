"""The watches over the client's tests see what they are there for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testing_support import ticker
from tests.llm.loop_watch import LateTick

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


def late(**causes: float) -> LateTick:
    nothing = {"collecting": 0.0, "ran": 0.0, "queued": 0.0, "others_queued": 0.0}
    return LateTick(start=0.0, end=0.1, late=0.098, **{**nothing, **causes})


@pytest.mark.parametrize(
    ("tick", "idle", "caused_here"),
    [
        (late(), 0.0, 0.098),  # asleep in a callback
        (late(), 0.05, 0.048),
        (late(ran=0.1), 0.0, 0.098),
        (late(ran=0.1), 0.1, 0.098),  # who runs has a processor
        (late(ran=0.1, others_queued=0.5), 0.0, 0.098),
        (late(ran=0.06, queued=0.04), 0.0, 0.048),
        (late(others_queued=0.08), 0.0, 0.018),
        (late(others_queued=0.5), 0.0, -0.002),
        (late(ran=0.1, collecting=0.09), 0.0, 0.008),
    ],
)
def test_a_late_tick_is_judged_by_its_cause(tick: LateTick, idle: float, caused_here: float) -> None:
    assert tick.caused_here(idle) == pytest.approx(caused_here)
