"""ruff's rules for blocking calls, applied as they are.

They look into `async def` alone. To learn what blocks in a synchronous helper, too, ruff is given copies of
the sources in which every function is asynchronous; lines stay where they are.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .functions import Blocker, Function, Module

# ASYNC2…: calls that block. The other ASYNC rules are about how timeouts and sleeps are written.
SELECTED: Final = "ASYNC2"

INSTEAD: Final = {
    "ASYNC210": "an asynchronous HTTP client: httpx.AsyncClient, aiohttp",
    "ASYNC212": "httpx.AsyncClient",
    "ASYNC220": "await asyncio.create_subprocess_exec(…)",
    "ASYNC221": "await asyncio.create_subprocess_exec(…)",
    "ASYNC222": "await process.wait() of asyncio's subprocess",
    "ASYNC230": "await asyncio.to_thread(…), or anyio.open_file",
    "ASYNC240": "await asyncio.to_thread(…), or anyio.Path",
    "ASYNC250": "await asyncio.to_thread(input)",
    "ASYNC251": "await asyncio.sleep(…)",
}
# A path check takes microseconds on a local disk, and many helpers have one: reported only in coroutines.
NOT_FOLLOWED: Final = frozenset({"ASYNC240"})
_ASYNC: Final = b"async "


def apply_ruff(modules: Sequence[Module]) -> None:
    """Add what ruff finds to the functions in which it stands.

    Raises:
        RuntimeError: ruff is not installed, or fails.
    """
    if importlib.util.find_spec("ruff") is None:
        raise RuntimeError("ruff is not installed: pip install 'arbitrageai-native[audit]'")
    with tempfile.TemporaryDirectory(prefix="arbitrageai-audit-") as folder:
        for number, module in enumerate(modules):
            Path(folder, f"{number}.py").write_text(_all_asynchronous(module), encoding="utf-8", newline="\n")
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--exit-zero"]
        command += ["--select", SELECTED, "--output-format", "json", folder]
        finished = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"ruff failed: {finished.stderr.strip() or finished.returncode}")
    for found in json.loads(finished.stdout):
        if (found["code"] or "").startswith(SELECTED):
            _add(modules[int(Path(found["filename"]).stem)], found)


def _add(module: Module, found: dict[str, Any]) -> None:
    code, message = found["code"], found["message"]
    line = found["location"]["row"]
    function = module.innermost(line)
    if function is None:
        return
    start, end = (_place(function, found[name]) for name in ("location", "end_location"))
    # In `run(…).stdout.strip()` every call begins at one place: the end tells which is meant.
    calls = [call for call in function.calls if module.start(call) == start]
    exact = [call for call in calls if end in (module.end(call), module.end(call.func))]
    text = ast.unparse((exact or calls)[0].func) if calls else message
    function.blockers.append(Blocker(*start, text, INSTEAD.get(code, message), code not in NOT_FOLLOWED))


def _place(function: Function, location: dict[str, int]) -> tuple[int, int]:
    """Where that is in the source itself: a definition's own line was moved by the word put into it."""
    moved = not function.is_async and location["row"] == function.node.lineno
    return location["row"], location["column"] - (len(_ASYNC) if moved else 0)


def _all_asynchronous(module: Module) -> str:
    lines = [line.encode() for line in module.lines]
    # From the last to the first: what is in front stays where it was.
    functions = [function for function in module.functions if not function.is_async]
    for function in sorted(functions, key=lambda f: (f.node.lineno, f.node.col_offset), reverse=True):
        number, column = function.node.lineno - 1, function.node.col_offset
        line = lines[number]
        if line[column:].startswith(b"def"):
            lines[number] = line[:column] + _ASYNC + line[column:]
    return b"\n".join(lines).decode()
