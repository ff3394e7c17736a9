"""A SQLite file is closed when nobody uses it any more, and one file is one queue whatever its name."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.doctor import diagnose
from arbitrageai_native.exceptions import LockBackendError, LockLostError
from testing_support.waiting import until

EXIT = """
import asyncio, sqlite3, sys
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

path, closes = sys.argv[1], sys.argv[2] == "closes"
application = sqlite3.connect(path)
application.execute("CREATE TABLE bids (posting TEXT)")
application.commit()
locks, more = BidLockManager(30, f"sqlite:///{path}"), BidLockManager(30, f"sqlite:///{path}.other")

async def main():
    async with locks.with_lock("m", "p"), more.with_lock("m", "p"):
        application.execute("INSERT INTO bids VALUES ('p')")
        application.commit()
    assert await locks.acquire_lock("m", "held at the exit")

asyncio.run(main())
if closes:
    application.close()
"""


@pytest.mark.parametrize("application", ["closes", "leaves its connection open"])
def test_an_exit_closes_the_file(application: str, tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    subprocess.run([sys.executable, "-c", EXIT, str(path), application], check=True, timeout=110)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["app.db", "app.db.other"]
    copy = shutil.copy(path, tmp_path / "backup.db")
    with closing(sqlite3.connect(copy)) as backup:
        assert backup.execute("SELECT posting FROM bids").fetchall() == [("p",)]
        assert backup.execute("SELECT count(*) FROM distributed_locks").fetchone() == (0,)


EXIT_BESIDE_ANOTHER = """
import asyncio, sys
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

async def main():
    await BidLockManager(30, f"sqlite:///{sys.argv[1]}").acquire_lock("m", "p")

asyncio.run(main())
"""


def test_an_exit_beside_another_process_leaves_what_was_committed_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE bids (posting TEXT)")
        subprocess.run([sys.executable, "-c", EXIT_BESIDE_ANOTHER, str(path)], check=True, timeout=110)
        # The log is still there, and is not needed any more.
        copy = shutil.copy(path, tmp_path / "backup.db")
        with closing(sqlite3.connect(copy)) as backup:
            assert backup.execute("SELECT count(*) FROM bids").fetchone() == (0,)


def logs(path: Path) -> list[str]:
    """Return the names of the files beside a database."""
    return sorted(file.name for file in path.parent.iterdir() if file != path)


async def test_the_file_is_closed_when_the_last_manager_is(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    one, two = (BidLockManager(30, f"sqlite:///{path}") for _ in range(2))
    for manager in (one, two):
        assert await manager.acquire_lock("m", f"p{id(manager)}")
    await one.aclose()
    assert logs(path) == ["locks.db-shm", "locks.db-wal"]
    await two.aclose()
    assert logs(path) == []
    assert await one.acquire_lock("m", "opened again")
    one.close()
    assert logs(path) == []


async def test_the_file_is_closed_when_the_last_manager_is_collected(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    manager = BidLockManager(30, f"sqlite:///{path}")
    async with manager.with_lock("m", "p"):
        pass
    del manager
    gc.collect()
    deadline = time.monotonic() + 20
    while logs(path):  # a thread closes it
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


HOLD_FOR_A_MOMENT = """
import asyncio, sys
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

async def main():
    lease = await BidLockManager(60, f"sqlite:///{sys.argv[1]}").acquire_lease("m", "p", timeout=0)
    await lease.release()

