"""`audit --unblock` lists what is held while a service call lets other tasks run."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from arbitrageai_native.audit import Finding, audit
from arbitrageai_native.cli.main import main

HEADER = """\
import asyncio, contextlib, threading
from sqlalchemy.orm import Session, sessionmaker
from arbitrageai_native import LLMService
service, lock, Maker = LLMService(), threading.Lock(), sessionmaker()

def ask(text): return service.complete(text)

@contextlib.contextmanager
def guarded():
    with lock:
        yield

@contextlib.contextmanager
def scope():
    db = Maker()
    yield db
    db.commit()

def rows():
    yield 1

"""
FIRST = HEADER.count("\n")


def found_in(folder: Path, text: str) -> list[Finding]:
    (folder / "app.py").write_text(HEADER + dedent(text))
    return audit([folder], unblock=True).findings


HELD = {
    "a lock": ("async def f():\n    with lock:\n        service.complete('x')", "the lock lock (line 2)", 3),
    "a lock around a helper": (
        "async def f():\n    with lock:\n        ask('x')",
        "the lock lock (line 2)",
        3,
    ),
    "a lock in a helper": (
        "def g():\n    with lock:\n        ask('x')\nasync def f(): g()",
        "the lock lock (line 2)",
        3,
    ),
    "a lock of an object": (
        "class A:\n    def __init__(self):\n        self._lock = threading.RLock()\n"
        "    async def f(self):\n        with self._lock, open('x'):\n            service.complete('x')",
        "the lock self._lock (line 5)",
        6,
    ),
    "a condition": (
        "ready = threading.Condition()\nasync def f():\n    with ready:\n        service.complete('x')",
        "the lock ready (line 3)",
        4,
    ),
    "acquire": (
        "async def f():\n    lock.acquire()\n    ask('x')\n    lock.release()",
        "the lock lock (line 2)",
        3,
    ),
    "a lock in a context manager": (
        "async def f():\n    with guarded():\n        ask('x')",
        "the lock lock (app.py:10)",
        3,
    ),
    "a session": (
        "async def f():\n    with Maker() as db:\n        ask('x')",
        "the session Maker() (line 2)",
        3,
    ),
    "a transaction": (
        "async def f(db: Session):\n    with db.begin():\n        pass\n    db.commit()\n"
        "    with db.begin():\n        ask('x')\n",
        "the session db.begin() (line 5)",
        6,
    ),
    "a session by name": (
        "async def f():\n    db = Maker()\n    db.query(1)\n    service.complete('x')\n    db.commit()",
        "the session db (line 3)",
        4,
    ),
    "a session that was passed": (
        "async def f(db: Session):\n    ask('x')",
        "the session db (line 1)",
        2,
    ),
    "a session of an object": (
        "class A:\n    def __init__(self):\n        self.db = Maker()\n"
        "    async def f(self):\n        self.db.query(1)\n        ask('x')",
        "the session self.db (line 5)",
        6,
    ),
    "a session in a context manager": (
        "async def f():\n    with scope():\n        ask('x')",
        "the session db (app.py:15)",
        3,
    ),
    "a generator": (
        "async def f():\n    for row in rows():\n        ask('x')",
        "the generator rows() (line 2)",
        3,
    ),
    "inside a generator": (
        "def g():\n    yield ask('x')\nasync def f(): return list(g())",
        "the generator g (line 1)",
        2,
    ),
    "around a stream": (
        "async def f():\n    with lock:\n        for piece in service.complete_streaming('x'):\n"
        "            pass",
        "the lock lock (line 2)",
        3,
    ),
}


@pytest.mark.parametrize("form", HELD)
def test_what_is_held_across_a_call_is_listed(tmp_path: Path, form: str) -> None:
    text, held, line = HELD[form]
    found = found_in(tmp_path, text)
    # Lines in the text are counted from the end of the header.
    place, _, number = held.rstrip(")").rpartition(" ")
    at = (
        f"{place} {int(number) + FIRST})"
        if number.isdigit()
        else held.replace("app.py", f"{tmp_path}/app.py")
    )
    assert (at, FIRST + line) in [(finding.held, finding.line) for finding in found]
    assert len({finding.line for finding in found}) == 1
    assert all(finding.instead for finding in found)


HARMLESS = {
    "an asyncio lock": "gate = asyncio.Lock()\nasync def f():\n    async with gate:\n        ask('x')",
    "after the block": "async def f():\n    with lock:\n        x = 1\n    ask('x')",
    "released": "async def f():\n    lock.acquire()\n    lock.release()\n    ask('x')",
    "no service call": "async def f():\n    with lock, Maker() as db:\n        db.commit()",
    "the asynchronous method": "async def f():\n    with lock:\n        await service.complete_async('x')",
    "a thread": "def g():\n    with lock:\n        ask('x')\nasync def f(): await asyncio.to_thread(g)",
    "committed": "async def f():\n    db = Maker()\n    db.query(1)\n    db.commit()\n    ask('x')",
    "closed": "async def f():\n    db = Maker()\n    db.close()\n    ask('x')",
    "later": "async def f():\n    ask('x')\n    db = Maker()\n    db.query(1)",
    "after a with": "async def f():\n    with Maker() as db:\n        db.query(1)\n    ask('x')",
    "a list": "async def f():\n    for row in list(rows()):\n        ask('x')",
    "silenced": "async def f():\n    with lock:\n        ask('x')  # noqa",
}


@pytest.mark.parametrize("form", HARMLESS)
def test_what_is_not_held_is_not_listed(tmp_path: Path, form: str) -> None:
    assert found_in(tmp_path, HARMLESS[form]) == []


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found_in(tmp_path, HELD["a lock around a helper"][0])
    assert main(["audit", "--unblock", str(tmp_path)]) == 0
    line, summary = capsys.readouterr().out.splitlines()
    assert line.startswith(
        f"{tmp_path}/app.py:{FIRST + 3}:9: f holds the lock lock (line {FIRST + 2}) across ask ->"
    )
    assert "asyncio.Lock" in line
    assert summary == "1 place in 1 files where tasks may interleave"
    assert main(["audit", "--unblock", "--fail-on-findings", "--json", str(tmp_path)]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["held"] == f"the lock lock (line {FIRST + 2})"
    assert main(["audit", "--unblock", "--sarif", str(tmp_path)]) == 0
    (result,) = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    assert result["ruleId"] == "held-across-service-call"
