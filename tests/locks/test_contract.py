"""What code written for the original can observe beside the locks: settings, the session seam, bad input."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import AsyncMock, patch

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

from arbitrageai_native.agent_execution import bid_lock_manager
from arbitrageai_native.agent_execution.bid_lock_manager import (
    BidLockManager,
    get_bid_lock_manager,
    init_bid_lock_manager,
)
from arbitrageai_native.exceptions import LockBackendError, LockError, LockTimeoutError
from arbitrageai_native.locks import databases
from testing_support.machine import Stopwatch
from testing_support.reference.polling_lock import Base, DistributedLock
from testing_support.servers.postgres import PostgresServer

# --- the process's manager ---


def test_the_process_has_one_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bid_lock_manager, "_bid_lock_manager", None)
    manager = get_bid_lock_manager()
    assert manager is get_bid_lock_manager()
    assert manager.ttl == 300
    assert init_bid_lock_manager(ttl=60) is get_bid_lock_manager()
    assert get_bid_lock_manager().ttl == 60


async def test_the_database_is_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/environment.db")
    assert await BidLockManager().acquire_lock("m", "p")
    assert (tmp_path / "environment.db").exists()


async def test_without_a_database_the_default_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert await BidLockManager().acquire_lock("m", "p")
    assert (tmp_path / "data" / "tasks.db").exists()


async def test_managers_of_one_url_share_a_queue(tmp_path: Path) -> None:
    one, other = (BidLockManager(300, f"sqlite:///{tmp_path}/one.db") for _ in range(2))
    await one.acquire_lock("m", "p")
    waiter = asyncio.create_task(other.acquire_lock("m", "p"))
    await asyncio.sleep(0)  # it has its place now
    assert len((await one.locks()).waiting) == 1
    assert await other.release_lock("m", "p")
    assert await waiter


async def test_methods_can_be_patched() -> None:
    with patch.object(BidLockManager, "acquire_lock") as acquire:
        assert isinstance(acquire, AsyncMock)
        acquire.return_value = True
        assert await BidLockManager().acquire_lock("m", "p") is True


def test_nothing_is_opened_before_the_first_lock(tmp_path: Path) -> None:
    BidLockManager(300, f"sqlite:///{tmp_path}/later.db")
    assert list(tmp_path.iterdir()) == []


# --- the session seam ---


async def test_a_session_tells_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/application.db")
    Base.metadata.create_all(engine)
    closed = 0

    class CountedSession(Session):
        def close(self) -> None:
            nonlocal closed
            closed += 1
            super().close()

    manager = BidLockManager()
    monkeypatch.setattr(manager, "_get_db", sessionmaker(engine, class_=CountedSession))
    assert await manager.acquire_lock("m", "p", holder_id="one")
    with Session(engine) as session:
        row = session.query(DistributedLock).one()
        assert (row.lock_key, row.holder_id) == ("bid:lock:m:p", "one")
        assert row.created_at.year >= 2024
        assert row.expires_at - row.acquired_at == pytest.approx(300)
    assert manager.get_metrics()["active_locks"] == 1
    assert await manager.release_lock("m", "p", holder_id="one")
    assert closed == 3
    engine.dispose()


async def test_in_memory_engines_stand_for_databases_of_their_own() -> None:
    def manager_on(engine: object) -> BidLockManager:
        manager = BidLockManager()
        manager._get_db = lambda: Session(engine)  # type: ignore[method-assign, arg-type]
        return manager

    engines = [create_engine("sqlite://", poolclass=StaticPool) for _ in range(2)]
    one, same, other = manager_on(engines[0]), manager_on(engines[0]), manager_on(engines[1])
    assert await one.acquire_lock("m", "p")
    assert not await same.acquire_lock("m", "p", timeout=0)
    assert await other.acquire_lock("m", "p", timeout=0)
    for engine in engines:
        engine.dispose()
    del one, same, other, engines, engine
    gc.collect()
    assert len(databases._memory_numbers) == 0


# --- bad input ---


@pytest.mark.parametrize(("marketplace", "posting"), [("", "p"), ("m", "")])
async def test_empty_identifiers(marketplace: str, posting: str, tmp_path: Path) -> None:
    manager = BidLockManager(300, f"sqlite:///{tmp_path}/one.db")
    message = "^marketplace_id and posting_id must not be empty$"
    with pytest.raises(ValueError, match=message):
        await manager.acquire_lock(marketplace, posting)
    with pytest.raises(ValueError, match=message):
        await manager.release_lock(marketplace, posting)
    with pytest.raises(ValueError, match=message):
        async with manager.with_lock(marketplace, posting):
            pass


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"posting_id": "x" * 1001}, "posting_id"),
        ({"marketplace_id": "a\0b"}, "marketplace_id"),
        ({"holder_id": "a\0b"}, "holder_id"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
    ],
)
async def test_senseless_arguments(arguments: dict[str, object], named: str, tmp_path: Path) -> None:
    manager = BidLockManager(300, f"sqlite:///{tmp_path}/one.db")
    with pytest.raises(ValueError, match=named):
        await manager.acquire_lock(**{"marketplace_id": "m", "posting_id": "p", **arguments})  # type: ignore[arg-type]


async def test_arguments_of_the_wrong_type(tmp_path: Path) -> None:
    manager = BidLockManager(300, f"sqlite:///{tmp_path}/one.db")
    with pytest.raises(TypeError, match="timeout"):
        await manager.acquire_lock("m", "p", timeout="soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="ttl"):
        BidLockManager(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("ttl", [0, -1, math.nan, math.inf])
async def test_a_senseless_ttl(ttl: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ttl"):
        BidLockManager(ttl)
    manager = BidLockManager(300, f"sqlite:///{tmp_path}/one.db")
    manager.ttl = ttl
    with pytest.raises(ValueError, match="ttl"):
        await manager.acquire_lock("m", "p")


@pytest.mark.parametrize(
    "url",
    [
        "tasks.db",
        "mysql://host/db",
        "sqlite://tasks.db",
        "postgresql://host:port/db",
        "postgresql://h/?sslmode=odd",
    ],
)
def test_urls_that_name_no_database(url: str) -> None:
    with pytest.raises(ValueError, match=r"database_url|SQLite URL"):
        BidLockManager(300, url)


def test_senseless_settings() -> None:
    with pytest.raises(ValueError, match="on_lost"):
        BidLockManager(on_lost="explode")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_connections"):
        BidLockManager(300, "postgresql://host/db", max_connections=0)


async def refused(manager: BidLockManager, caplog: pytest.LogCaptureFixture) -> str:
    """The message of a manager whose database can't be used."""
    caplog.clear()
    watch = Stopwatch()
    with caplog.at_level(logging.ERROR):
        assert not await manager.acquire_lock("m", "p", timeout=0.3)
    assert watch.seconds < 5 + watch.held_up
    assert len(caplog.records) == 1
    with pytest.raises(LockBackendError) as raised:
        await manager.acquire_lock("m", "p", timeout=0.3, raise_on_error=True)
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value.__cause__, LockError)
    assert not await manager.release_lock("m", "p")
    return str(raised.value)


