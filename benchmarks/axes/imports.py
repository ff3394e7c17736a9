"""How long an import takes, above bare Python."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks import installed, peers
from benchmarks.axes.axis import Column, Figures, Plain, Settings, Subject

_STATEMENTS = {
    peers.OURS: "from arbitrageai_native import LLMService",
    "openai": "from openai import AsyncOpenAI",
    "litellm": "from litellm import acompletion",
    "aiohttp": "from aiohttp import ClientSession",
    "httpx": "from httpx import AsyncClient",
    "pyreqwest": "from pyreqwest.client import ClientBuilder",
}
_FLOOR = "asyncio alone"

_MEASURE = """
import time
cpu, wall = time.process_time(), time.perf_counter()
{statement}
print((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3)
"""


class Imports(Plain):
    """Each in a fresh interpreter, its files in the page cache."""

    name = "import"
    title = "Import, above bare Python"
    columns = (
        Column("wall_ms", "ms", 1),
        Column("cpu_ms", "CPU ms", 1),
        Column("above_asyncio_ms", "ms, asyncio loaded", 1),
    )
    headline = "wall_ms"
    reference = peers.OURS

    def check(self, settings: Settings) -> None:
        installed.require(peers.distributions(settings.chosen(tuple(_STATEMENTS))))

    def subjects(self, settings: Settings) -> list[Subject]:
        named = [Subject(name) for name in settings.chosen(tuple(_STATEMENTS))]
        return [*named, Subject(_FLOOR)] if named else []

    def measure(self, subject: Subject, settings: Settings) -> Figures:
        statement = _STATEMENTS.get(subject.name, "import asyncio")
        wall, cpu = _import(statement)
        return {"wall_ms": wall, "cpu_ms": cpu, "above_asyncio_ms": _import(statement, "import asyncio")[0]}


def _import(statement: str, before: str = "") -> tuple[float, float]:
    ended = subprocess.run(
        [sys.executable, "-c", before + _MEASURE.format(statement=statement)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # no download at import
    )
    wall, cpu = ended.stdout.split()[-2:]
    return float(wall), float(cpu)
