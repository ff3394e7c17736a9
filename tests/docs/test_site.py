"""The site is built without a warning, loads nothing from elsewhere, and has every public name."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from arbitrageai_native.cli.main import COMMAND_MODULES
from tests.docs.blocks import PAGES, ROOT, name_of
from tests.docs.public_names import public_names

#: What a page loads; a link that is clicked is no such thing.
LOADED = re.compile(r'<(?:script|img|iframe|source|link)\b[^>]*?\s(?:src|href)="?([^" >]+)')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in a copy of what it is made of."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copytree(ROOT / "python", folder / "python", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "No issues found" in built.stderr
    return folder / "site"


def test_every_page_is_there(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        folder = name.parent if name.name == "index" else name
        assert (site / folder / "index.html").exists(), name


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    loaded = {address for page in pages for address in LOADED.findall(page.read_text(encoding="utf-8"))}
    assert any(address.endswith(".css") for address in loaded)
    assert [address for address in loaded if re.match(r"(?:[a-z]+:)?//", address)] == []


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    pages = (site / "reference").rglob("*.html")
    anchors = {anchor for page in pages for anchor in re.findall(r'id="?([\w.]+)', page.read_text("utf-8"))}
    missing = [
        thing for thing, names in public_names().items() if not {name.anchor for name in names} & anchors
    ]
    assert missing == []


def test_every_public_name_has_a_docstring() -> None:
    names = [name for names in public_names().values() for name in names]
    assert len(names) > 300
    assert [name.path for name in names if not name.is_documented] == []


def subcommands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    parsers = argparse.ArgumentParser().add_subparsers()
    for module in COMMAND_MODULES:
        import_module(module).add_command(parsers)
    yield from parsers.choices.items()


def words_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every option and every action that is typed."""
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield name
                yield from words_of(below)


@pytest.mark.parametrize(("command", "parser"), list(subcommands()))
def test_every_option_is_in_the_reference(command: str, parser: argparse.ArgumentParser) -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {command}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    assert [word for word in words_of(parser) if not re.search(rf"(?<![\w-]){word}\b", section)] == []


def links(page: Path) -> Iterator[str]:
    """Where a page's links and pictures lead, within the repository."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        for part in token.children or ():
            address = part.attrs.get("href") or part.attrs.get("src")
            if address and not re.match(r"[a-z]+:", str(address)):
                yield str(address)


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_are_there(page: Path) -> None:
    for address in links(page):
        path, _, anchor = address.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{name_of(page)}: {address}"
        assert not anchor or anchor in headings(target), f"{name_of(page)}: {address}"
