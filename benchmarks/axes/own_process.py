"""A measurement in a process of its own, which prints one JSON object of figures."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_TIMEOUT = 900


def measured_in(module: str, name: str, **request: Any) -> Any:
    """The figures that a module of this package prints, asked for as JSON; `name` is who is measured."""
    return figures_of([sys.executable, "-m", f"benchmarks.{module}", json.dumps(request)], name)


def figures_of(command: list[str], name: str) -> Any:
    """The figures in the last line that a program prints."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if ended.returncode:
        raise RuntimeError(f"{name} ended with {ended.returncode}: {last_line(ended.stderr)}")
    return json.loads(ended.stdout.splitlines()[-1])


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
