"""`agent_execution.bid_lock_manager`: the table, and where the database is, sentence by sentence."""

import asyncio
import os
import subprocess
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import create_engine, inspect, select
from sqlalchemy.orm import Session

from testing_support.reference.src.database import Base, DistributedLock
from testing_support.servers.postgres import PostgresServer
from tests.drop_in.support import python, rows

KEY = "bid:lock:upwork:p1"


async def test_a_row_has_what_old_processes_read(locks: Any, lock_file: Path) -> None:
    before = time.time()
    await locks.BidLockManager(ttl=60).acquire_lock("upwork", "p1", holder_id="me")
    (row,) = rows(lock_file)
    assert list(row) == ["id", "lock_key", "holder_id", "acquired_at", "expires_at", "created_at"]
    assert str(uuid.UUID(row["id"])) == row["id"]
    assert uuid.UUID(row["id"]).version == 4
    assert (row["lock_key"], row["holder_id"]) == (KEY, "me")
    assert type(row["acquired_at"]) is type(row["expires_at"]) is float
    assert before - 1 <= row["acquired_at"] <= time.time() + 1
    assert row["expires_at"] - row["acquired_at"] == pytest.approx(60, abs=0.5)


async def test_created_at_is_a_utc_datetime_to_sqlalchemy(locks: Any, lock_file: Path) -> None:
    await locks.BidLockManager().acquire_lock("upwork", "p1")
    engine = create_engine(f"sqlite:///{lock_file}")
    with Session(engine) as session:
        (lock,) = session.scalars(select(DistributedLock))
        created = lock.created_at
    engine.dispose()
    assert isinstance(created, datetime)
    assert abs(datetime.now(timezone.utc).replace(tzinfo=None) - created) < timedelta(seconds=60)


async def test_a_table_that_is_missing_is_made(locks: Any, lock_file: Path) -> None:
    await locks.BidLockManager().acquire_lock("upwork", "p1")
    engine = create_engine(f"sqlite:///{lock_file}")
    inspector = inspect(engine)
    columns = {
        column["name"]: (str(column["type"]), column["nullable"], bool(column["primary_key"]))
        for column in inspector.get_columns("distributed_locks")
    }
    unique = [
        index["column_names"] for index in inspector.get_indexes("distributed_locks") if index["unique"]
    ]
    unique += [found["column_names"] for found in inspector.get_unique_constraints("distributed_locks")]
    engine.dispose()
    assert columns == {
        "id": ("VARCHAR", False, True),
        "lock_key": ("VARCHAR", False, False),
        "holder_id": ("VARCHAR", False, False),
        "acquired_at": ("FLOAT", False, False),
        "expires_at": ("FLOAT", False, False),
        "created_at": ("DATETIME", True, False),
    }
    assert ["lock_key"] in unique


async def test_a_table_made_by_create_all_is_used(locks: Any, lock_file: Path) -> None:
    engine = create_engine(f"sqlite:///{lock_file}")
    Base.metadata.create_all(engine)
    manager = locks.BidLockManager()
    assert await manager.acquire_lock("upwork", "p1") is True
    with Session(engine) as session:
        (lock,) = session.scalars(select(DistributedLock))
        assert lock.lock_key == KEY
        session.delete(lock)
        session.commit()
    engine.dispose()
    assert await manager.acquire_lock("upwork", "p1", timeout=0) is True


async def test_create_all_accepts_the_table_that_was_made(locks: Any, lock_file: Path) -> None:
    await locks.BidLockManager().acquire_lock("upwork", "p1")
    engine = create_engine(f"sqlite:///{lock_file}")
    Base.metadata.create_all(engine)
    engine.dispose()
    assert len(rows(lock_file)) == 1


async def test_a_row_of_an_old_process_is_respected_until_it_expires(locks: Any, lock_file: Path) -> None:
    engine = create_engine(f"sqlite:///{lock_file}")
    Base.metadata.create_all(engine)
    now = time.time()
    with Session(engine) as session:
        session.add(DistributedLock(lock_key=KEY, holder_id="old", acquired_at=now, expires_at=now + 0.8))
        session.commit()
    engine.dispose()
    manager = locks.BidLockManager()
    assert await manager.acquire_lock("upwork", "p1", timeout=0.1, holder_id="new") is False
    assert await manager.acquire_lock("upwork", "p1", timeout=5, holder_id="new") is True
    assert time.time() >= now + 0.8


async def test_old_and_new_managers_exclude_each_other(
    monkeypatch: pytest.MonkeyPatch, lock_file: Path
) -> None:
    from arbitrageai_native.agent_execution import bid_lock_manager as new
    from testing_support.reference.src.agent_execution import bid_lock_manager as old

    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{lock_file}")
    for one, two in ((old, new), (new, old)):
        first, second = one.BidLockManager(), two.BidLockManager()
        async with first.with_lock("upwork", "p1", holder_id="first"):
            assert await second.acquire_lock("upwork", "p1", timeout=0.2, holder_id="second") is False
        assert await second.acquire_lock("upwork", "p1", timeout=2, holder_id="second") is True
        assert await second.release_lock("upwork", "p1", holder_id="second") is True


ACQUIRE = """
import asyncio, sys
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
sys.stdin.readline()
print(asyncio.run(BidLockManager().acquire_lock("upwork", sys.argv[1])))
"""


