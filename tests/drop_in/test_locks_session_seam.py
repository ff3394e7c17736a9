"""`agent_execution.bid_lock_manager`: sessions given through `_get_db`, sentence by sentence."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
from sqlalchemy import create_engine, make_url, select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import StaticPool

from testing_support.reference.src.database import Base, DistributedLock
from tests.drop_in.support import rows


@pytest.fixture
def other_file(tmp_path: Path) -> Path:
    """A database that the environment does not name."""
    return tmp_path / "other.db"


@pytest.fixture
def file_engine(other_file: Path) -> Iterator[Engine]:
    """An engine as tests of old code make it, on a file."""
    engine = create_engine(f"sqlite:///{other_file}", connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


def in_memory() -> Engine:
    """An engine as tests of old code make it, in memory."""
    engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)
    Base.metadata.create_all(engine)
    return engine


@pytest.fixture
def memory_engines() -> Iterator[list[Engine]]:
    """Two engines in memory."""
    engines = [in_memory(), in_memory()]
    yield engines
    for engine in engines:
        engine.dispose()


def exists(file: Path) -> bool:
    return file.exists()


async def test_get_db_replaced_by_assignment(
    locks: Any, file_engine: Engine, lock_file: Path, other_file: Path
) -> None:
    manager = locks.BidLockManager()
    manager._get_db = sessionmaker(bind=file_engine)
    assert await manager.acquire_lock("upwork", "p1", holder_id="me") is True
    assert [row["holder_id"] for row in rows(other_file)] == ["me"]
    assert not exists(lock_file)


async def test_get_db_replaced_by_monkeypatch(
    locks: Any, file_engine: Engine, monkeypatch: pytest.MonkeyPatch, other_file: Path
) -> None:
    manager = locks.BidLockManager()
    monkeypatch.setattr(manager, "_get_db", lambda: Session(file_engine))
    assert await manager.acquire_lock("upwork", "p1") is True
    assert len(rows(other_file)) == 1


async def test_get_db_overridden_in_a_subclass(locks: Any, file_engine: Engine, other_file: Path) -> None:
    class Ours(locks.BidLockManager):  # type: ignore[name-defined,misc]
        def _get_db(self) -> Session:
            return Session(file_engine)

    assert await Ours(ttl=60).acquire_lock("upwork", "p1") is True
    assert len(rows(other_file)) == 1


def replace_by_patch(locks: Any, session: Any, _: pytest.MonkeyPatch) -> Any:
    return patch.object(locks.BidLockManager, "_get_db", lambda self: session())


def replace_by_monkeypatch(locks: Any, session: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(locks.BidLockManager, "_get_db", lambda self: session())
    return nullcontext()


def replace_by_autospec(locks: Any, session: Any, _: pytest.MonkeyPatch) -> Any:
    return patch.object(
        locks.BidLockManager, "_get_db", autospec=True, side_effect=lambda *_arguments: session()
    )


def replace_by_static_method(locks: Any, session: Any, _: pytest.MonkeyPatch) -> Any:
    return patch.object(locks.BidLockManager, "_get_db", staticmethod(lambda: session()))


def replace_by_class_method(locks: Any, session: Any, _: pytest.MonkeyPatch) -> Any:
    return patch.object(locks.BidLockManager, "_get_db", classmethod(lambda _cls: session()))


def replace_by_mock(locks: Any, session: Any, _: pytest.MonkeyPatch) -> Any:
    return patch.object(locks.BidLockManager, "_get_db", side_effect=session)


def replace_the_sessions(locks: Any, session: Any, _: pytest.MonkeyPatch) -> Any:
    return patch.object(locks, "SessionLocal", session)


def replace_the_sessions_by_a_mock(locks: Any, session: Any, _: pytest.MonkeyPatch) -> Any:
    return patch(f"{locks.__name__}.SessionLocal", side_effect=session)


@pytest.mark.parametrize(
    "replace",
    [
        replace_by_patch,
        replace_by_monkeypatch,
        replace_by_autospec,
        replace_by_static_method,
        replace_by_class_method,
        replace_by_mock,
        replace_the_sessions,
        replace_the_sessions_by_a_mock,
    ],
)
async def test_what_replaces_it_on_the_class_keeps_a_test_off_the_real_database(
    locks: Any,
    file_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    lock_file: Path,
    other_file: Path,
    replace: Any,
) -> None:
    manager = locks.BidLockManager()
    await manager.acquire_lock("upwork", "real")
    with replace(locks, sessionmaker(bind=file_engine), monkeypatch):
        for tested in (manager, locks.BidLockManager()):
            assert await tested.acquire_lock("upwork", "p1", holder_id="me") is True
            assert [row["holder_id"] for row in rows(other_file)] == ["me"]
            assert tested.get_metrics()["active_locks"] == 1
            await tested.cleanup_all()
            assert rows(other_file) == []
    assert [row["lock_key"] for row in rows(lock_file)] == ["bid:lock:upwork:real"]


async def test_a_function_without_arguments_replaces_it_on_the_class(
    file_engine: Engine, other_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

    # `_get_db` is a static method in some versions of the original.
    monkeypatch.setattr(BidLockManager, "_get_db", lambda: Session(file_engine))
    assert await BidLockManager().acquire_lock("upwork", "p1") is True
    session = Session(file_engine)
    monkeypatch.setattr(BidLockManager, "_get_db", lambda session=session: session)
    assert await BidLockManager().acquire_lock("upwork", "p1", timeout=0) is False
    assert len(rows(other_file)) == 1


async def test_a_mock_of_a_session(file_engine: Engine, other_file: Path) -> None:
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

    session = MagicMock()
    with patch.object(BidLockManager, "_get_db", autospec=True, return_value=session):
        with pytest.raises(ValueError, match="SQLite and PostgreSQL are supported"):
            await BidLockManager().acquire_lock("upwork", "p1")
        session.get_bind.return_value = MagicMock(url=make_url("mysql+pymysql://host/x"))
        with pytest.raises(ValueError, match="SQLite and PostgreSQL are supported"):
            await BidLockManager().acquire_lock("upwork", "p1")
        session.get_bind.return_value = file_engine
        assert await BidLockManager().acquire_lock("upwork", "p1") is True
    assert len(rows(other_file)) == 1
    assert session.close.call_count == 3


async def test_redis_has_no_sessions(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
    from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager

    monkeypatch.setattr(BidLockManager, "_get_db", MagicMock(side_effect=AssertionError))
    manager = RedisBidLockManager(redis_url)
    assert await manager.acquire_lock("upwork", "p1") is True
    await manager.close()


async def test_every_operation_works_on_the_sessions_database(locks: Any, file_engine: Engine) -> None:
    manager = locks.BidLockManager()
    manager._get_db = sessionmaker(bind=file_engine)
    async with manager.with_lock("upwork", "p1"):
        assert manager.get_metrics()["active_locks"] == 1
        assert await manager.acquire_lock("upwork", "p1", timeout=0) is False
    assert await manager.release_lock("upwork", "p1") is False
    await manager.acquire_lock("upwork", "p1")
    await manager.cleanup_all()
    assert manager.get_metrics() == {
        "lock_attempts": 3,
        "lock_successes": 2,
        "lock_conflicts": 1,
        "lock_timeouts": 1,
        "active_locks": 0,
    }


async def test_rows_of_a_file_are_visible_both_ways(locks: Any, file_engine: Engine) -> None:
    manager = locks.BidLockManager()
    manager._get_db = sessionmaker(bind=file_engine)
    await manager.acquire_lock("upwork", "p1", holder_id="me")
    with Session(file_engine) as session:
        (lock,) = session.scalars(select(DistributedLock))
        assert lock.holder_id == "me"
        lock.expires_at = 1.0
        session.commit()
    assert await manager.acquire_lock("upwork", "p1", timeout=0, holder_id="other") is True


async def test_get_db_is_asked_at_each_operation(locks: Any, file_engine: Engine) -> None:
    manager = locks.BidLockManager()
    manager._get_db = MagicMock(side_effect=sessionmaker(bind=file_engine))
    for number, operation in enumerate(
        (
            lambda: manager.acquire_lock("upwork", "p1"),
            lambda: manager.release_lock("upwork", "p1"),
            manager.cleanup_all,
        ),
        start=1,
    ):
        await operation()
        assert manager._get_db.call_count == number
    manager.get_metrics()
    assert manager._get_db.call_count == 4


async def test_a_session_is_closed_again(locks: Any, file_engine: Engine) -> None:
    closed = []

    class Watched(Session):
        def close(self) -> None:
            closed.append(self)
            super().close()

    manager = locks.BidLockManager()
    manager._get_db = lambda: Watched(file_engine)
    await manager.acquire_lock("upwork", "p1")
    await manager.release_lock("upwork", "p1")
    manager.get_metrics()
    await manager.cleanup_all()
    assert len({id(session) for session in closed}) == len(closed) == 4
    assert file_engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_get_db_may_give_another_database_later(
    locks: Any, file_engine: Engine, other_file: Path, lock_file: Path
) -> None:
    manager = locks.BidLockManager()
    await manager.acquire_lock("upwork", "p1")
    manager._get_db = sessionmaker(bind=file_engine)
    assert await manager.acquire_lock("upwork", "p1", timeout=0) is True
    assert len(rows(other_file)) == len(rows(lock_file)) == 1


async def test_a_session_bound_to_a_connection(locks: Any, file_engine: Engine, other_file: Path) -> None:
    manager = locks.BidLockManager()
    with file_engine.connect() as connection:
        manager._get_db = lambda: Session(connection)
        assert await manager.acquire_lock("upwork", "p1") is True
    assert manager.get_metrics()["lock_successes"] == 1


async def test_managers_of_one_in_memory_engine_exclude_each_other(
    locks: Any, memory_engines: list[Engine]
) -> None:
    one, two = locks.BidLockManager(), locks.BidLockManager()
    one._get_db = sessionmaker(bind=memory_engines[0])
    two._get_db = sessionmaker(bind=memory_engines[0])
    assert await one.acquire_lock("upwork", "p1", holder_id="one") is True
    assert await two.acquire_lock("upwork", "p1", timeout=0.2, holder_id="two") is False
    assert two.get_metrics()["active_locks"] == 1
    assert await one.release_lock("upwork", "p1", holder_id="one") is True
    assert await two.acquire_lock("upwork", "p1", timeout=0.2, holder_id="two") is True


async def test_in_memory_engines_are_told_apart(locks: Any, memory_engines: list[Engine]) -> None:
    one, two = locks.BidLockManager(), locks.BidLockManager()
    one._get_db = sessionmaker(bind=memory_engines[0])
    two._get_db = sessionmaker(bind=memory_engines[1])
    assert await one.acquire_lock("upwork", "p1", timeout=0) is True
    assert await two.acquire_lock("upwork", "p1", timeout=0) is True
    await one.cleanup_all()
    assert (one.get_metrics()["active_locks"], two.get_metrics()["active_locks"]) == (0, 1)


async def test_a_new_in_memory_engine_begins_empty(locks: Any) -> None:
    for _ in range(3):
        engine = in_memory()
        manager = locks.BidLockManager()
        manager._get_db = sessionmaker(bind=engine)
        assert await manager.acquire_lock("upwork", "p1", timeout=0) is True
        engine.dispose()
        del engine


@pytest.mark.better(raises=OperationalError)
async def test_a_failing_get_db_gives_false(locks: Any, caplog: pytest.LogCaptureFixture) -> None:
    manager = locks.BidLockManager()
    manager._get_db = MagicMock(side_effect=OperationalError("connect", None, Exception("server is down")))
    assert await manager.acquire_lock("upwork", "p1", timeout=0.5) is False
    assert await manager.release_lock("upwork", "p1") is False
    assert any("server is down" in record.getMessage() for record in caplog.records)


@pytest.fixture
def native() -> Any:
    """Our manager alone: what is wrong with a `_get_db` is told by us."""
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

    return BidLockManager()


async def test_a_get_db_that_gives_none_is_told(native: Any) -> None:
    native._get_db = lambda: None
    with pytest.raises(TypeError, match=r"_get_db.*Session.*None"):
        await native.acquire_lock("upwork", "p1")


async def test_a_session_without_a_bind_is_told(native: Any) -> None:
    native._get_db = sessionmaker()
    with pytest.raises(ValueError, match=r"_get_db.*bound"):
        await native.acquire_lock("upwork", "p1")


async def test_a_session_of_an_unsupported_database_is_told(native: Any) -> None:
    # Without a driver for it there is no real engine; this is what is looked at.
    engine = SimpleNamespace(url=make_url("mysql+pymysql://user:secret@host/bids"))
    engine.engine = engine
    session = SimpleNamespace(get_bind=lambda: engine, close=lambda: None)
    native._get_db = lambda: session
    with pytest.raises(ValueError, match=r"_get_db.*mysql.*SQLite.*PostgreSQL") as caught:
        await native.acquire_lock("upwork", "p1")
    assert "secret" not in str(caught.value)
