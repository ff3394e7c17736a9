"""Every block of code in the README and in `docs/` runs, against real servers, and prints what it shows.

The blocks of a page run in order in a folder of their own. A block with a title is a file of that name.
Python without one runs as it stands, `await` and all, in one namespace; console blocks run in one shell, and
what they print is compared with what is shown.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT, Block, Command, blocks, commands, name_of
from tests.docs.page_run import PageRun
from tests.docs.shell import Shell, shows

#: What does not run here, by its beginning, and why.
NOT_RUN = {
    "$ python3 -m venv .venv && .venv/bin/pip install '.[cli]' &&": "`.ci/run` runs it word for word",
    "$ python3 -m venv .venv && .venv/bin/pip install '.[test]' &&": "`.ci/run` runs it word for word",
    "$ pip install 'arbitrageai-native[uvloop]'": "takes the package from an index",
    "$ pip install 'arbitrageai-native[prometheus]'": "takes the package from an index",
    "event loop's thread ": "a drawing",
    "holder A   acquires, token 7": "a drawing",
}

#: Files that a program reads without being told their names.
READ_BY = {
    "gunicorn.conf.py": "gunicorn",
    "pgbouncer.ini": "",  # the server that the page's other blocks connect to
    "pyproject.toml": "ruff",
    "pytest.ini": "pytest",
}

#: Pages that speak of an application have it in their folder.
FOLDERS = {"docs/migration.md": ROOT / "examples" / "arbitrage_app"}


def is_run(block: Block) -> bool:
    return not block.first_line.startswith(tuple(NOT_RUN))


def pages_that_run() -> list[Path]:
    return [page for page in PAGES if any(map(is_run, blocks(page)))]


@pytest.mark.parametrize("page", pages_that_run(), ids=name_of)
def test_the_blocks_of_a_page_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    application = FOLDERS.get(name_of(page))
    if application is not None:
        leave_out = shutil.ignore_patterns("*.db*", "__pycache__")
        shutil.copytree(application, tmp_path, dirs_exist_ok=True, ignore=leave_out)
    with PageRun(tmp_path, request.getfixturevalue) as run:
        for block in filter(is_run, blocks(page)):
            run.run(block)


def test_what_does_not_run_is_there_once() -> None:
    lines = [block.first_line for page in PAGES for block in blocks(page)]
    assert {name: sum(line.startswith(name) for line in lines) for name in NOT_RUN} == dict.fromkeys(
        NOT_RUN, 1
    )


@pytest.mark.parametrize("page", pages_that_run(), ids=name_of)
def test_the_files_of_a_page_are_used_by_its_commands(page: Path) -> None:
    typed = " ".join(
        command.text for block in blocks(page) if block.language == "console" for command in commands(block)
    )
    words = {"", *re.findall(r"[\w.]+", typed), *re.findall(r"\w+", typed)}
    for block in blocks(page):
        file = Path(block.title)
        reader = READ_BY.get(block.title, "pytest" if file.name.startswith("test_") else file.stem)
        assert words & {reader, file.name, *file.parent.parts}, f"{block}: {block.title}"


def typed(text: str) -> list[Command]:
    """Parse the commands of a console block."""
    return list(commands(Block(ROOT / "README.md", 1, "console", "", text)))


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path, dict(os.environ))
    yield shell
    shell.close()


def test_what_runs_in_the_background_prints_into_no_other_command(shell: Shell) -> None:
    for command in typed(
        "$ (echo ready; until [ -e go ]; do sleep 0.01; done; echo late >&2; > said) &\nready\n"
    ):
        shell.run(command)
    for command in typed("$ > go; until [ -e said ]; do sleep 0.01; done; echo mine\nmine\n"):
        shell.run(command)


@pytest.mark.parametrize("redirected", ["", " > server.log 2>&1"])
@pytest.mark.parametrize("shown", ["", "ready"])
def test_a_server_that_ends_at_its_start_is_reported_with_its_log(
    shell: Shell, redirected: str, shown: str
) -> None:
    server, client = typed(
        f'$ python -c \'import sys; sys.exit("no port" + " is free")\'{redirected} &\n{shown}\n$ sleep 50\n'
    )
    with pytest.raises(AssertionError, match="no port is free"):
        for command in (server, client):
            shell.run(command)


@pytest.mark.parametrize(
    ("shown", "printed", "truly"),
    [
        ("", "anything", True),
        ("1 stall", "1 stall\n", True),
        ("1 stall", "2 stalls\n", False),
        ("in 0.50s", "in 0.07s", True),
        ("in 0.50s", "in 7s", False),
        ("{…}", "{1,\n2}", True),
        ("{…} end", "{1,\n2}", False),
        ("raise", "raise\n  ^^^^^\n", True),
    ],
)
def test_what_is_printed_is_compared(shown: str, printed: str, truly: bool) -> None:
    assert shows(shown, printed) is truly
