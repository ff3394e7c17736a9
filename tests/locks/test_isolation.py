"""A failure of one request, or one odd row, does not affect other requests and rows."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockBackendError
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer
from testing_support.waiting import until_waiting

Execute = Callable[[str], None]

REFUSED = "refused"
KEY = "bid:lock:m:odd"


@pytest.fixture
def execute(table_url: str, postgres_server: PostgresServer) -> Execute:
    """Return a function that runs SQL on the database of `table_url`, as an administrator would."""

    def run(statement: str) -> None:
        if table_url.startswith("sqlite"):
            with closing(sqlite3.connect(path_of(table_url), timeout=10)) as connection:
                connection.executescript(statement)
        else:
            postgres_server.execute(statement)

    return run


def path_of(url: str) -> str:
    """Return the path of the file of a SQLite URL."""
    return url.removeprefix("sqlite:///")


def refuse(url: str, event: str, how: str = "ABORT") -> str:
    """Return SQL that makes the database refuse an event on every row with `REFUSED` in its key."""
    row = "new" if event == "INSERT" else "old"
    if url.startswith("sqlite"):
        return (
            f"CREATE TRIGGER refuse BEFORE {event} ON distributed_locks WHEN {row}.lock_key "
            f"LIKE '%{REFUSED}%' BEGIN SELECT RAISE({how}, 'not this one'); END"
        )
    return (
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF {row}.lock_key LIKE '%{REFUSED}%' THEN RAISE EXCEPTION 'not this one'; END IF; "
        f"RETURN {row if event == 'DELETE' else 'new'}; END $$; CREATE TRIGGER refuse "
        f"BEFORE {event} ON distributed_locks FOR EACH ROW EXECUTE FUNCTION refuse()"
    )


async def prepared(url: str, ttl: float = 60) -> BidLockManager:
    """Return a manager whose tables exist. Its requests use one connection, and share statements."""
    manager = BidLockManager(ttl, url, max_connections=2)
    await manager.locks()
    return manager


async def together(awaitables: Iterable[Awaitable[object]]) -> list[object]:
    """Await all at once; return their results and exceptions."""
    return await asyncio.gather(*awaitables, return_exceptions=True)


@pytest.mark.parametrize("how", ["ABORT", "ROLLBACK"])
async def test_a_refused_acquisition_fails_alone(table_url: str, how: str, execute: Execute) -> None:
    manager = await prepared(table_url)
    execute(refuse(table_url, "INSERT", how))
    for number in range(3):
        names = [f"p{number}-{index}" for index in range(40)]
        names[20] = f"{REFUSED}-{number}"
        requests: list[Awaitable[object]] = [manager.acquire_lock("m", name, timeout=5) for name in names]
        requests += [manager.get_metrics_async(), manager.locks()]
        *acquired, metrics, overview = await together(requests)
        assert acquired == [REFUSED not in name for name in names]
        assert isinstance(metrics, dict)
        assert not isinstance(overview, BaseException)
    with pytest.raises(LockBackendError, match="not this one"):
        await manager.acquire_lease("m", REFUSED)
    await manager.aclose()


def every_third_refused(number: int) -> list[str]:
    """Return `number` names, of which every third one is refused."""
    return [f"{REFUSED}-{index}" if index % 3 == 1 else f"p{index}" for index in range(number)]


async def test_a_refused_renewal_fails_no_other(table_url: str, execute: Execute) -> None:
    manager = await prepared(table_url, ttl=30)
    names = every_third_refused(60)
    leases = await asyncio.gather(*(manager.acquire_lease("m", name, auto_renew=False) for name in names))
    execute(refuse(table_url, "UPDATE"))
    started = time.monotonic()
    tasks = [asyncio.create_task(lease.renew()) for lease in leases]
    assert await asyncio.gather(*(task for task, name in zip(tasks, names, strict=True) if name[0] == "p"))
    # A refused renewal is repeated each 0.2 s until its lease expires; no other renewal fails.
    tries = 1 + (time.monotonic() - started) / 0.2
    assert 20 <= (await manager.get_metrics_async())["backend_errors"] <= 20 * (tries + 1)
    await together(lease.release() for lease in leases)
    await together(tasks)
    await manager.aclose()


async def test_a_refused_release_keeps_no_other_lock(table_url: str, execute: Execute) -> None:
    manager = await prepared(table_url)
    names = [f"p{index}" for index in range(20)]
    names[10] = REFUSED
    leases = await asyncio.gather(*(manager.acquire_lease("m", name) for name in names))
    execute(refuse(table_url, "DELETE"))
    released = await together(lease.release() for lease in leases)
    assert [outcome for outcome in released if not isinstance(outcome, LockBackendError)] == [True] * 19
    assert [lock.key for lock in (await manager.locks()).held] == [f"bid:lock:m:{REFUSED}"]
    await manager.aclose()


async def test_a_refused_release_by_name_keeps_no_other_lock(table_url: str, execute: Execute) -> None:
    manager = await prepared(table_url)
    names = [f"p{index}" for index in range(20)]
    names[10] = REFUSED
    for name in names:
        execute(
            "INSERT INTO distributed_locks (id, lock_key, holder_id, acquired_at, expires_at) "
            f"VALUES ('{name}', 'bid:lock:m:{name}', 'theirs', 1, 9e9)"
        )
    execute(refuse(table_url, "DELETE"))
    released = await together(manager.release_lock("m", name, "theirs") for name in names)
    assert released == [name != REFUSED for name in names]
    await manager.aclose()


async def test_a_refused_hand_over_fails_no_other(table_url: str, execute: Execute) -> None:
    manager = await prepared(table_url, ttl=30)
    names = every_third_refused(60)
    held = await asyncio.gather(*(manager.acquire_lease("m", name) for name in names))
    waiting = [asyncio.create_task(manager.acquire_lease("m", name, timeout=30)) for name in names]
    await until_waiting(manager, 60)
    execute(refuse(table_url, "UPDATE"))
    released = await together(lease.release() for lease in held)
    good = [index for index, name in enumerate(names) if REFUSED not in name]
    assert [released[index] for index in good] == [True] * 40
    for index in good:
        lease = await waiting[index]
        assert await lease.renew()
        assert await lease.release()
    for task in waiting:
        task.cancel()
    await together(waiting)
    await manager.aclose()


async def test_a_name_that_no_index_can_hold_fails_alone(postgres_url: str) -> None:
    manager = await prepared(postgres_url)
    choose = random.Random(1)
    overlong = "".join(chr(choose.randrange(0x4E00, 0x9E00)) for _ in range(1000))
    names = [f"p{index}" for index in range(40)]
    names[20] = overlong
    outcomes = await together(manager.acquire_lock("m", name, timeout=5) for name in names)
    refused = outcomes.pop(20)
    assert outcomes == [True] * 39
    assert isinstance(refused, ValueError)
    assert "posting_id" in str(refused)
    # One key has the largest length of the index; the other one is longer and can be compressed.
    assert await manager.acquire_lock("m", overlong[:890])
    assert await manager.acquire_lock("m", "ü" * 1000)
    await manager.aclose()


@pytest.mark.parametrize("holder", ["a\0b", "x" * 1001])
async def test_a_senseless_holder_is_refused_at_its_release(manager: BidLockManager, holder: str) -> None:
    assert await manager.acquire_lock("m", "p")
    outcomes = await together([manager.release_lock("m", "q", holder), manager.release_lock("m", "p")])
    assert isinstance(outcomes[0], ValueError)
    assert "holder_id" in str(outcomes[0])
    assert outcomes[1] is True


@pytest.mark.parametrize("key", ["bid:lock:m:a\0b", "bid:lock:m:" + "x" * 3000])
async def test_a_senseless_key_is_refused(manager: BidLockManager, key: str) -> None:
    with pytest.raises(ValueError, match="key must"):
        await manager.break_lock(key)


LOOSE_TABLE = (
    "CREATE TABLE distributed_locks (id VARCHAR PRIMARY KEY, lock_key VARCHAR UNIQUE, holder_id VARCHAR, "
    "acquired_at FLOAT, expires_at FLOAT, created_at {moment})"
)

#: The values of the row, in the order of the columns, and the text of the error if its expiry is
#: unreadable.
ODD_ROWS = {
    "sqlite": [
        ("'i'", "'h'", "1", "'tomorrow'", 'the text "tomorrow"'),
        ("'i'", "'h'", "1", "x'00ff'", "a blob"),
        ("'i'", "'h'", "1", "NULL", "NULL"),
        ("'i'", "'h'", "1", "9e999", None),
        ("'i'", "cast(x'ff' AS TEXT)", "'then'", "9e9", None),
        ("x'ff'", "NULL", "NULL", "9e9", None),
        ("NULL", "7", "x'00'", "9e9", None),
    ],
    "postgresql": [
        ("'i'", "'h'", "1", "'NaN'", "NaN"),
        ("'i'", "'h'", "1", "NULL", "NULL"),
        ("'i'", "'h'", "1", "'Infinity'", None),
        ("'i'", "NULL", "'NaN'", "9e9", None),
        ("'i'", "NULL", "NULL", "9e9", None),
    ],
}


@pytest.mark.parametrize(
    ("table_url", "values"),
    [(kind, values) for kind, rows in ODD_ROWS.items() for values in rows],
    indirect=["table_url"],
)
async def test_an_odd_row_concerns_its_own_key(
    table_url: str, values: tuple[str, str, str, str, str | None], execute: Execute
) -> None:
    moment = "DATETIME" if table_url.startswith("sqlite") else "TIMESTAMP"
    execute(LOOSE_TABLE.format(moment=moment))
    row_id, holder, acquired_at, expires_at, told = values
    columns = "id, lock_key, holder_id, acquired_at, expires_at"
    insert = (
        f"INSERT INTO distributed_locks ({columns}) VALUES "
        f"({row_id}, '{KEY}', {holder}, {acquired_at}, {expires_at})"
    )
    await concerns_its_own_key(await prepared(table_url), lambda: execute(insert), told)


ODD_KEYS: dict[str, tuple[list[tuple[str | int, ...]], str | None]] = {
    "no end": ([("SET", "bid_lock:m:odd", "h")], None),
    "another type": ([("LPUSH", "bid_lock:m:odd", "h")], "is not a string"),
    "a far end": ([("SET", "bid_lock:m:odd", "h", "PX", 2**60)], None),
    "a garbled note": (
        [
            ("SET", "bid_lock:m:odd", "h", "EX", 1000),
            ("SET", "arbitrageai:bid_lock:m:odd", f"i {'9' * 30} {'9' * 30} h", "EX", 1000),
        ],
        None,
    ),
    "a note of another type": (
        [
            ("SET", "bid_lock:m:odd", "h", "EX", 1000),
            ("LPUSH", "arbitrageai:bid_lock:m:odd", "i"),
        ],
        None,
    ),
}


@pytest.mark.parametrize("name", ODD_KEYS)
async def test_an_odd_key_concerns_itself(name: str, redis_url: str, redis_server: RedisServer) -> None:
    commands, told = ODD_KEYS[name]

    def insert() -> None:
        for command in commands:
            redis_server.execute(*command)

    await concerns_its_own_key(await prepared(redis_url), insert, told)


async def concerns_its_own_key(manager: BidLockManager, insert: Callable[[], None], told: str | None) -> None:
    """Assert that `KEY` counts as held while its row is odd, and that everything else works."""
    insert()
    before, odd, after = await asyncio.gather(
        *(manager.acquire_lock("m", name, timeout=0.3) for name in ("before", "odd", "after"))
    )
    assert (before, odd, after) == (True, False, True)
    with pytest.raises(TimeoutError, match=told and f"can't be read.*{told}.*break_lock"):
        async with manager.with_lock("m", "odd", timeout=0.1):
            pass
    keys = ["bid:lock:m:after", "bid:lock:m:before", KEY]
    assert [lock.key for lock in (await manager.locks()).held] == keys
    assert (await manager.get_metrics_async())["active_locks"] == 3
    waiting = asyncio.create_task(manager.acquire_lock("m", "odd", timeout=30))
    await until_waiting(manager, 1)
    assert await manager.break_lock(KEY)
    assert await waiting
    assert await manager.release_lock("m", "odd")
    insert()
    await manager.cleanup_all()
    assert (await manager.locks()).held == []
    assert await manager.acquire_lock("m", "odd", timeout=0.3)
    await manager.aclose()


async def test_a_table_that_is_just_being_made(sqlite_url: str) -> None:
    columns = (
        "id VARCHAR NOT NULL PRIMARY KEY, lock_key VARCHAR NOT NULL, holder_id VARCHAR NOT NULL, "
        "acquired_at FLOAT NOT NULL, expires_at FLOAT NOT NULL, created_at DATETIME"
    )
    table = f"CREATE TABLE distributed_locks ({columns})"
    index = "CREATE UNIQUE INDEX ix_distributed_locks_lock_key ON distributed_locks (lock_key)"
    with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None, timeout=10)) as application:
        application.execute(table)
        manager = BidLockManager(60, sqlite_url)
        with pytest.raises(LockBackendError, match="no unique index"):
            await manager.acquire_lease("m", "p", timeout=0.1)
        acquiring = asyncio.create_task(manager.acquire_lease("m", "p", timeout=30))
        await asyncio.sleep(0.1)
        application.execute(index)
        assert await (await acquiring).release()
        # The table is dropped and created again, while the manager has the file open.
        application.execute("DROP TABLE distributed_locks")
        application.execute(table)
        acquiring = asyncio.create_task(manager.acquire_lease("m", "p", timeout=30))
        await asyncio.sleep(0.1)
        application.execute(index)
        assert (await acquiring).is_held
        await manager.aclose()
