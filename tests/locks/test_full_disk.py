"""Locks in a SQLite file on a disk that is full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NO_MORE_ROOM = """
import asyncio, resource, sys
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockBackendError

def allow(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    path = sys.argv[1]
    async with BidLockManager(300, f"sqlite:///{path}") as manager:
        assert await manager.acquire_lock("m", "before")
        allow(0)
        assert not await manager.acquire_lock("m", "p", timeout=0.3)
        try:
            await manager.acquire_lock("m", "p", timeout=0.3, raise_on_error=True)
        except LockBackendError as error:
            print(error)
        allow(resource.RLIM_INFINITY)
        assert [lock.key for lock in (await manager.locks()).held] == ["bid:lock:m:before"]
        assert await manager.acquire_lock("m", "p", timeout=10)
        assert await manager.release_lock("m", "before")
        assert [lock.key for lock in (await manager.locks()).held] == ["bid:lock:m:p"]

asyncio.run(main())
"""

FULL_DISK = """
import asyncio, pathlib, sys
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockBackendError

async def main():
    folder = pathlib.Path(sys.argv[1])
    async with BidLockManager(300, f"sqlite:///{folder}/locks.db") as manager:
        lease = await manager.acquire_lease("m", "before")
        with (folder / "filling").open("wb", buffering=0) as filling:
            try:
                while True:
                    filling.write(bytes(512))
            except OSError:
                pass
        refused = 0
        for number in range(100):
            try:
                await manager.acquire_lock("m", str(number), timeout=0, raise_on_error=True)
            except LockBackendError as error:
                refused += 1
                message = str(error)
        held = len((await manager.locks()).held)
        assert held == 101 - refused, (held, refused)
        print(message)
        (folder / "filling").unlink()
        assert await manager.acquire_lock("m", "99", timeout=10)
        assert await lease.release()

asyncio.run(main())
"""


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "locks.db"
    command = [sys.executable, "-c", NO_MORE_ROOM, str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert finished.returncode == 0, finished.stderr
    assert str(path) in finished.stdout


def test_a_full_disk(tmp_path: Path) -> None:
    # A file system of its own, which goes with the process.
    mount = f'mount -t tmpfs -o size=256k tmpfs {tmp_path} && exec "$@"'
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
    if os.geteuid() == 0:
        command.remove("--map-root-user")
    finished = subprocess.run(
        [*command, sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "mount" in finished.stderr or "unshare" in finished.stderr:
        pytest.fail(f"no file system of one's own: {finished.stderr}")
    assert finished.returncode == 0, finished.stderr
    assert "full" in finished.stdout
