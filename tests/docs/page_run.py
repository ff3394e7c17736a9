"""A page that is being run: its folder, its processes, and the servers behind the ports that it names."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from arbitrageai_native.testing import ModelServer
from testing_support.ports import free_port
from testing_support.servers.pgbouncer import PgBouncer
from tests.docs.blocks import ROOT, Block, commands
from tests.docs.shell import Shell
from tests.docs.snippets import Snippets

# The environment of whoever runs the tests is not the pages'.
_SETTINGS = re.compile(r"API_KEY|BASE_URL|DATABASE_URL|ENV|(OPENAI|REDIS|PYTEST|PYTHON|COVERAGE).*|.*_MODEL")

# The ports that pages name: of a model, PostgreSQL, PgBouncer, Redis; and of what pages start themselves.
_PORTS = re.compile(r"\b(11434|5432|6432|6379|80\d\d)\b")


class PageRun:
    """Runs the blocks of a page, in order."""

    def __init__(self, folder: Path, fixture: Callable[[str], Any]) -> None:
        self._folder = folder
        self._fixture = fixture
        self._stack = ExitStack()
        self._ports: dict[str, int] = {}
        self._shell: Shell | None = None
        self._snippets: Snippets | None = None
        self._languages: dict[str, Callable[[Block], None]] = {
            "python": self._python,
            "console": self._console,
            "redis": self._redis,
            "yaml": self._yaml,
        }

    def __enter__(self) -> PageRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, block: Block) -> None:
        """Run a block.

        Raises:
            AssertionError: it fails, or prints something else than what the page shows.
        """
        if block.title:
            self._write(block)
            return
        run = self._languages.get(block.language)
        assert run is not None, f"{block}: nobody knows how to run {block.language or 'an indented block'}"
        run(block)

    # Each kind of block

    def _write(self, block: Block) -> None:
        text = self._here(block.text)
        if block.title == "pgbouncer.ini":
            pooler = PgBouncer(self._fixture("postgres_server"), text)
            self._stack.callback(pooler.stop)
            return
        file = self._folder / block.title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def _python(self, block: Block) -> None:
        if self._snippets is None:
            self._snippets = Snippets(self._folder, self._environment())
            self._stack.callback(self._snippets.close)
        self._snippets.run(block, self._here(block.text))

    def _console(self, block: Block) -> None:
        if self._shell is None:
            self._shell = Shell(self._folder, self._environment())
            self._stack.callback(self._shell.close)
        here = Block(block.page, block.line, block.language, block.title, self._here(block.text))
        for command in commands(here):
            self._shell.run(command)

    def _redis(self, block: Block) -> None:
        server = self._fixture("redis_server")
        for command in block.text.replace("\\\n", " ").splitlines():
            server.execute(*shlex.split(command))

    def _yaml(self, block: Block) -> None:
        ours = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
        for repository in yaml.safe_load(block.text):
            assert {hook["id"] for hook in repository["hooks"]} <= ours, str(block)

    # Where it runs

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not _SETTINGS.fullmatch(name)}
        return {
            **inherited,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]]),
            "COLUMNS": "80",
            "PYTHONUNBUFFERED": "1",
            # pytest-asyncio warns of a coming default until it is set.
            "PYTEST_ADDOPTS": "-o asyncio_default_fixture_loop_scope=function",
        }

    def _here(self, text: str) -> str:
        """The text, with the ports of this run's servers in the place of the usual ones."""
        return _PORTS.sub(lambda usual: str(self._port(usual[0])), text)

    def _port(self, usual: str) -> int:
        if usual not in self._ports:
            self._ports[usual] = self._start(usual)
        return self._ports[usual]

    def _start(self, usual: str) -> int:
        if usual == "11434":
            return self._stack.enter_context(ModelServer()).port
        if usual in ("5432", "6379"):
            kind = "postgres" if usual == "5432" else "redis"
            self._fixture(f"{kind}_url")  # without anything that other tests left there
            port: int = self._fixture(f"{kind}_server").port
            return port
        return free_port()
