"""What the folders promise about each other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def imported(file: Path) -> Iterator[str]:
    """All modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


@pytest.mark.parametrize(
    ("folder", "others"), [("testing_support", ("tests", "benchmarks")), ("benchmarks", ("tests",))]
)
def test_what_is_shared_imports_nobody_who_shares_it(folder: str, others: tuple[str, ...]) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if name.partition(".")[0] in others
    ]
    assert wrong == []


def test_no_test_gets_a_second_try() -> None:
    files = [*(ROOT / "tests").rglob("*.py"), ROOT / "pyproject.toml"]
    assert [file for file in files if "re" + "run" in file.read_text(encoding="utf-8")] == []


def test_the_files_that_a_change_is_said_to_need_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.partition("## Where do I change")[2].partition("\n## ")[0]
    paths = re.findall(r"`([\w./-]+(?:\.\w+|/))`", table)
    assert len(paths) > 15
    roots = (ROOT, ROOT / "python" / "arbitrageai_native")
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == ["cli/COMMAND.py"]
