"""Redis servers that come and go, let in only some, or are none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from arbitrageai_native.exceptions import LockBackendError
from testing_support.machine import Stopwatch
from testing_support.servers.redis import RedisServer
from testing_support.servers.tcp_proxy import TcpProxy
from testing_support.waiting import until_waiting

# --- servers that come and go ---


async def test_a_restarted_server_has_forgotten_and_all_notice(own_redis_server: RedisServer) -> None:
    async with BidLockManager(3, own_redis_server.url(), on_lost="raise") as manager:
        lease = await manager.acquire_lease("m", "p")
        waiter = asyncio.create_task(manager.acquire_lease("m", "p", timeout=60))
        other = BidLockManager(3, own_redis_server.url() + "?client_name=other")
        waiter_elsewhere = asyncio.create_task(other.acquire_lease("m", "p", timeout=60))
        await until_waiting(manager, 1)
        await until_waiting(other, 1)
        await asyncio.to_thread(own_redis_server.restart)
        successors = [waiter, waiter_elsewhere]
        done, _ = await asyncio.wait(successors, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        first = done.pop().result()
        # What the server no longer knew cannot tell them apart, but the tokens do.
        assert first.fencing_token > lease.fencing_token
        assert await asyncio.wait_for(lease.lost(), 20) is not None
        await first.release()
        later = await asyncio.wait_for(next(task for task in successors if not task.done()), 30)
        assert later.fencing_token > first.fencing_token
        await later.release()
        await other.aclose()


@pytest.mark.parametrize("own_redis_server", [{"durable": True}], indirect=True)
async def test_a_restarted_server_with_a_durable_log_has_lost_nothing(own_redis_server: RedisServer) -> None:
    async with BidLockManager(30, own_redis_server.url(), on_lost="raise") as manager:
        async with manager.with_lock("m", "p") as lease:
            waiter = asyncio.create_task(manager.acquire_lease("m", "p", timeout=60))
            await asyncio.to_thread(own_redis_server.restart)
            assert await manager.acquire_lock("m", "q", timeout=60)
            await lease.renew()
        successor = await waiter
        assert successor.fencing_token > lease.fencing_token


async def test_health_is_that_of_now(own_redis_server: RedisServer) -> None:
    manager = RedisBidLockManager(own_redis_server.url())
    assert await manager.health_check()
    await asyncio.to_thread(own_redis_server.restart)
    assert await manager.health_check()
    own_redis_server.kill()
    watch = Stopwatch()
    assert not await manager.health_check()
    assert watch.seconds < 4 + watch.held_up
    await asyncio.to_thread(own_redis_server.start)
    assert await manager.health_check()
    own_redis_server._process.send_signal(signal.SIGSTOP)
    watch = Stopwatch()
    assert not await manager.health_check()
    assert watch.seconds < 4 + watch.held_up
    own_redis_server._process.send_signal(signal.SIGCONT)
    await manager.close()


async def test_a_promoted_replica_takes_over(own_redis_server: RedisServer) -> None:
    replica = RedisServer(settings={"replicaof": f"127.0.0.1 {own_redis_server.port}"})
    try:
        async with TcpProxy(own_redis_server.port) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}"
            async with BidLockManager(30, url, on_lost="raise") as manager:
                lease = await manager.acquire_lease("m", "p", timeout=10)
                deadline = time.monotonic() + 30
                while replica.execute("GET", "bid_lock:m:p") is None:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.02)
                own_redis_server.kill()
                proxy.target = replica.port
                proxy.cut()
                # Not promoted yet: it refuses to write.
                assert not await manager.acquire_lock("m", "q", timeout=0.3)
                acquiring = asyncio.create_task(manager.acquire_lease("m", "q", timeout=30))
                await asyncio.sleep(0.2)
                replica.execute("REPLICAOF", "NO", "ONE")
                await (await acquiring).release()
                await lease.renew()
                assert not await manager.acquire_lock("m", "p", timeout=0.1)
                await lease.release()
                successor = await manager.acquire_lease("m", "p", timeout=10)
                assert successor.fencing_token > lease.fencing_token
                await successor.release()
    finally:
        replica.stop()


async def test_cut_connections_cost_no_lock(redis_server: RedisServer, redis_url: str) -> None:
    async with TcpProxy(redis_server.port) as proxy:
        manager, direct = (
            BidLockManager(300, f"redis://127.0.0.1:{proxy.port}/0"),
            BidLockManager(300, redis_url),
        )
        stop = time.monotonic() + 3
        rounds = 0
        inside = 0

        async def work(number: int) -> None:
            nonlocal inside, rounds
            while time.monotonic() < stop or rounds <= 10:
                async with manager.with_lock("m", "p", timeout=60, holder_id=str(number)):
                    assert inside == 0
                    inside += 1
                    await asyncio.sleep(0)
                    inside -= 1
                rounds += 1

        async def cut() -> None:
            while time.monotonic() < stop:
                await asyncio.sleep(0.1)
                proxy.cut()

        await asyncio.gather(*(work(number) for number in range(5)), cut())
        deadline = time.monotonic() + 20
        while (await direct.locks()).held:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        proxy.refuse()
        watch = Stopwatch()
        assert not await manager.acquire_lock("m", "p", timeout=1)
        assert 0.9 < watch.seconds < 5 + watch.held_up
        await manager.aclose()
        await direct.aclose()


class LastAnswerLost(TcpProxy):
    """Passes a script's request on, but not its answer, once it is told to; and nothing more after that."""

    losing = False
    lost = False

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.lost:
                    self.refuse()
                    break
                self.lost = self.losing and b"EVALSHA" in data
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    def accept(self) -> None:
        """Work again."""
        self.losing = self.lost = self._refusing = False


