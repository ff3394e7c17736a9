"""Locks over TLS, as libpq's `sslmode` and `sslrootcert` ask for.

The server of the pip wheel has no TLS; the system's has.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockBackendError
from testing_support.servers.certificates import Authority
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.system import from_package


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signed the server's certificate."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls_server(authority: Authority) -> Iterator[PostgresServer]:
    """A server whose certificate is for `localhost`, which lets nobody in without TLS."""
    programs = from_package("postgresql", "/usr/lib/postgresql/*/bin/postgres").parent
    server = PostgresServer(programs=programs)
    for file, name in zip(authority.issue("localhost"), ("server.crt", "server.key"), strict=True):
        target = server.data_folder / name
        shutil.copy(file, target)
        target.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(target, "nobody")
    server.execute("ALTER SYSTEM SET ssl = on")
    (server.data_folder / "pg_hba.conf").write_text(
        "local all all trust\nhostssl all all 127.0.0.1/32 trust\n"
    )
    server.execute("SELECT pg_reload_conf()")
    yield server
    server.stop()


def url(server: PostgresServer, host: str, **parameters: object) -> str:
    """The URL of the server under one of its names."""
    query = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"postgresql://postgres@{host}:{server.port}/postgres?{query}"


async def failure(database_url: str) -> str:
    """What an acquisition fails with, at once: none of this passes by itself."""
    started = time.monotonic()
    async with BidLockManager(300, database_url) as manager:
        with pytest.raises(LockBackendError) as raised:
            await manager.acquire_lock("m", "p", timeout=60, raise_on_error=True)
    assert time.monotonic() - started < 20
    return str(raised.value)


async def encrypted_connections(server: PostgresServer) -> int:
    """How many connections by TCP there are, when all of them are encrypted."""
    query = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
    encrypted, every = server.execute(f"{query} WHERE client_port > 0").split("|")
    assert encrypted == every
    return int(every)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_locks_over_tls(tls_server: PostgresServer, authority: Authority, mode: str) -> None:
    trusted = {} if mode == "require" else {"sslrootcert": authority.certificate}
    async with BidLockManager(300, url(tls_server, "localhost", sslmode=mode, **trusted)) as manager:
        lease = await manager.acquire_lease("m", "p")
        assert not await manager.acquire_lock("m", "p", timeout=0.1)
        assert await encrypted_connections(tls_server) >= 1
        assert await lease.release()


async def test_without_tls_nobody_is_let_in(tls_server: PostgresServer) -> None:
    assert "no encryption" in await failure(url(tls_server, "localhost", sslmode="disable"))


async def test_a_certificate_for_another_host(tls_server: PostgresServer, authority: Authority) -> None:
    trusted = {"sslrootcert": authority.certificate}
    message = await failure(url(tls_server, "127.0.0.1", sslmode="verify-full", **trusted))
    assert 'certificate not valid for name "127.0.0.1"' in message
    # Another name is all that is wrong with it.
    async with BidLockManager(300, url(tls_server, "127.0.0.1", sslmode="verify-ca", **trusted)) as manager:
        assert await manager.acquire_lock("m", "p")
        assert await manager.release_lock("m", "p")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_certificate_of_an_unknown_authority(
    tls_server: PostgresServer, tmp_path: Path, mode: str
) -> None:
    stranger = Authority(tmp_path, "stranger")
    message = await failure(url(tls_server, "localhost", sslmode=mode, sslrootcert=stranger.certificate))
    assert "UnknownIssuer" in message


async def test_a_server_without_tls(postgres_server: PostgresServer) -> None:
    message = await failure(url(postgres_server, "127.0.0.1", sslmode="require"))
    assert "TLS" in message
