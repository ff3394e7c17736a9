"""The locks are in the database and schema of a session, whatever sets these for its connections."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import MetaData, String, create_engine, event, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.pool import StaticPool

from arbitrageai_native import BidLockManager
from arbitrageai_native.exceptions import LockBackendError
from testing_support.servers.postgres import PostgresServer
from tests.drop_in.support import rows

_numbers = itertools.count()

TABLE = (
    "CREATE TABLE {schema}.distributed_locks (id VARCHAR PRIMARY KEY, lock_key VARCHAR NOT NULL UNIQUE, "
    "holder_id VARCHAR NOT NULL, acquired_at FLOAT NOT NULL, expires_at FLOAT NOT NULL, created_at TIMESTAMP)"
)
OLD_ROW = (
    "INSERT INTO {schema}.distributed_locks VALUES ('an-old-one', 'bid:lock:upwork:p1', 'old', "
    "extract(epoch FROM now()), extract(epoch FROM now()) + 600, now())"
)


class Database:
    """A database with the schema `app`, in which an old process may hold a lock."""

    def __init__(self, server: PostgresServer) -> None:
        self.name = "engines"
        self.server = server
        if server.execute("SELECT count(*) FROM pg_database WHERE datname = 'engines'") == "0":
            server.create_database(self.name)
        query = {"application_name": f"engines-{next(_numbers)}"}
        self.url = make_url(server.url(self.name)).set(drivername="postgresql+psycopg2", query=query)
        drop = self.execute(
            "SELECT string_agg(format('DROP SCHEMA %I CASCADE', nspname), '; ') FROM pg_namespace "
            "WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        )
        self.execute(f"{drop}; CREATE SCHEMA public; CREATE SCHEMA app; ALTER DATABASE engines RESET ALL")

    def execute(self, statement: str) -> str:
        return self.server.execute(statement, self.name)

    def make_table(self, schema: str = "app") -> None:
        self.execute(TABLE.format(schema=schema))
        self.execute(OLD_ROW.format(schema=schema))

    def tables(self) -> str:
        return self.execute(
            "SELECT string_agg(schemaname, ' ') FROM pg_tables WHERE tablename = 'distributed_locks'"
        )


@pytest.fixture
def database(postgres_server: PostgresServer) -> Database:
    return Database(postgres_server)


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    """Return a list of engines, which are disposed after the test."""
    made: list[Engine] = []
    yield made
    for engine in made:
        engine.dispose()


def sets_the_path(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def set_path(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET search_path TO app")
        connection.commit()


def by_connect_args(database: Database) -> Engine:
    return create_engine(database.url, connect_args={"options": "-c search_path=app"})


def by_url(database: Database) -> Engine:
    return create_engine(database.url.update_query_dict({"options": "-c search_path=app"}))


def by_listener(database: Database) -> Engine:
    engine = create_engine(database.url)
    sets_the_path(engine)
    return engine


def by_connection_parameters(database: Database) -> Engine:
    engine = create_engine(database.url)

    @event.listens_for(engine, "do_connect")
    def add(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        parameters["options"] = "-c search_path=app,public"

    return engine


def by_translation(database: Database) -> Engine:
    return create_engine(database.url).execution_options(schema_translate_map={None: "app"})


def by_the_role(database: Database) -> Engine:
    database.execute(f"ALTER DATABASE {database.name} SET search_path = app")
    return create_engine(database.url)


def by_creator(database: Database) -> Engine:
    import psycopg2

    url = database.url
    return create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(
            host=url.host, port=url.port, user="postgres", dbname=url.database, options="-c search_path=app"
        ),
    )


def on(sessions: Callable[[], Any]) -> BidLockManager:
    """Return a manager whose sessions determine its database."""
    manager = BidLockManager(60)
    manager._get_db = sessions  # type: ignore[method-assign]
    return manager


@pytest.mark.parametrize("has_a_table", [True, False])
@pytest.mark.parametrize(
    "make", [by_connect_args, by_url, by_listener, by_connection_parameters, by_translation, by_the_role]
)
async def test_a_schema_that_the_engine_sets_is_where_the_locks_are(
    database: Database, engines: list[Engine], make: Callable[[Database], Engine], has_a_table: bool
) -> None:
    engines.append(make(database))
    if has_a_table:
        database.make_table()
    async with on(sessionmaker(engines[0])) as manager:
        patience = 0 if has_a_table else 10
        assert await manager.acquire_lock("upwork", "p1", timeout=patience) is not has_a_table
        assert await manager.acquire_lock("upwork", "p2", timeout=10) is True
        assert database.tables() == "app"
        count = database.execute("SELECT count(*) FROM app.distributed_locks WHERE lock_key LIKE '%p2'")
        assert count == "1"
        await manager.cleanup_all()
        assert database.execute("SELECT count(*) FROM app.distributed_locks") == "0"


@pytest.mark.parametrize("translated", [True, False])
async def test_the_schema_of_the_applications_model(
    database: Database, engines: list[Engine], monkeypatch: pytest.MonkeyPatch, translated: bool
) -> None:
    from sqlalchemy.orm import mapped_column

    class Base(DeclarativeBase):
        metadata = MetaData(schema="locks" if translated else "app")

    class DistributedLock(Base):
        __tablename__ = "distributed_locks"
        lock_key = mapped_column(String, primary_key=True)

    models = ModuleType("src.api.models")
    models.DistributedLock = DistributedLock  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "src.api.models", models)
    database.make_table()
    database.execute(TABLE.format(schema="public"))
    engines.append(create_engine(database.url))
    bind = engines[0]
    if translated:
        bind = bind.execution_options(schema_translate_map={"locks": "app"})
    async with on(sessionmaker(bind)) as manager:
        assert await manager.acquire_lock("upwork", "p1", timeout=0) is False
        assert await manager.acquire_lock("upwork", "p2", timeout=10) is True
        assert database.execute("SELECT count(*) FROM public.distributed_locks") == "0"


@pytest.mark.parametrize("by", ["_get_db", "SessionLocal"])
@pytest.mark.parametrize(
    "how", ["statement", "listener", "translation", "connection", "committed connection"]
)
async def test_a_schema_that_the_session_sets(
    database: Database, engines: list[Engine], monkeypatch: pytest.MonkeyPatch, how: str, by: str
) -> None:
    database.make_table()
    engines.append(create_engine(database.url))
    connection = engines[0].connect() if "connection" in how else None
    if connection is not None:
        connection.exec_driver_sql("SET search_path TO app")
        if how == "committed connection":
            connection.commit()

    class Begun(Session):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            if how == "statement":
                self.connection().exec_driver_sql("SET LOCAL search_path TO app")
            if how == "translation":
                self.connection(execution_options={"schema_translate_map": {None: "app"}})

    sessions = sessionmaker(engines[0] if connection is None else connection, class_=Begun)
    if how == "listener":

        @event.listens_for(sessions, "after_begin")
        def set_path(_session: Any, _transaction: Any, connection: Any) -> None:
            connection.exec_driver_sql("SET LOCAL search_path TO app")

    if by == "SessionLocal":
        application = ModuleType("src.api.database")
        application.SessionLocal = sessions  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "src.api.database", application)

    async with on(sessions) if by == "_get_db" else BidLockManager(60) as manager:
        assert await manager.acquire_lock("upwork", "p1", timeout=0) is False
        assert await manager.acquire_lock("upwork", "p2", timeout=10) is True
        assert database.tables() == "app"
    if connection is not None:
        connection.close()
    assert engines[0].pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_table_in_another_schema_is_not_passed_over(
    database: Database, engines: list[Engine]
) -> None:
    database.make_table()
    engines.append(create_engine(database.url))
    async with on(sessionmaker(engines[0])) as manager:
        for operation in (
            lambda: manager.acquire_lock("upwork", "p1", timeout=0),
            lambda: manager.release_lock("upwork", "p1"),
            manager.cleanup_all,
            manager.locks,
        ):
            with pytest.raises(ValueError, match=r"schema public, but the table exists in: app"):
                await operation()
        with pytest.raises(ValueError, match=r"public.*app"):
            manager.get_metrics()
        with pytest.raises(ValueError, match=r"public.*app"), manager.with_lock_sync("upwork", "p1"):
            pass
    assert database.tables() == "app"


async def test_a_creator_that_leads_elsewhere_is_told(database: Database, engines: list[Engine]) -> None:
    database.make_table()
    engines.append(by_creator(database))
    manager = on(sessionmaker(engines[0]))
    with pytest.raises(
        ValueError, match=rf"'{database.name}' at 127\.0\.0\.1:{database.url.port}.*database_url"
    ):
        await manager.acquire_lock("upwork", "p1", timeout=0)


async def test_an_odd_schema_and_odd_names(postgres_server: PostgresServer, engines: list[Engine]) -> None:
    database = Database(postgres_server)
    odd = r'a "b", \c'
    quoted = '"' + odd.replace('"', '""') + '"'
    database.execute(f"CREATE SCHEMA {quoted}")
    database.make_table(quoted)
    engines.append(create_engine(database.url).execution_options(schema_translate_map={None: odd}))
    async with on(sessionmaker(engines[0])) as manager:
        assert await manager.acquire_lock("upwork", "p1", timeout=0) is False
        assert await manager.acquire_lock("upwork", "p2", timeout=10) is True


async def test_the_loop_goes_on_while_an_engine_is_asked(tmp_path: Path, engines: list[Engine]) -> None:
    engines.append(create_engine(f"sqlite:///{tmp_path}/slow.db"))
    may_connect = threading.Event()
    event.listen(engines[0], "connect", lambda *_: may_connect.wait(20))
    managers = [on(sessionmaker(engines[0])) for _ in range(20)]
    waiting = [asyncio.create_task(manager.acquire_lock("upwork", "p1", timeout=20)) for manager in managers]
    for _ in range(20):  # the sleeps end on time, although the connection is not made yet
        await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    may_connect.set()
    done, _ = await asyncio.wait(waiting[1:], return_when=asyncio.FIRST_COMPLETED)
    assert done.pop().result() is True
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert engines[0].pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_an_engine_that_does_not_answer_ends_in_time(
    tmp_path: Path, engines: list[Engine], caplog: pytest.LogCaptureFixture
) -> None:
    engines.append(create_engine(f"sqlite:///{tmp_path}/dead.db"))
    may_connect = threading.Event()
    event.listen(engines[0], "connect", lambda *_: may_connect.wait(60))
    manager = on(sessionmaker(engines[0]))
    assert await manager.acquire_lock("upwork", "p1", timeout=0) is False
    assert "did not report its database in time" in caplog.text
    with pytest.raises(LockBackendError, match="did not report its database in time"):
        await manager.acquire_lease("upwork", "p1", timeout=0)
    assert await asyncio.to_thread(manager.get_metrics)
    may_connect.set()
    assert await manager.acquire_lock("upwork", "p1", timeout=20) is True


async def test_an_engine_that_fails_is_asked_again(
    tmp_path: Path, engines: list[Engine], caplog: pytest.LogCaptureFixture
) -> None:
    engines.append(create_engine(f"sqlite:///{tmp_path}/late.db"))
    is_there = threading.Event()

    def fail(*_: Any) -> None:
        if not is_there.is_set():
            raise sqlite3.OperationalError("postgresql://me:hunter2@host is away")

    event.listen(engines[0], "do_connect", fail)
    manager = on(sessionmaker(engines[0]))
    assert await manager.acquire_lock("upwork", "p1", timeout=0) is False
    assert "is away" in caplog.text
    assert "hunter2" not in caplog.text
    asyncio.get_running_loop().call_later(0.1, is_there.set)
    assert await manager.acquire_lock("upwork", "p1", timeout=20) is True


# SQLite


async def acquired_in(engine: Engine, file: Path) -> bool:
    manager = on(sessionmaker(engine))
    assert await manager.acquire_lock("upwork", "p1", timeout=10) is True
    return [row["lock_key"] for row in rows(file)] == ["bid:lock:upwork:p1"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///wrong.db"])
async def test_a_creator_of_sqlite(
    url: str, tmp_path: Path, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "right.db"
    engines.append(create_engine(url, creator=lambda: sqlite3.connect(file, check_same_thread=False)))
    assert await acquired_in(engines[0], file)
    assert not Path("wrong.db").exists()  # noqa: ASYNC240


async def test_connect_args_that_make_a_name_a_uri(
    tmp_path: Path, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    engines.append(create_engine("sqlite:///file:by%20uri.db?mode=rwc&uri=true"))
    assert await acquired_in(engines[0], tmp_path / "by uri.db")


@pytest.mark.parametrize("name", ["a%20b.db", "düsseldorf.db", "a b+c.db", "a#b.db", "me@corp:x.db"])
async def test_odd_names_of_files(name: str, tmp_path: Path, engines: list[Engine]) -> None:
    from sqlalchemy.engine import URL

    engines.append(create_engine(URL.create("sqlite", database=str(tmp_path / name))))
    assert await acquired_in(engines[0], tmp_path / name)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///main.db"])
async def test_a_table_in_an_attached_file(
    url: str, tmp_path: Path, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attached = tmp_path / "attached.db"
    engines.append(create_engine(f"sqlite:///{attached}"))
    with engines[0].begin() as connection:
        connection.exec_driver_sql(TABLE.format(schema="main"))
    engines.append(create_engine(url, **({"poolclass": StaticPool} if url == "sqlite://" else {})))
    event.listen(
        engines[1], "connect", lambda connection, _: connection.execute(f"ATTACH '{attached}' AS locks")
    )
    assert await acquired_in(engines[1], attached)
    elsewhere = engines[1].execution_options(schema_translate_map={None: "nowhere"})
    with pytest.raises(ValueError, match=r"'nowhere'.*attached"):
        await on(sessionmaker(elsewhere)).acquire_lock("upwork", "p2")


async def test_an_engine_in_memory_with_options_is_the_same(engines: list[Engine]) -> None:
    engines.append(create_engine("sqlite://", poolclass=StaticPool))
    one = on(sessionmaker(engines[0]))
    two = on(sessionmaker(engines[0].execution_options(logging_token="two")))
    assert await one.acquire_lock("upwork", "p1", timeout=10) is True
    assert await two.acquire_lock("upwork", "p1", timeout=0) is False


async def test_an_asynchronous_engine_is_taken_for_its_synchronous_one(
    tmp_path: Path, engines: list[Engine]
) -> None:
    engines.append(
        create_engine("sqlite:///wrong.db", creator=lambda: sqlite3.connect(tmp_path / "async.db"))
    )
    session = SimpleNamespace(get_bind=lambda: SimpleNamespace(sync_engine=engines[0]), close=lambda: None)
    assert await on(lambda: session).acquire_lock("upwork", "p1", timeout=10) is True
    assert len(rows(tmp_path / "async.db")) == 1


async def test_a_real_asynchronous_engine(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/really.db")
    manager = on(async_sessionmaker(engine))
    assert await manager.acquire_lock("upwork", "p1", timeout=10) is True
    assert len(rows(tmp_path / "really.db")) == 1
    await engine.dispose()


async def test_the_session_is_asked_once(tmp_path: Path, engines: list[Engine]) -> None:
    engines.append(create_engine(f"sqlite:///{tmp_path}/once.db"))
    asked = []
    event.listen(engines[0], "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    manager = on(sessionmaker(engines[0]))
    for number in range(5):
        await manager.acquire_lock("upwork", f"p{number}")
        manager.get_metrics()
    assert len([statement for statement in asked if "database_list" in statement]) == 1


def test_a_thread_asks_too(tmp_path: Path, engines: list[Engine]) -> None:
    file = tmp_path / "right.db"
    engines.append(create_engine("sqlite:///wrong.db", creator=lambda: sqlite3.connect(file)))
    with on(sessionmaker(engines[0])).with_lock_sync("upwork", "p1") as lease:
        assert lease.is_held
        assert len(rows(file)) == 1
