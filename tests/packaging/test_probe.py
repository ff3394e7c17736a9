"""The part of the extension that only tests use: a checkout builds it, what is published does not have it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BACKEND = """
import os, sys, types
maturin = types.ModuleType("maturin")
for hook in ("build_", "get_requires_for_build_", "prepare_metadata_for_build_"):
    for kind in ("wheel", "sdist", "editable"):
        setattr(maturin, hook + kind, None)
sys.modules["maturin"] = maturin
import build_backend
print(os.environ.get("MATURIN_PEP517_ARGS", "").split())
"""


def asked_of_maturin(distribution: Path, arguments: str | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "MATURIN_PEP517_ARGS"}
    environment["PYTHONPATH"] = str(distribution)
    if arguments is not None:
        environment["MATURIN_PEP517_ARGS"] = arguments
    return subprocess.run(
        [sys.executable, "-c", BACKEND], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_source_distribution_is_built_without_it(tmp_path: Path) -> None:
    folder = tmp_path / "distribution"
    folder.mkdir()
    shutil.copy(ROOT / "distribution" / "build_backend.py", folder)

    assert asked_of_maturin(folder) == "['--features', 'python']"
    assert asked_of_maturin(folder, "--locked") == "['--features', 'python', '--locked']"


def test_a_checkout_is_built_as_the_project_says() -> None:
    assert asked_of_maturin(ROOT / "distribution") == "[]"
    assert 'features = ["python", "probe"]' in (ROOT / "pyproject.toml").read_text("utf-8")


@pytest.mark.parametrize(("arguments", "features"), [((), "python"), (("python,probe",), "python,probe")])
def test_a_wheel_is_published_without_it(tmp_path: Path, arguments: tuple[str, ...], features: str) -> None:
    for name, script in {"maturin": 'echo "$@"', "python": ":"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    asked = subprocess.run(
        [ROOT / "distribution" / "build-wheel", "x86_64-unknown-linux-gnu", *arguments],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert f" --features {features} " in asked
