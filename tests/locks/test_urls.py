"""Database URLs are parsed as SQLAlchemy parses them, and no message shows the part before an `@`."""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.engine import URL

from arbitrageai_native import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from arbitrageai_native.doctor import diagnose
from arbitrageai_native.exceptions import LockBackendError
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.redis import RedisServer

PASSWORDS = [
    "p/ss",
    "p?ss",
    "/",
    "?",
    "a?b=c&password=x",
    "#x",
    "p:w",
    "4711/2",
    "p%+1x",
    "a+b",
    "%2Fx",
    "é€",
]


class ListeningServer:
    """A server that records the user, password and database of each login, and refuses every login."""

    def __init__(self, answer: Callable[[socket.socket], dict[str, str]]) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.seen: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                try:
                    self.seen.put(self._answer(connection))
                except (OSError, struct.error):
                    continue

    def stop(self) -> None:
        self._listening.close()


def read_postgres(connection: socket.socket) -> dict[str, str]:
    """Read the start of a PostgreSQL session, and request the password in clear text."""
    while True:
        (length,) = struct.unpack("!I", connection.recv(4, socket.MSG_WAITALL))
        body = connection.recv(length - 4, socket.MSG_WAITALL)
        if body[:4] != struct.pack("!I", 80877103):
            break
        connection.sendall(b"N")
    words = body[4:].split(b"\0")
    said = {name.decode(): value.decode() for name, value in zip(words[::2], words[1::2], strict=False)}
    connection.sendall(b"R" + struct.pack("!II", 8, 3))
    _, length = struct.unpack("!cI", connection.recv(5, socket.MSG_WAITALL))
    said["password"] = connection.recv(length - 4, socket.MSG_WAITALL)[:-1].decode()
    refusal = b"SFATAL\0C28P01\0Mno\0\0"
    connection.sendall(b"E" + struct.pack("!I", len(refusal) + 4) + refusal)
    return said


def read_redis(connection: socket.socket) -> dict[str, str]:
    """Read the first command of a Redis session: AUTH, or HELLO with AUTH."""
    with connection.makefile("rb") as lines:
        count = int(lines.readline()[1:])
        words = []
        for _ in range(count):
            length = int(lines.readline()[1:])
            words.append(lines.read(length + 2)[:-2].decode())
        connection.sendall(b"-WRONGPASS no\r\n" * 8)
    given = words[words.index("AUTH") + 1 :] if "AUTH" in words else []
    return {"user": given[0] if len(given) > 1 else "", "password": given[-1] if given else ""}


@pytest.fixture
def postgres_door() -> Iterator[ListeningServer]:
    """Start a `ListeningServer` for PostgreSQL clients."""
    server = ListeningServer(read_postgres)
    yield server
    server.stop()


@pytest.fixture
def redis_door() -> Iterator[ListeningServer]:
    """Start a `ListeningServer` for Redis clients."""
    server = ListeningServer(read_redis)
    yield server
    server.stop()


async def what_is_said(server: ListeningServer, url: str) -> dict[str, str]:
    """Return the user, password and database that a manager of this URL sends to the server."""
    while not server.seen.empty():
        server.seen.get()
    async with BidLockManager(60, url) as manager:
        with pytest.raises(LockBackendError):
            await manager.acquire_lease("upwork", "p1", timeout=0)
    return await asyncio.to_thread(server.seen.get, timeout=20)


def generated_urls(port: int) -> Iterator[str]:
    """Generate URLs to a local port, with odd characters in every part."""
    odd = random.Random(20)

    def text(alphabet: str, least: int, most: int) -> str:
        return "".join(odd.choice(alphabet) for _ in range(odd.randint(least, most)))

    for _ in range(80):
        user = text("ab%2F+?#é.-", 1, 6)
        password = ":" + text("ab/?#:&=%+41 é\\'\"[]", 1, 10) if odd.random() < 0.9 else ""
        if not password:
            user = user.replace("?", "x")
        database = text("ab%2+é:#&=", 1, 6)
        query = f"?application_name={text('ab+%2C#:/', 1, 6)}&empty=&x" if odd.random() < 0.7 else ""
        driver = odd.choice(["", "+psycopg2", "+asyncpg"])
        yield f"postgresql{driver}://{user}{password}@127.0.0.1:{port}/{database}{query}"


