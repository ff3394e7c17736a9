"""A real PgBouncer in transaction mode, from Debian's package."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from testing_support.ports import free_port

from .postgres import PostgresServer
from .system import as_nobody, from_package


class PgBouncer:
    """Two connections to a server, shared by all clients: each has one for the length of a transaction."""

    def __init__(self, server: PostgresServer, configuration: str | None = None) -> None:
        program = from_package("pgbouncer", "/usr/sbin/pgbouncer")
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        if configuration is None:
            configuration = f"""
            [databases]
            * = host=127.0.0.1 port={server.port} user=postgres
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {free_port()}
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            default_pool_size = 2
            """
        settings = self._folder / "pgbouncer.ini"
        settings.write_text(configuration)
        listening = re.search(r"listen_port = (\d+)", configuration)
        assert listening is not None
        self.port = int(listening[1])
        if os.geteuid() == 0:
            shutil.chown(self._folder, "nobody")
        with (self._folder / "log").open("w") as log:
            self._process = subprocess.Popen([*as_nobody(), program, settings], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer did not start: {(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def url(self, database: str) -> str:
        """The URL of a database of the server."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
