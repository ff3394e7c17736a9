"""What tests need of the operating system's packages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def from_package(package: str, pattern: str) -> Path:
    """The newest file of this pattern, which a Debian package brings.

    Where it is missing, the test says that it did not run; in CI, which installs the package, it fails.
    """
    found = sorted(Path("/").glob(pattern.removeprefix("/")))
    if found:
        return found[-1]
    message = f"did not run: {pattern} is missing, Debian's package {package} has it"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def as_nobody() -> list[str]:
    """Before a command that refuses to run as root: it runs as someone who may do nothing."""
    return ["setpriv", "--reuid=nobody", "--clear-groups"] if os.geteuid() == 0 else []
