"""What blocks the event loop in a tree of sources, found without running them.

`audit([path])` reads the sources, has ruff's ASYNC rules name the blocking calls, adds those of
`known_types`, and follows both through the tree's own synchronous functions to the coroutines that call them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .call_graph import add_known_blockers, findings
from .functions import read_functions
from .inference import Inference
from .interleaving import interleavings
from .report import Finding, Problem, Report
from .ruff_rules import apply_ruff
from .sources import read_sources

__all__ = ["Finding", "Problem", "Report", "audit"]


def audit(paths: Sequence[Path], *, unblock: bool = False) -> Report:
    """Audit files and folders.

    With `unblock` the findings are what is held across a service call while other tasks run, instead of what
    blocks the event loop.

    Raises:
        FileNotFoundError: one of `paths` does not exist.
        RuntimeError: ruff is not installed, or fails.
    """
    sources, problems = read_sources(paths)
    modules = [read_functions(source) for source in sources]
    inference = Inference(modules)
    apply_ruff(modules)
    add_known_blockers(modules, inference)
    coroutines = sum(function.is_async for module in modules for function in module.functions)
    found = (interleavings if unblock else findings)(modules, inference)
    return Report(found, problems, files=len(sources), coroutines=coroutines)