async def test_urls_are_read_as_sqlalchemy_reads_them(postgres_door: ListeningServer) -> None:
    for url in generated_urls(postgres_door.port):
        expected = make_url(url)
        if "\0" in str(expected.password):
            continue
        said = await what_is_said(postgres_door, url)
        assert said["user"] == expected.username, url
        assert said["password"] == (expected.password or ""), url
        assert (expected.host, expected.port) == ("127.0.0.1", postgres_door.port), url
        # Only newer versions of SQLAlchemy decode percent-encoding in the name of a database.
        assert said["database"] in (expected.database, _undone(str(expected.database))), url
        assert said["application_name"] == expected.query.get("application_name", "arbitrageai-native"), url


def _undone(name: str) -> str:
    from urllib.parse import unquote

    return unquote(name)


@pytest.mark.parametrize("password", PASSWORDS)
async def test_a_redis_password_is_read_as_sqlalchemy_would(
    redis_door: ListeningServer, password: str
) -> None:
    for user in ("", "locker"):
        url = f"redis://{user}:{password}@127.0.0.1:{redis_door.port}/0"
        expected = make_url(url)
        said = await what_is_said(redis_door, url)
        assert said == {"user": expected.username or "", "password": expected.password}, url


@pytest.fixture(scope="module")
def scram_server() -> Iterator[PostgresServer]:
    """Start a server that requires a password for connections over the network."""
    server = PostgresServer()
    rules = server.data_folder / "pg_hba.conf"
    rules.write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
    server.execute("SELECT pg_reload_conf()")
    yield server
    server.stop()


async def test_odd_passwords_log_in(scram_server: PostgresServer) -> None:
    for number, password in enumerate(PASSWORDS):
        meant = make_url(f"postgresql://x:{password}@h").password
        quoted = str(meant).replace("'", "''")
        scram_server.execute(f"CREATE ROLE role{number} SUPERUSER LOGIN PASSWORD '{quoted}'")
        url = f"postgresql+psycopg2://role{number}:{password}@127.0.0.1:{scram_server.port}/postgres"
        engine = create_engine(url)
        engine.connect().close()
        engine.dispose()
        async with BidLockManager(60, url) as manager:
            await (await manager.acquire_lease("upwork", f"p{number}", timeout=10)).release()


async def test_odd_passwords_log_in_to_redis(redis_server: RedisServer) -> None:
    for number, password in enumerate(PASSWORDS):
        meant = str(make_url(f"redis://x:{password}@h").password)
        user = f"role{number}"
        redis_server.execute("ACL", "SETUSER", user, "on", "~*", "&*", "+@all", f">{meant}")
        url = f"redis://{user}:{password}@127.0.0.1:{redis_server.port}/0"
        async with BidLockManager(60, url) as manager:
            await (await manager.acquire_lease("upwork", f"p{number}", timeout=10)).release()
        redis_server.execute("ACL", "DELUSER", user)


