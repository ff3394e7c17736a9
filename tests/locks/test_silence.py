"""Connections that go silent: a firewall or a fail-over forgets them, and nobody says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager, Lease
from testing_support.machine import Stopwatch
from testing_support.servers.redis import RedisServer
from testing_support.servers.tcp_proxy import TcpProxy

Behind = Callable[..., str]


@pytest.fixture
async def proxy(request: pytest.FixtureRequest, shared_server_url: str) -> AsyncIterator[TcpProxy]:
    """Stands between the store and its server."""
    port = int(shared_server_url.split(":")[2].split("/")[0])
    async with TcpProxy(port) as proxy:
        yield proxy


@pytest.fixture(params=["postgres_url", "redis_url"], ids=["postgresql", "redis"])
def shared_server_url(request: pytest.FixtureRequest) -> str:
    """Every kind of database that is a server."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def behind(shared_server_url: str, proxy: TcpProxy) -> Behind:
    """The server's URL through the proxy, with more parameters."""

    def url(**parameters: object) -> str:
        more = "".join(f"&{name}={value}" for name, value in parameters.items())
        return shared_server_url.replace(f":{proxy.target}/", f":{proxy.port}/") + more

    return url


def sockets(port: int) -> set[str]:
    """The near ends of this machine's open sockets that lead to a port."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    established, half_closed = "01", "08"
    return {
        near
        for near, far, state in (line.split()[1:4] for line in lines)
        if state in (established, half_closed) and int(far.split(":")[1], 16) == port
    }


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.serial
async def test_short_leases_outlast_the_silence_of_all_connections(behind: Behind, proxy: TcpProxy) -> None:
    async with BidLockManager(4, behind()) as manager:
        leases: list[Lease] = await asyncio.gather(
            *(manager.acquire_lease("m", str(number), timeout=30) for number in range(50))
        )
        await asyncio.sleep(0.5)
        proxy.hold_back()
        silent_until = time.monotonic() + 9
        while time.monotonic() < silent_until:
            assert [lease.loss for lease in leases if not lease.is_held] == []
            assert len(sockets(proxy.port)) <= 5
            await asyncio.sleep(0.05)
        assert await asyncio.gather(*(lease.release() for lease in leases)) == [True] * 50


@pytest.mark.parametrize("timeout", [0, 3, 60])
async def test_a_lock_is_taken_in_time_over_another_connection(
    behind: Behind, proxy: TcpProxy, timeout: float
) -> None:
    async with BidLockManager(60, behind()) as manager:
        assert await manager.acquire_lock("m", "p", timeout=30)
        assert await manager.release_lock("m", "p")
        proxy.hold_back()
        watch = Stopwatch()
        lease = await manager.acquire_lease("m", "p", timeout=timeout)
        assert watch.seconds < 4 + watch.held_up  # 1 s at most, and what a busy machine adds
        assert await lease.release()


async def test_a_release_is_carried_out_over_another_connection(
    behind: Behind, proxy: TcpProxy, shared_server_url: str
) -> None:
    async with BidLockManager(60, behind()) as manager, BidLockManager(60, shared_server_url) as direct:
        lease = await manager.acquire_lease("m", "p", timeout=30)
        proxy.hold_back()
        assert await lease.release() is True
        assert (await direct.locks()).held == []
        assert await direct.acquire_lock("m", "p", timeout=0)


async def test_what_was_given_up_is_not_carried_out_late(
    behind: Behind, proxy: TcpProxy, shared_server_url: str
) -> None:
    async with BidLockManager(60, behind()) as manager, BidLockManager(60, shared_server_url) as direct:
        assert await manager.acquire_lock("m", "p", timeout=30)
        assert await manager.release_lock("m", "p")
        proxy.hold_back()
        lease = await manager.acquire_lease("m", "p", timeout=2)
        assert await lease.release()
        proxy.let_go()
        for _ in range(20):
            assert (await direct.locks()).held == []
            await asyncio.sleep(0.05)


async def test_a_silent_server_gets_no_more_connections_than_allowed(behind: Behind, proxy: TcpProxy) -> None:
    async with BidLockManager(60, behind(), max_connections=3) as manager:
        assert await manager.acquire_lock("m", "p", timeout=30)

        async def ask(number: int) -> None:
            for attempt in range(6):
                await manager.acquire_lock("m", f"{number}-{attempt}", timeout=0.5)

        asking = asyncio.gather(*(ask(number) for number in range(6)))
        while not asking.done():
            proxy.hold_back()
            assert len(sockets(proxy.port)) <= 3
            await asyncio.sleep(0.03)
        await asking
        proxy.let_go()


async def test_an_idle_connection_is_probed_and_closed_when_it_is_dead(
    behind: Behind, proxy: TcpProxy, shared_server_url: str
) -> None:
    if shared_server_url.startswith("redis"):
        return  # the system probes its sockets: see the test of their options
    url = behind(keepalives_idle=1, keepalives_interval=1, keepalives_count=1)
    async with BidLockManager(60, url) as manager:
        assert await manager.acquire_lock("m", "p", timeout=30)
        proxy.hold_back()
        await until(lambda: not sockets(proxy.port))
        assert await manager.release_lock("m", "p")


async def test_a_listener_that_goes_silent_is_replaced(
    behind: Behind, proxy: TcpProxy, shared_server_url: str
) -> None:
    url = behind(keepalives_idle=1, keepalives_interval=1, keepalives_count=2)
    async with BidLockManager(60, shared_server_url) as holder, BidLockManager(60, url) as waiter:
        assert await holder.acquire_lock("m", "p", timeout=30)
        waiting = asyncio.create_task(waiter.acquire_lock("m", "p", timeout=120))
        await until(lambda: len(sockets(proxy.port)) >= 2)
        await asyncio.sleep(1)  # all connections are ready by now
        silent = sockets(proxy.port)
        connections = proxy.connections
        proxy.hold_back()
        await until(lambda: proxy.connections >= connections + 2)  # one for the work, one to listen
        while silent & sockets(proxy.port):
            assert len(sockets(proxy.port)) <= 5
            await asyncio.sleep(0.02)
        assert await holder.release_lock("m", "p")
        assert await waiting
        assert await waiter.release_lock("m", "p")


@pytest.mark.parametrize("name", ["keepalives_idle", "keepalives_count", "tcp_user_timeout"])
@pytest.mark.parametrize("server", ["postgresql://127.0.0.1/x", "redis://127.0.0.1/0"])
async def test_a_parameter_that_is_no_number_is_named(name: str, server: str) -> None:
    with pytest.raises(ValueError, match=f"{name} that can't be read"):
        BidLockManager(60, f"{server}?{name}=soon")


async def test_a_user_who_may_not_end_connections_is_served_too(own_redis_server: RedisServer) -> None:
    commands = "+evalsha +script|load +time +get +set +pttl +del +hget +hset +publish"
    own_redis_server.execute("ACL", "SETUSER", "locker", "on", "~*", "&*", *commands.split(), ">word")
    async with TcpProxy(own_redis_server.port) as proxy:
        url = f"redis://locker:word@127.0.0.1:{proxy.port}/0"
        async with BidLockManager(60, url) as manager:
            assert await manager.acquire_lock("m", "p", timeout=30)
            proxy.hold_back()
            assert await manager.acquire_lock("m", "q", timeout=10)
            assert await manager.release_lock("m", "p")
        proxy.let_go()
