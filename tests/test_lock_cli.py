"""The command `locks`."""

from __future__ import annotations

import asyncio

import pytest

from arbitrageai_native._command_line import main
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

from .servers.redis import RedisServer


def run(*words: str) -> int:
    """Runs the command, as the package's own command line does."""
    return main(["locks", *words])


@pytest.fixture
def url(table_url: str) -> str:
    """A database with two locks, one expired."""

    async def fill() -> None:
        await BidLockManager(300, table_url).acquire_lock("upwork", "one", holder_id="[bold]scanner")
        await BidLockManager(0.001, table_url).acquire_lock("upwork", "old")
        await asyncio.sleep(0.02)

    asyncio.run(fill())
    return table_url


def held(url: str) -> list[str]:
    """The keys in the table."""
    return [lock.key for lock in asyncio.run(BidLockManager(300, url).locks()).held]


def test_list(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--database-url", url) == 0
    output = capsys.readouterr().out
    for word in ["bid:lock:upwork:one", "[bold]scanner", "expired", "2 locks"]:
        assert word in output


def test_release(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--database-url", url, "release", "upwork:one") == 0
    assert held(url) == ["bid:lock:upwork:old"]
    assert run("--database-url", url, "release", "upwork:one") == 1
    assert "nobody holds upwork:one" in capsys.readouterr().err


def test_cleanup(url: str) -> None:
    assert run("--database-url", url, "cleanup", "--expired") == 0
    assert held(url) == ["bid:lock:upwork:one"]
    assert run("--database-url", url, "cleanup") == 0
    assert held(url) == []


def test_a_database_that_cannot_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--database-url", "sqlite:////no/such/folder/locks.db") == 2
    assert run("--database-url", "mysql://host/db") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "/no/such/folder does not exist" in errors[0]


def test_redis(redis_url: str, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(BidLockManager(300, redis_url).acquire_lock("upwork", "one", holder_id="scanner"))
    redis_server.execute("SET", "bid_lock:upwork:old", "an old process", "PX", 60_000)
    redis_server.execute("SET", "upwork:one", "the application's own")
    assert run("--database-url", redis_url) == 0
    output = capsys.readouterr().out
    for word in ["bid:lock:upwork:one", "scanner", "bid:lock:upwork:old", "an old process", "2 locks"]:
        assert word in output
    assert run("--database-url", redis_url, "release", "upwork:one") == 0
    assert held(redis_url) == ["bid:lock:upwork:old"]
    assert run("--database-url", redis_url, "release", "upwork:one") == 1
    assert run("--database-url", redis_url, "cleanup", "--expired") == 0
    assert held(redis_url) == ["bid:lock:upwork:old"]
    assert run("--database-url", redis_url, "cleanup") == 0
    assert held(redis_url) == []
    assert redis_server.execute("GET", "upwork:one") == "the application's own"
