"""The commands without rich, the extra `cli`: plain lines, and on a terminal a hint how to get more."""

import ast
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import arbitrageai_native
from arbitrageai_native import BidLockManager
from arbitrageai_native.testing import ModelServer
from testing_support.terminal import on_a_terminal
from tests.demo.support import ALONE, write_postings

HINT = "for the display: pip install 'arbitrageai-native[cli]'\n"
COMMAND = (sys.executable, "-m", "arbitrageai_native")
MAY_IMPORT_RICH = {"cli/display.py", "demo/live_display.py", "llm/many.py"}


@dataclass
class Environment:
    """A folder of a user who has no rich, and a database with a lock in it."""

    folder: Path
    variables: dict[str, str]

    def words(self, command: str) -> list[str]:
        """The command line, for what the test calls it."""
        url = f"sqlite:///{self.folder}/locks.db"
        return {
            "demo": ["demo", "--postings", str(write_postings(self.folder)), *ALONE],
            "locks": ["locks", "--database-url", url],
            "watch": ["locks", "watch", "--every", "0.05", "--database-url", url],
            "doctor": ["doctor", "--database-url", url],
            "audit": ["audit", str(self.folder)],
        }[command]

    def piped(self, command: str) -> tuple[int, str, str]:
        """Run it in a pipe: (exit status, standard output, standard error)."""
        ended = subprocess.run(
            [*COMMAND, *self.words(command)],
            cwd=self.folder,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ended.returncode, ended.stdout, ended.stderr

    def on_a_terminal(
        self, command: str, answer: tuple[str, bytes] | None = None, **variables: str
    ) -> tuple[int, str, str]:
        """Run it on a terminal, whose standard error goes to a file."""
        status, output = on_a_terminal(
            ["sh", "-c", 'exec "$@" 2>stderr', "sh", *COMMAND, *self.words(command)],
            answer=answer,
            environment={**self.variables, **variables},
            folder=str(self.folder),
        )
        return status, output, (self.folder / "stderr").read_text()


@pytest.fixture
def without_rich(tmp_path: Path) -> Iterator[Environment]:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
    locks = BidLockManager(database_url=f"sqlite:///{tmp_path}/locks.db")
    asyncio.run(locks.acquire_lock("upwork", "17", holder_id="scanner-1"))
    with ModelServer() as server:
        urls = dict.fromkeys(("BASE_URL", "LOCAL_BASE_URL"), server.base_url)
        yield Environment(tmp_path, {"PYTHONPATH": str(tmp_path), **urls})


SHOWN = {
    "demo": "Every posting was bid on exactly once.\n",
    "locks": "bid:lock:upwork:17  scanner-1  ",
    "doctor": "SQLite database ",
    "audit": "coroutines in ",
}


@pytest.mark.parametrize("command", SHOWN)
def test_in_a_pipe_nothing_is_missing(without_rich: Environment, command: str) -> None:
    status, output, errors = without_rich.piped(command)
    assert (status, errors) == (0, "")
    assert SHOWN[command] in output
    assert "\x1b" not in output


@pytest.mark.parametrize("command", SHOWN)
def test_on_a_terminal_there_are_plain_lines_and_the_hint_once(
    without_rich: Environment, command: str
) -> None:
    status, output, errors = without_rich.on_a_terminal(command)
    assert status == 0
    assert SHOWN[command] in output
    assert "\x1b" not in output
    assert errors == HINT


def test_watch_prints_the_list_again_and_again_with_the_hint_once(without_rich: Environment) -> None:
    status, output, errors = without_rich.on_a_terminal("watch", ("scanner-1", b"\x03"))
    assert status == 130
    assert "1 lock in SQLite" in output
    assert "\x1b" not in output
    assert errors == HINT


def test_a_terminal_that_cannot_draw_gets_no_hint(without_rich: Environment) -> None:
    status, output, errors = without_rich.on_a_terminal("demo", TERM="dumb")
    assert (status, errors) == (0, "")
    assert SHOWN["demo"] in output


def test_json_gets_no_hint(without_rich: Environment) -> None:
    for command in ("locks list", "doctor", "demo"):
        words = [*without_rich.words(command.split()[0]), *command.split()[1:], "--json"]
        status, output = on_a_terminal([*COMMAND, *words], environment=without_rich.variables)
        assert (status, output[0], output[-2]) == (0, "{", "}")


def test_a_progress_bar_is_left_out_with_the_hint_once(without_rich: Environment) -> None:
    program = (
        "from arbitrageai_native import LLMService\n"
        "from arbitrageai_native.testing import ModelServer\n"
        "with ModelServer() as server:\n"
        "    service = LLMService(server.base_url, 'any')\n"
        "    for _ in range(2):\n"
        "        print(service.complete_many(['a'] * 3, progress=True)[2]['content'])\n"
    )
    command = [sys.executable, "-c", program]
    assert on_a_terminal(command, environment=without_rich.variables) == (0, f"{HINT}a\na\n")
    piped = subprocess.run(
        command, env={**os.environ, **without_rich.variables}, capture_output=True, text=True, check=True
    )
    assert (piped.stdout, piped.stderr) == ("a\na\n", "")


def test_rich_is_imported_by_what_draws_alone() -> None:
    package = Path(arbitrageai_native.__file__).parent
    importers = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "rich" for name in names):
                importers.add(path.relative_to(package).as_posix())
    assert importers == MAY_IMPORT_RICH
