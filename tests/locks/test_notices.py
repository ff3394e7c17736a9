"""What native code gives up on is counted, and logged in one line; one more says that it works again."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from arbitrageai_native import metrics
from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockBackendError
from testing_support.servers.postgres import PostgresServer, free_port
from testing_support.servers.redis import RedisServer
from testing_support.servers.tcp_proxy import TcpProxy
from testing_support.waiting import until

LOGGER = "arbitrageai_native.locks"
#: All that a lock needs, but no channel.
NO_CHANNELS = (
    "on ~* resetchannels +evalsha +script|load +time +get +set +pttl +pexpire +del +hget +hset "
    "+publish +subscribe +unsubscribe +scan +ping"
)

REFUSE = (
    "CREATE TRIGGER refuse BEFORE DELETE ON distributed_locks BEGIN SELECT RAISE(ABORT, 'not\nthis'); END"
)


class Lines:
    """What was logged and counted since the test began."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, LOGGER)
        self._caplog = caplog
        self._before = metrics()["locks"]

    def counted(self, counter: str) -> int:
        """By how much a counter has grown."""
        return int(metrics()["locks"][counter] - self._before[counter])

    def of(self, level: int) -> list[str]:
        """The lines of the logger at this level."""
        records = [record for record in self._caplog.records if record.name == LOGGER]
        return [record.getMessage() for record in records if record.levelno == level]


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


@asynccontextmanager
async def waiting(holder_url: str, waiter: BidLockManager) -> AsyncIterator[None]:
    """A caller waits for a lock that another engine holds; it gets the lock in the end."""
    async with BidLockManager(300, holder_url) as holder, waiter:
        assert await holder.acquire_lock("m", "p")
        wait = asyncio.create_task(waiter.acquire_lock("m", "p", timeout=60))
        yield
        assert await holder.release_lock("m", "p")
        assert await wait


async def test_a_connection_that_cannot_listen(
    postgres_url: str, postgres_server: PostgresServer, lines: Lines
) -> None:
    async with TcpProxy(postgres_server.port) as proxy:
        proxy.refuse()
        listen_url = f"postgresql://postgres:secret-word@127.0.0.1:{proxy.port}/postgres"
        url = f"{postgres_url}&application_name=waiter"
        async with waiting(postgres_url, BidLockManager(300, url, listen_url=listen_url)):
            await until(lambda: lines.counted("listener_failures") >= 3)
            for line in lines.of(logging.WARNING):
                assert line.startswith("PostgreSQL database ")
                assert ": cannot listen for released locks, so that a waiter finds a released lock" in line
            assert lines.of(logging.INFO) == []
            proxy.accept()
            await until(lambda: lines.counted("attempts") >= 0 and lines.of(logging.INFO) != [])
            assert [line.partition(": ")[2] for line in lines.of(logging.INFO)] == [
                "listens for released locks again"
            ]
        # A connection that is reset shows in a few ways; each is logged once.
        warnings = lines.of(logging.WARNING)
        assert 1 <= len(warnings) == len(set(warnings)) <= 3


async def test_every_database_has_a_line_of_its_own(postgres_url: str, lines: Lines) -> None:
    nowhere = f"postgresql://127.0.0.1:{free_port()}/x"
    for _ in range(2):
        counted = lines.counted("listener_failures")
        url = f"{postgres_url}&application_name=waiter&connect_timeout=1"
        async with waiting(postgres_url, BidLockManager(300, url, listen_url=nowhere)):
            await until(lambda counted=counted: lines.counted("listener_failures") >= counted + 2)  # type: ignore[misc]
    assert len(lines.of(logging.WARNING)) == 1, "another engine of the same database repeats nothing"


async def test_a_redis_user_who_may_not_subscribe(own_redis_server: RedisServer, lines: Lines) -> None:
    own_redis_server.execute("ACL", "SETUSER", "locker", *NO_CHANNELS.split(), ">secret-word")
    waiter = BidLockManager(300, own_redis_server.url(user="locker:secret-word"))
    async with waiting(own_redis_server.url(), waiter):
        await until(lambda: lines.counted("listener_failures") >= 3)
        (line,) = lines.of(logging.WARNING)
        assert ": cannot listen for released locks" in line
        assert "No permissions to access a channel" in line
        assert "secret-word" not in line
        own_redis_server.execute("ACL", "SETUSER", "locker", "allchannels")
        await until(lambda: lines.counted("attempts") >= 0 and lines.of(logging.INFO) != [])
    assert (len(lines.of(logging.WARNING)), len(lines.of(logging.INFO))) == (1, 1)