async def test_files_that_are_no_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folder").mkdir()
    assert "is a directory" in await refused(BidLockManager(300, f"sqlite:///{tmp_path}/folder"), caplog)
    assert "does not exist" in await refused(BidLockManager(300, f"sqlite:///{tmp_path}/no/x.db"), caplog)
    (tmp_path / "text.db").write_text("This is not a database, whatever its name may say. " * 100)
    assert "not a database" in await refused(BidLockManager(300, f"sqlite:///{tmp_path}/text.db"), caplog)


async def test_tables_of_another_shape(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, (columns, wrong) in enumerate(
        [
            ("id VARCHAR PRIMARY KEY, lock_key VARCHAR UNIQUE, holder_id VARCHAR", "acquired_at is missing"),
            (
                "id VARCHAR PRIMARY KEY, lock_key VARCHAR UNIQUE, holder_id VARCHAR, acquired_at FLOAT, "
                "expires_at DATETIME, created_at DATETIME",
                "expires_at is DATETIME",
            ),
            (
                "id VARCHAR PRIMARY KEY, lock_key VARCHAR, holder_id VARCHAR, acquired_at FLOAT, "
                "expires_at FLOAT, created_at DATETIME",
                "lock_key has no unique index",
            ),
        ]
    ):
        path = tmp_path / f"{number}.db"
        connection = sqlite3.connect(path)
        connection.execute(f"CREATE TABLE distributed_locks ({columns})")
        connection.close()
        assert wrong in await refused(BidLockManager(300, f"sqlite:///{path}"), caplog)


async def test_a_table_of_another_shape_on_a_server(
    postgres_server: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    statement = (
        "CREATE TABLE distributed_locks (id text PRIMARY KEY, lock_key text UNIQUE, holder_id integer)"
    )
    postgres_server.execute(statement, postgres_url.rsplit("/", 1)[1])
    assert "holder_id is integer" in await refused(BidLockManager(300, postgres_url), caplog)


async def test_a_role_that_may_not_create_is_told_what_to_run(
    postgres_server: PostgresServer, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = postgres_url.rsplit("/", 1)[1]
    postgres_server.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN", database)
    url = postgres_url.replace("postgres@", "reader:secret-word@")
    message = await refused(BidLockManager(300, url), caplog)
    assert "CREATE TABLE IF NOT EXISTS distributed_locks" in message
    assert "secret-word" not in message


async def test_a_server_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    manager = BidLockManager(300, "postgresql://user:secret-word@127.0.0.1:1/db")
    message = await refused(manager, caplog)
    assert "127.0.0.1:1" in message
    assert "secret-word" not in message + caplog.text + repr(manager)


async def test_a_deleted_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    manager = BidLockManager(300, f"sqlite:///{path}")
    assert await manager.acquire_lock("m", "p")
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()  # noqa: ASYNC240 - the test itself may wait
    assert await manager.acquire_lock("m", "p", timeout=5)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM distributed_locks").fetchone() == (1,)
    connection.close()


async def test_a_dropped_table_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    manager = BidLockManager(300, f"sqlite:///{path}")
    assert await manager.acquire_lock("m", "p")
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE distributed_locks")
    connection.close()
    assert await manager.acquire_lock("m", "p", timeout=5)


@pytest.mark.usefixtures("postgres_url")  # without the tables of other tests
async def test_sockets_and_parameters_of_libpq(postgres_server: PostgresServer) -> None:
    database = "postgres"
    folder, port = postgres_server.socket_folder, postgres_server.port
    for url in [
        f"postgresql+asyncpg://postgres@/{database}?host={folder}&port={port}",
        f"postgres://postgres@localhost:{port}/{database}?sslmode=disable&connect_timeout=3",
        f"postgresql+psycopg2://127.0.0.1/?user=postgres&port={port}&dbname={database}&application_name=x",
    ]:
        async with BidLockManager(300, url).with_lock("m", "p", timeout=20):
            pass


async def test_without_prepared_statements(postgres_url: str) -> None:
    async with BidLockManager(300, postgres_url, statement_cache=False) as manager:
        lease = await manager.acquire_lease("m", "p")
        assert await manager.try_lock("m", "p") is None
        await lease.renew()
        assert await lease.release()


async def test_a_timeout_is_raised_on_request(tmp_path: Path) -> None:
    manager = BidLockManager(300, f"sqlite:///{tmp_path}/one.db")
    await manager.acquire_lock("m", "p")
    with pytest.raises(LockTimeoutError):
        await manager.acquire_lock("m", "p", timeout=0, raise_on_error=True)


READ_ONLY = """
import asyncio, sys
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockBackendError

try:
    asyncio.run(BidLockManager(300, sys.argv[1]).acquire_lock("m", "p", timeout=0.2, raise_on_error=True))
except LockBackendError as error:
    print(error)
"""


def test_a_read_only_file_is_refused() -> None:
    # Not below pytest's own folder, which nobody else may enter; and by somebody else, since root may write
    # everywhere.
    prefix = ["setpriv", "--reuid=nobody", "--clear-groups"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "locks.db")
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE other (x)")
        connection.close()
        path.chmod(0o444)
        path.parent.chmod(0o555)
        command = [*prefix, sys.executable, "-c", READ_ONLY, f"sqlite:///{path}"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        path.parent.chmod(0o755)
    assert "readonly" in output
    assert str(path) in output