async def test_a_lock_whose_grant_never_arrived_is_not_left_behind(
    redis_server: RedisServer, redis_url: str
) -> None:
    async with LastAnswerLost(redis_server.port) as proxy:
        manager = BidLockManager(300, f"redis://127.0.0.1:{proxy.port}/0")
        assert await manager.acquire_lock("m", "q")
        proxy.losing = True
        assert not await manager.acquire_lock("m", "p", timeout=0.3)
        assert redis_server.execute("EXISTS", "bid_lock:m:p") == 1
        proxy.accept()
        deadline = time.monotonic() + 20
        while redis_server.execute("EXISTS", "bid_lock:m:p"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await manager.aclose()


async def test_a_server_that_stands_still_is_waited_for(own_redis_server: RedisServer) -> None:
    async with BidLockManager(300, own_redis_server.url()) as manager:
        assert await manager.acquire_lock("m", "p")
        own_redis_server._process.send_signal(signal.SIGSTOP)
        acquiring = asyncio.create_task(manager.acquire_lock("m", "q", timeout=30))
        watch = Stopwatch()
        assert not await manager.acquire_lock("m", "r", timeout=0.2)
        assert watch.seconds < 3 + watch.held_up
        own_redis_server._process.send_signal(signal.SIGCONT)
        assert await acquiring
        # What was given up while the server stood still is not left behind.
        deadline = time.monotonic() + 20
        while own_redis_server.execute("GET", "bid_lock:m:r") is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def test_a_server_that_forgot_the_scripts_is_told_them_again(
    redis_server: RedisServer, redis_url: str
) -> None:
    async with BidLockManager(300, redis_url) as manager:
        assert await manager.acquire_lock("m", "p")
        redis_server.execute("SCRIPT", "FLUSH")
        assert await manager.release_lock("m", "p")
        redis_server.execute("SCRIPT", "FLUSH")
        assert await manager.acquire_lock("m", "p", timeout=5)


async def test_a_server_without_memory_is_waited_for(own_redis_server: RedisServer) -> None:
    async with BidLockManager(300, own_redis_server.url()) as manager:
        assert await manager.acquire_lock("m", "p")
        own_redis_server.execute("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(LockBackendError, match="OOM"):
            await manager.acquire_lock("m", "q", timeout=0.3, raise_on_error=True)
        acquiring = asyncio.create_task(manager.acquire_lock("m", "q", timeout=30))
        await asyncio.sleep(0.1)
        own_redis_server.execute("CONFIG", "SET", "maxmemory", "0")
        assert await acquiring


# --- users, encryption ---

#: As `docs/locks.md` has it.
RULES = (
    "on ~bid_lock:* ~arbitrageai:* resetchannels &arbitrageai:lock:* "
    "+evalsha +script|load +time +get +set +pttl +pexpire +del +hget +hset "
    "+publish +subscribe +unsubscribe +scan +ping +client|info +client|kill"
)


def test_the_documented_rules_are_the_tested_ones() -> None:
    page = (Path(__file__).parents[2] / "docs" / "locks.md").read_text()
    documented = re.search(r"ACL SETUSER \S+ (on .*?) >", page, re.DOTALL)
    assert documented is not None
    assert documented[1].replace("\\", " ").split() == RULES.split()


async def test_a_user_who_may_just_lock(own_redis_server: RedisServer) -> None:
    own_redis_server.execute("ACL", "SETUSER", "locker", *RULES.split(), ">pass word@1")
    url = own_redis_server.url(user="locker:pass%20word%401")
    async with BidLockManager(300, url) as one, BidLockManager(300, url + "?client_name=other") as other:
        lease = await one.acquire_lease("m", "p")
        await lease.renew()
        waiter = asyncio.create_task(other.acquire_lock("m", "p", timeout=30))
        await until_waiting(other, 1)
        assert await lease.release()
        assert await waiter
        assert len((await one.locks()).held) == 1
        assert one.get_metrics()["active_locks"] == 1
        await one.cleanup_all()
        assert (await one.locks()).held == []
    # Nothing was tried that is not allowed. (`CLIENT SETINFO` is a courtesy, and may be refused.)
    refused = {entry["object"] for entry in own_redis_server.client.acl_log()}
    assert refused <= {"client|setinfo", "client"}


async def test_a_user_who_may_not_publish_locks_all_the_same(own_redis_server: RedisServer) -> None:
    rules = [rule for rule in RULES.split() if not rule.startswith("&")]
    own_redis_server.execute("ACL", "SETUSER", "locker", *rules, ">secret-word")
    url = own_redis_server.url(user="locker:secret-word")
    async with BidLockManager(300, url) as one, BidLockManager(300, url + "?client_name=other") as other:
        lease = await one.acquire_lease("m", "p")
        waiter = asyncio.create_task(other.acquire_lock("m", "p", timeout=30))
        await until_waiting(other, 1)
        assert await lease.release()
        assert await waiter


async def refused(manager: BidLockManager, caplog: pytest.LogCaptureFixture, timeout: float = 30) -> str:
    """The message of a manager that can't use its server, and knows it at once."""
    watch = Stopwatch()
    with caplog.at_level(logging.ERROR), pytest.raises(LockBackendError) as raised:
        await manager.acquire_lock("m", "p", timeout=timeout, raise_on_error=True)
    assert watch.seconds < 5 + watch.held_up
    assert not await manager.acquire_lock("m", "p", timeout=min(timeout, 0.1))
    assert "secret" not in f"{raised.value} {raised.value.__cause__} {caplog.text} {manager!r}"
    return str(raised.value)


@pytest.mark.parametrize("own_redis_server", [{"password": "right"}], indirect=True)
async def test_a_wrong_password(own_redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    for user in ("someone:secret-word", ":secret-word"):
        message = await refused(BidLockManager(300, own_redis_server.url(user=user)), caplog)
        assert "name or password" in message
    assert "NOAUTH" in await refused(BidLockManager(300, own_redis_server.url()), caplog)
    async with BidLockManager(300, own_redis_server.url(user=":right")) as manager:
        assert await manager.acquire_lock("m", "p")


async def test_a_user_who_may_not(own_redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    own_redis_server.execute("ACL", "SETUSER", "reader", "on", "~*", "+get", ">secret-word")
    manager = BidLockManager(300, own_redis_server.url(user="reader:secret-word"))
    assert (await refused(manager, caplog)).count("NoPerm") == 1


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, Path]:
    """Who signs certificates, and the file that says so."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    return authority, tmp_path / "authority.pem"


async def test_encrypted(
    redis_server: RedisServer,
    redis_url: str,
    authority: tuple[trustme.CA, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority[0].issue_cert("localhost", "127.0.0.1").configure_cert(context)
    async with TcpProxy(redis_server.port, context) as proxy, BidLockManager(300, redis_url) as direct:
        url = f"rediss://localhost:{proxy.port}/0"
        for trusting in (f"{url}?ssl_ca_certs={authority[1]}", f"{url}?ssl_cert_reqs=none"):
            async with BidLockManager(300, trusting) as manager:
                lease = await manager.acquire_lease("m", "p")
                waiter = asyncio.create_task(direct.acquire_lock("m", "p", timeout=30))
                await until_waiting(direct, 1)
                assert not waiter.done()
                assert await lease.release()
                assert await waiter
                assert await direct.release_lock("m", "p")
        assert "certificate" in (await refused(BidLockManager(300, url), caplog)).lower()


# --- what is no Redis ---


async def test_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        message = await refused(BidLockManager(300, f"redis://:secret-word@{address}/3"), caplog, timeout=0.3)
    assert f"Redis database 3 at {address}" in message
    assert "refused" in message


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A server that answers whatever it gets with the same; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                writer.write(answer)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_server_that_is_no_redis(caplog: pytest.LogCaptureFixture) -> None:
    async with answering(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n") as port:
        message = await refused(BidLockManager(300, f"redis://:secret-word@127.0.0.1:{port}"), caplog)
        assert "does not speak Redis's protocol" in message


async def test_a_server_that_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    async with answering(b"") as port:
        url = f"redis://:secret-word@127.0.0.1:{port}?socket_connect_timeout=0.2"
        assert "in time" in await refused(BidLockManager(300, url), caplog, timeout=0.5)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://host:port", "port"),
        ("redis://:secret-word@host/first", "database number"),
        ("redis://host/0?db=-1", "database number"),
        ("redis://host?socket_connect_timeout=soon", "socket_connect_timeout"),
        ("rediss://host?ssl_ca_certs=/no/such/file", "ssl_ca_certs"),
        ("rediss://host?ssl_certfile=/dev/null", "ssl_keyfile"),
    ],
)
def test_urls_that_make_no_sense(url: str, named: str) -> None:
    with pytest.raises(ValueError, match=rf"database_url.*{named}") as raised:
        BidLockManager(300, url)
    assert "secret-word" not in str(raised.value)
