"""What mypy finds, as a user runs it.

All runs share a cache, which the next run of the tests finds, too: an imported package of two thousand
modules is read once. That asks for the same options in all of them, but for the modules that are looked at.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_CACHE = Path(__file__).parent.parent / ".mypy_cache" / "tests"

# A module of the package `pages` is what a user writes who asks for nothing: mypy's defaults, and a look into
# functions without annotations.
_CONFIGURATION = """
[mypy]
strict = True
ignore_missing_imports = True
[mypy-pages.*]
check_untyped_defs = True
disable_error_code = no-redef
disallow_any_generics = False
disallow_incomplete_defs = False
disallow_subclassing_any = False
disallow_untyped_calls = False
disallow_untyped_decorators = False
disallow_untyped_defs = False
extra_checks = False
strict_equality = False
warn_return_any = False
warn_unused_ignores = False
"""


class TypeFault(NamedTuple):
    """An error in a line of a file."""

    file: str
    line: int
    message: str


def mypy(folder: Path, files: Sequence[str]) -> Iterator[TypeFault]:
    """Check the files of a folder: with `--strict`, but for those in its folder `pages`."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    configuration = _CACHE / "mypy.ini"
    with (_CACHE / "lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)  # whoever comes second finds what the first has read
        configuration.write_text(_CONFIGURATION)
        options = [f"--config-file={configuration}", f"--cache-dir={_CACHE}", "--output=json"]
        command = [sys.executable, "-m", "mypy", *options, *files]
        checked = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert checked.returncode in (0, 1), checked.stdout + checked.stderr
    for line in filter(None, checked.stdout.splitlines()):  # one that is empty, if there are none
        one = json.loads(line)
        if one["severity"] == "error":
            yield TypeFault(one["file"], one["line"], one["message"])