async def test_a_row_that_cannot_be_deleted(tmp_path: Path, lines: Lines) -> None:
    path = tmp_path / "locks.db"
    async with BidLockManager(300, f"sqlite:///{path}") as manager:
        leases = [await manager.acquire_lease("m", posting) for posting in ("a\nb", "c", "d")]
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(REFUSE)
            for lease in leases[:2]:
                with pytest.raises(LockBackendError):
                    await lease.release()
            await until(lambda: lines.counted("rows_left") == 2)
            (line,) = lines.of(logging.WARNING)
            assert line.startswith(f"SQLite database {path}: could not delete the lock ")
            assert line.endswith(r"not\nthis")
            assert r"a\nb, which nobody holds any more; it stays until it expires" in line
            connection.execute("DROP TRIGGER refuse")
        with pytest.warns(ResourceWarning):
            del leases, lease
        await until(lambda: lines.counted("attempts") >= 0 and lines.of(logging.INFO) != [])
        assert lines.of(logging.INFO) == [f"SQLite database {path}: deletes locks again"]
        assert len(lines.of(logging.WARNING)) == 1


async def test_a_release_that_succeeds_ends_the_trouble_and_the_next_trouble_is_a_new_one(
    tmp_path: Path, lines: Lines
) -> None:
    path = tmp_path / "locks.db"
    async with BidLockManager(300, f"sqlite:///{path}") as manager:
        with closing(sqlite3.connect(path)) as connection:
            for troubles in (1, 2):
                lease = await manager.acquire_lease("m", str(troubles))
                connection.execute(REFUSE)
                with pytest.raises(LockBackendError):
                    await lease.release()
                await until(lambda number=troubles: lines.counted("rows_left") == number)  # type: ignore[misc]
                await until(lambda number=troubles: len(lines.of(logging.WARNING)) == number)  # type: ignore[misc]
                connection.execute("DROP TRIGGER refuse")
                async with manager.with_lock("m", "another"):
                    pass
                await until(
                    lambda number=troubles: (
                        lines.counted("attempts") >= 0 and len(lines.of(logging.INFO)) == number  # type: ignore[misc]
                    )
                )


async def test_causes_that_name_the_lock_are_a_few_lines_and_show_no_password(
    postgres_url: str, postgres_server: PostgresServer, lines: Lines
) -> None:
    async with BidLockManager(300, postgres_url) as manager:
        leases = [await manager.acquire_lease("m", str(number)) for number in range(10)]
        postgres_server.execute(
            "CREATE FUNCTION refuse_deletion() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'postgresql://a:secret-word@host/x forbids %', old.lock_key; END $$; "
            "CREATE TRIGGER refuse BEFORE DELETE ON distributed_locks "
            "FOR EACH ROW EXECUTE FUNCTION refuse_deletion()"
        )
        try:
            for lease in leases:
                with pytest.raises(LockBackendError):
                    await lease.release()
            await until(lambda: lines.counted("rows_left") == 10, within=100)
        finally:
            postgres_server.execute("DROP TRIGGER refuse ON distributed_locks; DROP FUNCTION refuse_deletion")
    assert len(lines.of(logging.WARNING)) == 3
    assert "secret-word" not in "".join(lines.of(logging.WARNING))


def test_a_blocking_call_logs_it_too(tmp_path: Path, lines: Lines) -> None:
    path = tmp_path / "locks.db"
    manager = BidLockManager(300, f"sqlite:///{path}")
    lease = asyncio.run(manager.acquire_lease("m", "p"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(REFUSE)
        with pytest.warns(ResourceWarning):
            del lease
        deadline = time.monotonic() + 30
        while not lines.of(logging.WARNING):
            assert time.monotonic() < deadline
            assert manager.get_metrics()["active_locks"] == 1
            time.sleep(0.02)
        connection.execute("DROP TRIGGER refuse")
    manager.close()


async def test_a_handler_that_raises_fails_no_call(
    tmp_path: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda failure: ignored.append(str(failure.exc_value)))

    def refuse(_record: logging.LogRecord) -> bool:
        raise ValueError("no such record")

    path = tmp_path / "locks.db"
    async with BidLockManager(300, f"sqlite:///{path}") as manager:
        lease = await manager.acquire_lease("m", "p")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(REFUSE)
            logger = logging.getLogger(LOGGER)
            logger.addFilter(refuse)
            try:
                with pytest.raises(LockBackendError):
                    await lease.release()
                await until(lambda: lines.counted("rows_left") == 1)
                assert await manager.acquire_lock("m", "q")
            finally:
                logger.removeFilter(refuse)
            connection.execute("DROP TRIGGER refuse")
    assert ignored == ["no such record"]