def test_several_processes_may_make_the_table_at_once(lock_file: Path) -> None:
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{lock_file}"}
    processes = [
        subprocess.Popen(
            python("-c", ACQUIRE, f"p{number}"),
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    # Each holds its lock until it ends, when it is released.
    assert [process.communicate()[0].strip() for process in processes] == ["True"] * 4
    assert rows(lock_file) == []


# Where the database is


def files_in(folder: Path) -> list[str]:
    """The databases in a folder, by their names."""
    return [file.name for file in folder.iterdir() if not file.name.endswith(("-wal", "-shm"))]


async def acquired_in(locks: Any, file: Path) -> bool:
    """Whether a manager of the environment's database writes into a file."""
    assert await locks.BidLockManager().acquire_lock("upwork", "p1") is True
    return len(rows(file)) == 1


async def test_a_relative_sqlite_path(locks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///relative-{uuid.uuid4()}.db")
    await locks.BidLockManager().acquire_lock("upwork", "p1")
    (name,) = files_in(tmp_path)
    assert name.startswith("relative-")
    assert len(rows(tmp_path / name)) == 1


async def test_an_absolute_sqlite_path(locks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/absolute.db")
    assert await acquired_in(locks, tmp_path / "absolute.db")


async def test_the_aiosqlite_driver_suffix(
    locks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/suffix.db")
    assert await acquired_in(locks, tmp_path / "suffix.db")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg2"])
async def test_postgresql_urls(
    locks: Any, monkeypatch: pytest.MonkeyPatch, postgres_url: str, scheme: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", postgres_url.replace("postgresql", scheme, 1))
    one, two = locks.BidLockManager(), locks.BidLockManager()
    assert await one.acquire_lock("upwork", "p1", holder_id="one") is True
    assert await two.acquire_lock("upwork", "p1", timeout=0.2, holder_id="two") is False
    assert one.get_metrics()["active_locks"] == 1
    assert await one.release_lock("upwork", "p1", holder_id="one") is True
    close(one)


async def test_libpq_parameters(
    locks: Any, monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer, postgres_url: str
) -> None:
    database = urlsplit(postgres_url).path.removeprefix("/")
    # The server has this port only in the folder of its socket.
    parameters = f"host={postgres_server.socket_folder}&port={postgres_server.port}"
    monkeypatch.setenv(
        "DATABASE_URL",
        f"postgresql://postgres@/{database}?{parameters}&sslmode=disable&connect_timeout=5",
    )
    manager = locks.BidLockManager()
    assert await manager.acquire_lock("upwork", "p1") is True
    counted = postgres_server.execute("SELECT count(*) FROM distributed_locks", database)
    assert counted == "1"
    close(manager)


def close(manager: Any) -> None:
    """Let go of the connections, before the server goes."""
    if hasattr(manager, "close"):
        manager.close()
    else:
        session = manager._get_db()
        session.close()
        session.get_bind().dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
async def test_a_database_in_memory(
    locks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    one, two = locks.BidLockManager(), locks.BidLockManager()
    await one.cleanup_all()
    assert await one.acquire_lock("upwork", "p1", holder_id="one") is True
    assert await two.acquire_lock("upwork", "p1", timeout=0.2, holder_id="two") is False
    assert await one.release_lock("upwork", "p1", holder_id="one") is True
    assert files_in(tmp_path) == []


async def test_the_database_is_data_tasks_db_by_default_its_folder_made(
    implementation: str, locks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Each of the two in its own folder: both may keep a database open that they opened once.
    folder = tmp_path / implementation
    folder.mkdir()
    monkeypatch.delenv("DATABASE_URL")
    monkeypatch.chdir(folder)
    assert await acquired_in(locks, folder / "data" / "tasks.db")


async def test_managers_of_one_url_take_turns(locks: Any) -> None:
    managers = [locks.BidLockManager() for _ in range(4)]
    inside = 0

    async def take_turns(manager: Any, holder: str) -> None:
        nonlocal inside
        assert await manager.acquire_lock("upwork", "p1", timeout=20, holder_id=holder)
        inside += 1
        assert inside == 1
        await asyncio.sleep(0.02)
        inside -= 1
        assert await manager.release_lock("upwork", "p1", holder_id=holder)

    await asyncio.gather(*(take_turns(manager, f"h{number}") for number, manager in enumerate(managers)))


@pytest.mark.better
async def test_waiters_of_one_url_are_served_in_order(locks: Any) -> None:
    managers = [locks.BidLockManager() for _ in range(3)]
    served: list[str] = []

    async def take_turn(manager: Any, holder: str) -> None:
        assert await manager.acquire_lock("upwork", "p1", timeout=20, holder_id=holder)
        served.append(holder)
        await manager.release_lock("upwork", "p1", holder_id=holder)

    await managers[0].acquire_lock("upwork", "p1", holder_id="first")
    waiter = asyncio.create_task(take_turn(managers[1], "who waited"))
    await asyncio.sleep(0.05)
    await managers[0].release_lock("upwork", "p1", holder_id="first")
    # Who polls is asleep now, and who has just come finds the lock free.
    await asyncio.gather(waiter, take_turn(managers[2], "who came later"))
    assert served == ["who waited", "who came later"]


async def test_managers_of_one_file_share_a_queue_however_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    by_default = BidLockManager()
    assert await by_default.acquire_lock("upwork", "p1") is True
    for url in ("sqlite:///data/tasks.db", f"sqlite+aiosqlite:///{tmp_path}/data/../data/tasks.db?timeout=5"):
        other = BidLockManager(60, url)
        waiter = asyncio.create_task(other.acquire_lock("upwork", "p1", timeout=20, holder_id="waiter"))
        for _ in range(1000):
            if waiting := (await by_default.locks()).waiting:
                break
            await asyncio.sleep(0.01)
        assert [found.holder_id for found in waiting] == ["waiter"]
        waiter.cancel()
        await asyncio.wait([waiter])
