"""Runs the Python blocks of a page in a process of its own, in one namespace and on one event loop."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import linecache
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.docs.blocks import ROOT, Block


class Snippets:
    """The process, as the test sees it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.docs.snippets"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            env={**environment, "PYTHONPATH": path},
            text=True,
        )

    def run(self, block: Block, text: str) -> None:
        """Run a block.

        Raises:
            AssertionError: it raised something.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(block), block.line, text]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, f"{block}: the process has ended"
        failure = json.loads(answer)
        assert failure is None, f"{block}:\n{failure}"

    def close(self) -> None:
        """End the process; what fails at its exit is a failure, too."""
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


async def _run(name: str, line: int, text: str, namespace: dict[str, Any]) -> str | None:
    source = "\n" * (line - 1) + text
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    try:
        code = compile(source, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, namespace)
        if inspect.iscoroutine(result):
            await result
    except Exception:
        return traceback.format_exc()
    return None


async def _main() -> None:
    # What the blocks print is of no use here, and must not be taken for an answer.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        namespace: dict[str, Any] = {"__name__": "page"}
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await _run(*json.loads(line), namespace)), file=answers, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, "")
    asyncio.run(_main())
