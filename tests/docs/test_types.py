"""The Python of the README and of `docs/` has no type errors: files, and what else a page has, as one."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from textwrap import indent

import pytest

from testing_support.types import mypy
from tests.docs.blocks import PAGES, Block, blocks, name_of

pytestmark = pytest.mark.timeout(600)  # whoever comes first reads two thousand modules, see `mypy`


def programs() -> dict[str, list[Block]]:
    """The blocks of every program, by the name of its file; that name is a module's, and stands once."""
    found: dict[str, list[Block]] = defaultdict(list)
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python":
                name = f"{name_of(page)} {block.title.removesuffix('.py') or 'the page'}"
                found[re.sub(r"\W+", "_", name) + ".py"].append(block)
    return found


def as_one(parts: list[Block]) -> str:
    """The text of the blocks, each at the line that it has in its page; what may await, in a coroutine."""
    is_file = bool(parts[0].title)
    text = "" if is_file else "async def page() -> None:\n"
    for block in parts:
        text += "\n" * (block.line - 1 - text.count("\n"))
        text += block.text if is_file else indent(block.text, "    ")
    return text


def errors(folder: Path, files: dict[str, str]) -> list[str]:
    """What mypy finds in the files; a later section of a page may import a name from elsewhere."""
    pages = folder / "pages"
    pages.mkdir()
    (pages / "__init__.py").touch()
    for name, text in files.items():
        (pages / name).write_text(text, encoding="utf-8")
    return [
        f"{file}:{line}: {message}"
        for file, line, message in mypy(folder, [f"pages/{name}" for name in files])
    ]


def test_the_code_of_the_pages_has_no_type_errors(tmp_path: Path) -> None:
    found = programs()
    assert {"docs_tutorial_md_scanner.py", "README_md_the_page.py"} <= found.keys()
    assert errors(tmp_path, {name: as_one(parts) for name, parts in found.items()}) == []


def test_mistakes_are_found(tmp_path: Path) -> None:
    text = """\
from arbitrageai_native import LLMService
service = LLMService()
answer = await service.complete_async("p")
len(answer["content"])
answer["contents"]
service.complete("p", tops=1)
"""
    block = Block(PAGES[0], 7, "python", "", text)
    found = errors(tmp_path, {"mistaken.py": as_one([block])})
    assert [error.split(":")[1] for error in found] == ["10", "11", "12"]
