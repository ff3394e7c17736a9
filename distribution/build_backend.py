"""Builds the package with maturin, after a look at what it is built with.

cargo's own complaints, where it is too old for this crate, fill a page and do not name the version that is
needed. What is said here is one line, and pip prints it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import maturin
from maturin import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).parent.parent

if not (ROOT / "tests").is_dir():
    # A source distribution: its users need no part of the extension that only tests use.
    os.environ["MATURIN_PEP517_ARGS"] = f"--features python {os.environ.get('MATURIN_PEP517_ARGS', '')}"


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """What has to be installed before a wheel is built; here a build that can't succeed ends."""
    refuse(fault())
    return maturin.get_requires_for_build_wheel(config_settings)


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """The same for an editable installation."""
    refuse(fault())
    return maturin.get_requires_for_build_editable(config_settings)


def refuse(reason: str | None) -> None:
    """End the process, with the reason on standard error, if there is one."""
    if reason is not None:
        sys.exit(f"arbitrageai-native can't be built here: {reason}")


def fault() -> str | None:
    """Why this package can't be built here, or None. A missing Rust is maturin's business: it can get one."""
    python, rust = needed("pyproject.toml", "requires-python"), needed("Cargo.toml", "rust-version")
    if sys.version_info[:2] < python:
        return f"it needs Python {text(python)} or newer, and this is Python {text(sys.version_info[:3])}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return (
            f"it needs a Python with the GIL, and this is free-threaded Python {text(sys.version_info[:3])}"
        )
    found = rust_version()
    if found is not None and found[:2] < rust:
        return (
            f"it needs Rust {text(rust)} or newer, and this is Rust {text(found)};"
            " `rustup update` brings a newer one"
        )
    return None


def needed(file: str, setting: str) -> tuple[int, ...]:
    """The least version that a file of this project asks for. Python 3.10 has no TOML parser."""
    found = re.search(rf'^{setting} = "[^\d]*(\d+)\.(\d+)', (ROOT / file).read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{file} has no {setting}")
    return int(found[1]), int(found[2])


def rust_version() -> tuple[int, ...] | None:
    """The version of the compiler that cargo would use, or None where there is none."""
    try:
        said = subprocess.run(
            [os.environ.get("RUSTC", "rustc"), "--version"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.match(r"rustc (\d+)\.(\d+)\.(\d+)", said)
    return None if found is None else tuple(map(int, found.groups()))


def text(version: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))
