"""The blocks of code of a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A block. `line` is that of its first line of code; `title` is the file that it is, if it is one."""

    page: Path
    line: int
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"

    @property
    def first_line(self) -> str:
        """What it is called in lists."""
        return self.text.partition("\n")[0].strip()


@dataclass(frozen=True)
class Command:
    """A command of a console block, and the output that is shown below it."""

    block: Block
    text: str
    output: str

    @property
    def is_in_background(self) -> bool:
        """Whether the shell goes on at once."""
        return self.text.rstrip().endswith("&")


def name_of(page: Path) -> str:
    """The page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Every block of a page, indented ones included: these have no language."""
    found = []
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type not in ("fence", "code_block") or token.map is None:
            continue
        language, _, rest = token.info.partition(" ")
        title = re.search(r'title="([^"]+)"', rest)
        first = token.map[0] + (2 if token.type == "fence" else 1)
        found.append(Block(page, first, language, title[1] if title else "", token.content))
    return found


def commands(block: Block) -> Iterator[Command]:
    """The commands of a console block: lines behind `$ `, and indented ones that continue them."""
    text = ""
    output: list[str] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            if text:
                yield Command(block, text, "\n".join(output))
            text, output = line[2:], []
        elif text.endswith("\\"):
            text += f"\n{line}"
        else:
            output.append(line)
    if text:
        yield Command(block, text, "\n".join(output))
