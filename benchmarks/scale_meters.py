"""Databases whose work is counted: what they are asked, what they answer, write and compute.

Each is counted where it can't be mistaken: PostgreSQL's log of statements and its write-ahead log, Redis' own
statistics and its append-only file, the frames of SQLite's write-ahead log; bytes on the wire by a proxy.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Protocol

from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer
from testing_support.servers.tcp_proxy import TcpProxy

TABLES = ("distributed_locks", "arbitrageai_lock_fences", "arbitrageai_lock_waiters")


@dataclass(frozen=True)
class Reading:
    """Sums since the database was made. In the difference of two of them is what was done in between."""

    requests: float
    """Statements of PostgreSQL, scripts of Redis, transactions of SQLite."""
    sent: float
    """Bytes from the client to the server."""
    received: float
    """Bytes from the server to the client."""
    written: float
    """Bytes to the log on disk: write-ahead, or append-only."""
    cpu: float
    """Seconds of processor time; SQLite has no server, so there they are the client's."""

    def __sub__(self, other: Reading) -> Reading:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Reading(*(after - before for after, before in pairs))

    def per(self, operations: int) -> Reading:
        """The share of one operation."""
        return Reading(*(value / operations for value in astuple(self)))


class Meter(Protocol):
    """A database, and what it has done so far."""

    url: str
    direct_url: str
    """Without a proxy in between, for measuring time."""

    def read(self) -> Reading:
        """Count. It costs the database nothing that is counted."""

    def bytes_held(self) -> int:
        """What all locks take: on disk, or in Redis' memory."""


class PostgresMeter:
    """A PostgreSQL server that logs every statement."""

    def __init__(self, server: PostgresServer, proxy: TcpProxy) -> None:
        self._server = server
        self._proxy = proxy
        self._spent_on_reading = 0.0
        self.direct_url = server.create_database("scale")
        self.url = self.direct_url.replace(str(server.port), str(proxy.port))

    def count_no_more(self) -> None:
        """Stop logging: it takes time."""
        self._server.execute("ALTER SYSTEM SET log_statement = 'none'")
        self._server.execute("SELECT pg_reload_conf()")

    def read(self) -> Reading:
        before = cpu_seconds(self._server.process_id)
        cpu = before - self._spent_on_reading
        log = self._server.log.read_text()
        statements = log.count("LOG:  execute ") + log.count("LOG:  statement: ") - log.count(": SELECT pg_")
        written = self._server.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
        # Asking takes a process of the server's, whose time is not what is measured.
        self._spent_on_reading += cpu_seconds(self._server.process_id) - before
        return Reading(statements, self._proxy.sent, self._proxy.received, float(written), cpu)

    def bytes_held(self) -> int:
        self._server.execute("VACUUM", "scale")
        sizes = " + ".join(f"pg_total_relation_size('{table}')" for table in TABLES)
        return int(self._server.execute(f"SELECT {sizes}", "scale"))


class RedisMeter:
    """A Redis server that writes every change to its file."""

    def __init__(self, server: RedisServer, proxy: TcpProxy) -> None:
        self._server = server
        self._proxy = proxy
        self.direct_url = server.url()
        self.url = self.direct_url.replace(str(server.port), str(proxy.port))

    def count_no_more(self) -> None:
        """Nothing that costs time is being counted."""

    def read(self) -> Reading:
        scripts = self._server.client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
        written = self._server.client.info("persistence")["aof_current_size"]
        cpu = self._server.client.info("cpu")
        return Reading(
            scripts,
            self._proxy.sent,
            self._proxy.received,
            written,
            cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"],
        )

    def bytes_held(self) -> int:
        held: int = self._server.client.info("memory")["used_memory_dataset"]
        return held


class SqliteMeter:
    """A file whose write-ahead log is kept whole, by a reader that still looks at its beginning."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / "locks.db"
        self.url = self.direct_url = f"sqlite:///{self._path}"
        self._reader: sqlite3.Connection | None = None

    def count_no_more(self) -> None:
        """Let the log begin anew now and then, as it does in use."""
        if self._reader is not None:
            self._reader.close()

    def read(self) -> Reading:
        if self._reader is None and self._path.exists():
            self._reader = sqlite3.connect(self._path, isolation_level=None)
            self._reader.execute("BEGIN")
            self._reader.execute("SELECT count(*) FROM distributed_locks").fetchall()
        frames = list(self._commits())
        written = self._log.stat().st_size if frames else 0
        return Reading(sum(frames), 0, 0, written, time.process_time())

    def bytes_held(self) -> int:
        self.count_no_more()
        with closing(sqlite3.connect(self._path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._path.stat().st_size

    @property
    def _log(self) -> Path:
        return self._path.with_name(f"{self._path.name}-wal")

    def _commits(self) -> Iterator[bool]:
        """Whether it ends a transaction, for each frame of the log.

        <https://www.sqlite.org/fileformat2.html#walformat>
        """
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            header = log.read(32)
            page = struct.unpack(">I", header[8:12])[0] if len(header) == 32 else 0
            while len(frame := log.read(24)) == 24:
                yield struct.unpack(">I", frame[4:8])[0] > 0
                log.seek(page, os.SEEK_CUR)


@asynccontextmanager
async def metered(store: str) -> AsyncIterator[PostgresMeter | RedisMeter | SqliteMeter]:
    """A new database of this kind."""
    if store == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield SqliteMeter(folder)
        return
    server = (
        PostgresServer(settings={"log_statement": "all"})
        if store == "postgresql"
        else RedisServer(durable=True)
    )
    try:
        async with TcpProxy(server.port) as proxy:
            yield (
                PostgresMeter(server, proxy)
                if isinstance(server, PostgresServer)
                else RedisMeter(server, proxy)
            )
    finally:
        server.stop()


def cpu_seconds(process: int) -> float:
    """Processor time of a process, its children, and those of them that have ended."""
    ticks = os.sysconf("SC_CLK_TCK")
    family = [path for path in Path("/proc").glob("[0-9]*/stat") if belongs_to(path, process)]
    return sum(sum(map(int, fields(path)[11:15])) for path in family) / ticks


def belongs_to(stat: Path, process: int) -> bool:
    found = fields(stat)
    return stat.parent.name == str(process) or (bool(found) and found[1] == str(process))


def fields(stat: Path) -> list[str]:
    """What the kernel says of a process, from its state on; nothing if it has ended meanwhile."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return []