async def test_a_plus_in_the_parameters_is_a_space(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    postgres_server.execute("DROP SCHEMA IF EXISTS plus CASCADE")
    postgres_server.execute("CREATE SCHEMA plus")
    url = make_url(postgres_url).update_query_dict({"options": "-c search_path=plus"})
    rendered = url.render_as_string(hide_password=False)
    async with BidLockManager(60, rendered) as manager:
        await manager.acquire_lock("upwork", "p1")
        assert postgres_server.execute("SELECT count(*) FROM plus.distributed_locks") == "1"
    postgres_server.execute("DROP SCHEMA plus CASCADE")


SECRETS = [
    "hunter/2secret",
    "hunter?2secret",
    "4711/2secret",
    "hunter#2secret",
    "hunter:2secret",
    "hunter@2secret",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "place",
    [
        "127.0.0.1:1/prod",
        "127.0.0.1:port/prod",
        "127.0.0.1,127.0.0.2:1/prod",
        "[::1:1/prod",
        "127.0.0.1:1/a@b",
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "redis"])
async def test_nothing_before_an_at_is_shown(
    scheme: str, secret: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"{scheme}://myself:{secret}@{place}"
    shown = []
    for make in (lambda: BidLockManager(60, url), lambda: RedisBidLockManager(url, 60)):
        try:
            manager: Any = make()
            shown.append(repr(manager))
            # No server listens there, so each attempt waits for its timeout; the password does not
            # matter.
            if secret in SECRETS[:2]:
                assert await manager.acquire_lock("upwork", "p1", timeout=0) is False
        except ValueError as error:
            shown += [str(error), repr(error), repr(error.__cause__)]
    shown += [record.getMessage() for record in caplog.records]
    said = "\n".join(shown)
    assert not [word for word in ("hunter", "2secret", "4711", "myself") if word in said], said


@pytest.mark.parametrize("secret", SECRETS)
async def test_the_doctor_shows_no_password(
    secret: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "REDIS_URL", "USE_REDIS_LOCKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://app:{secret}@127.0.0.1:1/prod")
    monkeypatch.setenv("REDIS_URL", f"redis://app:{secret}@127.0.0.1:1/0")
    monkeypatch.setenv("LOCAL_BASE_URL", f"http://app:{secret}@127.0.0.1:1/v1")
    monkeypatch.setenv("BASE_URL", f"http://app:{secret}@127.0.0.1:1/v1")
    said = "\n".join(f"{finding.detail} {finding.fix}" for finding in await diagnose())
    assert not [word for word in ("hunter", "2secret", "4711") if word in said], said


@pytest.mark.parametrize(
    "rest",
    [
        "u@a:5432,b:5432/db?target_session_attrs=read-write",
        "u@a,b/db",
        "u@/db?host=a,b&port=5432,5433",
        "u@/db?host=a:5432&host=b:5432",
        "u@/db?host=a&host=b",
        "u@/db?hostaddr=10.0.0.1,10.0.0.2",
        "u@a/db?port=5432,5433",
    ],
)
def test_several_hosts_are_refused_by_name(rest: str) -> None:
    with pytest.raises(ValueError, match=r"database_url names several hosts"):
        BidLockManager(60, f"postgresql://{rest}")
    with pytest.raises(ValueError, match=r"listen_url names several hosts"):
        BidLockManager(60, "postgresql://h/db", listen_url=f"postgresql://{rest}")


async def test_one_host_with_its_port_in_a_parameter(postgres_door: ListeningServer) -> None:
    url = f"postgresql://u:w@/db?host=127.0.0.1:{postgres_door.port}"
    assert (await what_is_said(postgres_door, url))["database"] == "db"


async def test_managers_of_one_server_share_a_queue_however_its_url_is_written(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    url = make_url(postgres_url)
    in_parameters = URL.create(
        "postgresql+psycopg2",
        database=url.database,
        query={**url.query, "user": "postgres", "host": f"127.0.0.1:{postgres_server.port}"},
    )
    async with (
        BidLockManager(60, postgres_url) as one,
        BidLockManager(60, in_parameters.render_as_string(hide_password=False)) as two,
    ):
        await one.acquire_lock("upwork", "p1")
        waiter = asyncio.create_task(two.acquire_lock("upwork", "p1", timeout=20, holder_id="waiter"))
        for _ in range(1000):
            if waiting := (await one.locks()).waiting:
                break
            await asyncio.sleep(0.01)
        await one.release_lock("upwork", "p1")
        assert await waiter
        assert [found.holder_id for found in waiting] == ["waiter"]


def test_a_sqlite_name_is_a_uri_only_if_the_url_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///file:plain.db", f"sqlite:///file:{tmp_path}/a%20uri.db?uri=true"):
        engine = create_engine(url)
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
        engine.dispose()
        with BidLockManager(60, url).with_lock_sync("upwork", "p1"):
            pass
    found = {file.name for file in tmp_path.iterdir() if not file.name.endswith(("-wal", "-shm"))}
    assert found == {"file:plain.db", "a uri.db"}


@pytest.mark.parametrize("name", ["database_url", "listen_url"])
def test_a_url_that_is_not_unicode_is_refused_without_quoting_it(name: str) -> None:
    urls = {"database_url": "postgresql://h/d", name: "postgresql://app:top-s\udce9cret@h/d"}
    with pytest.raises(ValueError, match=name) as refused:
        BidLockManager(60, **urls)  # type: ignore[arg-type]
    assert "cret" not in repr(refused.value)


async def test_a_user_is_not_shown_in_the_place_of_a_database() -> None:
    manager = BidLockManager(60, "postgresql://hidden@127.0.0.1:1")
    with pytest.raises(LockBackendError) as failed:
        await manager.acquire_lock("m", "p", timeout=0, raise_on_error=True)
    assert "hidden" not in str(failed.value)
    assert "PostgreSQL at 127.0.0.1:1" in str(failed.value)
