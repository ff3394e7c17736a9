"""Locks on a PostgreSQL server that can't be reached, or is reached late."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.exceptions import LockBackendError
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.tcp_proxy import TcpProxy


async def failure(url: str, timeout: float) -> str:
    """What an acquisition fails with."""
    async with BidLockManager(300, url) as manager:
        with pytest.raises(LockBackendError) as raised:
            await manager.acquire_lock("m", "p", timeout=timeout, raise_on_error=True)
    return str(raised.value)


@pytest.mark.parametrize(
    ("server", "cause"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("no-such-host.invalid:5432", "lookup address"),
    ],
)
@pytest.mark.parametrize("timeout", [0, 0.5])
async def test_why_a_server_is_not_reached(server: str, cause: str, timeout: float) -> None:
    message = await failure(f"postgresql://user:secret-word@{server}/db", timeout)
    assert server in message
    assert cause in message
    assert "secret-word" not in message


async def test_a_server_that_says_nothing_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        message = await failure(f"postgresql://user:secret-word@127.0.0.1:{port}/db", 0.1)
    assert f"127.0.0.1:{port}" in message
    assert "no answer" in message


@pytest.mark.serial
async def test_a_pair_is_two_round_trips(postgres_server: PostgresServer, postgres_url: str) -> None:
    async with TcpProxy(postgres_server.port) as proxy:
        url = postgres_url.replace(f":{postgres_server.port}/", f":{proxy.port}/")
        async with BidLockManager(300, url) as manager:

            async def pairs(number: int) -> None:
                for _ in range(number):
                    assert await manager.acquire_lock("m", "p")
                    assert await manager.release_lock("m", "p")

            await pairs(1)  # connects, makes the tables, prepares the statements
            # On a busy machine an answer may be so late that it is asked for over another connection, too.
            for _ in range(10):
                before = proxy.requests
                await pairs(50)
                assert proxy.requests - before >= 100
                if proxy.requests - before == 100:
                    break
            else:
                pytest.fail("fifty pairs were always more than a hundred round trips")


async def test_a_row_that_is_written_late_is_deleted(
    postgres_server: PostgresServer, unprivileged: str
) -> None:
    def tokens() -> str:
        return postgres_server.execute("SELECT sum(token) FROM arbitrageai_lock_fences", unprivileged)

    direct_url = f"postgresql://locker@127.0.0.1:{postgres_server.port}/{unprivileged}"
    async with TcpProxy(postgres_server.port) as proxy:
        url = f"postgresql://locker@127.0.0.1:{proxy.port}/{unprivileged}"
        async with BidLockManager(300, url) as manager, BidLockManager(300, direct_url) as direct:
            assert await manager.acquire_lock("m", "p")
            assert await manager.release_lock("m", "p")
            before = await asyncio.to_thread(tokens)
            proxy.hold_back()
            assert not await manager.acquire_lock("m", "p", timeout=0)
            await asyncio.sleep(2)  # the row has been looked for in vain
            proxy.let_go()
            deadline = time.monotonic() + 20
            while await asyncio.to_thread(tokens) == before:
                assert time.monotonic() < deadline, "the late statement was not carried out"
            while (await direct.locks()).held:
                assert time.monotonic() < deadline, "its row was not deleted"
                await asyncio.sleep(0.05)
            assert await direct.acquire_lock("m", "p", timeout=0)