asyncio.run(main())
"""


@pytest.mark.parametrize("removed", [("-wal", "-shm"), ("-wal",), ("-shm",)])
async def test_a_log_that_is_removed_is_noticed(
    removed: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "locks.db"
    manager = BidLockManager(1.5, f"sqlite:///{path}")
    with caplog.at_level(logging.WARNING), pytest.raises(LockLostError):
        async with manager.with_lock("m", "p", on_lost="raise") as lease:
            for part in removed:
                (tmp_path / f"locks.db{part}").unlink()
            if len(removed) == 2:
                command = [sys.executable, "-c", HOLD_FOR_A_MOMENT, str(path)]
                await asyncio.to_thread(subprocess.run, command, check=True, timeout=110)
            deadline = time.monotonic() + 30
            while lease.is_held:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
    # What went wrong is logged once, and the file works again.
    assert await manager.acquire_lock("m", "p")
    await until(lambda: "-wal or -shm" in caplog.text)
    (said,) = [record.getMessage() for record in caplog.records if "-wal or -shm" in record.getMessage()]
    assert str(path) in said
    await manager.aclose()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def back_up(path: Path) -> Path:
    """Make a copy of a database, without what is in it later."""
    backup = path.with_suffix(".bak")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    return backup


async def test_a_file_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    async with BidLockManager(60, f"sqlite:///{path}", loss_check=0.1) as manager:
        await (await manager.acquire_lease("m", "before")).release()
        backup = back_up(path)
        lease = await manager.acquire_lease("m", "p")
        for number in range(200):  # on several pages, which are only in the log
            assert await manager.acquire_lock("m", f"{number}", holder_id="x" * 200)
        backup.rename(path)
        assert await asyncio.wait_for(lease.lost(), 60)
        assert (await manager.locks()).held == []
        command = [sys.executable, "-c", HOLD_FOR_A_MOMENT, str(path)]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=110)
        again = await manager.acquire_lease("m", "p", timeout=0)
        assert again.fencing_token > lease.fencing_token
        await again.release()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert logs(path) == []


async def test_a_file_that_is_replaced_before_it_is_closed_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    async with BidLockManager(60, f"sqlite:///{path}") as manager:
        await (await manager.acquire_lease("m", "before")).release()
        backup = back_up(path)
        for number in range(200):
            assert await manager.acquire_lock("m", f"{number}", holder_id="x" * 200)
        content = backup.read_bytes()
        backup.rename(path)
    assert (path.read_bytes(), logs(path)) == (content, [])


async def test_two_names_of_one_file_are_refused_in_a_process_and_reported_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = tmp_path / "locks.db", tmp_path / "other.db"
    async with BidLockManager(60, f"sqlite:///{path}") as manager:
        await manager.locks()
    os.link(path, other)
    with caplog.at_level(logging.WARNING):
        async with (
            BidLockManager(60, f"sqlite:///{path}") as one,
            BidLockManager(60, f"sqlite:///{other}") as two,
        ):
            assert await one.acquire_lock("m", "p")
            with pytest.raises(LockBackendError, match=str(path)):
                await two.acquire_lease("m", "p", timeout=0)
    assert sum("hard link" in record.getMessage() for record in caplog.records) == 1
    diagnosis = await diagnose(f"sqlite:///{path}")
    assert any("hard link" in str(finding) for finding in diagnosis)


async def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with BidLockManager(60, f"sqlite:///{pipe}") as manager:
        with pytest.raises(LockBackendError, match="not a file"):
            await manager.acquire_lease("m", "p", timeout=0)
    assert any("not a file" in str(finding) for finding in await diagnose(f"sqlite:///{pipe}"))


async def test_one_file_is_one_queue_however_its_url_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "link.db").symlink_to("folder/locks 1.db")
    urls = [
        f"sqlite:///{tmp_path}/folder/locks 1.db",
        "sqlite:///folder/locks 1.db",
        "sqlite:///folder/../folder/./locks%201.db",
        "sqlite:///link/locks 1.db",
        "sqlite:///link.db",
        "sqlite+aiosqlite:///link.db?timeout=5",
        "sqlite:///file:link/locks%25201.db?uri=true",
        f"sqlite:///file://{tmp_path}/folder/locks 1.db?mode=rwc&uri=true",
    ]
    managers = [BidLockManager(60, url) for url in urls]  # before the file exists
    first = await managers[0].acquire_lease("m", "p")
    waiters = [
        asyncio.create_task(manager.acquire_lease("m", "p", timeout=60, holder_id=str(number)))
        for number, manager in enumerate(managers)
    ]
    for _ in range(2000):
        waiting = {waiter.holder_id for waiter in (await managers[-1].locks()).waiting}
        if len(waiting) == len(urls):
            break
        await asyncio.sleep(0.01)
    assert waiting == {str(number) for number in range(len(urls))}
    await first.release()
    for waiter in waiters:
        await (await waiter).release()
    for manager in managers:
        await manager.aclose()
    assert [file.name for file in (tmp_path / "folder").iterdir()] == ["locks 1.db"]


def test_a_file_with_odd_characters_in_its_name(tmp_path: Path) -> None:
    with BidLockManager(60, f"sqlite:///{tmp_path}/a%25%3Fb#c").with_lock_sync("m", "p"):
        pass
    gc.collect()
    found = [file.name for file in tmp_path.iterdir() if not file.name.endswith(("-wal", "-shm"))]
    assert found == ["a%?b#c"]
