"""Locks in Redis, where it differs from a database: its keys, its users, its restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme

from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from arbitrageai_native.exceptions import LockBackendError, LockLostError

from .reference.src.agent_execution.redis_bid_lock_manager import RedisBidLockManager as OldManager
from .servers.redis import RedisServer
from .servers.tcp_proxy import TcpProxy

FENCES = "arbitrageai:lock_fences"


@pytest.fixture
async def manager(redis_url: str) -> AsyncIterator[BidLockManager]:
    """A manager on the shared server."""
    async with BidLockManager(300, redis_url) as manager:
        yield manager


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server that the test may end, and set as it likes."""
    server = RedisServer(**getattr(request, "param", {}))
    yield server
    server.stop()


# --- what is in Redis ---


async def test_a_lock_is_the_originals_key(manager: BidLockManager, redis_server: RedisServer) -> None:
    async with manager.with_lock("upwork", "p1", holder_id="me"):
        assert redis_server.execute("GET", "bid_lock:upwork:p1") == "me"
        assert 299_000 < redis_server.execute("PTTL", "bid_lock:upwork:p1") <= 300_000
    assert redis_server.execute("GET", "bid_lock:upwork:p1") is None


async def test_nothing_stays_for_ever_but_the_counters(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    manager.ttl = 0.3
    for number in range(50):
        assert await manager.acquire_lock("m", str(number))
        if number % 2:
            assert await manager.release_lock("m", str(number))
    await asyncio.sleep(0.4)
    assert redis_server.execute("KEYS", "*") == [FENCES]


async def test_cancelled_acquisitions_leave_no_key(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    for delay in range(40):
        tasks = [asyncio.create_task(manager.acquire_lock("m", str(number))) for number in range(10)]
        await asyncio.sleep(delay * 0.00005)
        for task in tasks:
            task.cancel()
        acquired = await asyncio.gather(*tasks, return_exceptions=True)
        for number, result in enumerate(acquired):
            if result is True:
                assert await manager.release_lock("m", str(number))
    deadline = time.monotonic() + 20
    while redis_server.execute("KEYS", "*bid_lock:*"):
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"posting_id": "x" * 1001}, "posting_id"),
        ({"marketplace_id": "a\0b"}, "marketplace_id"),
        ({"holder_id": "a\0b"}, "holder_id"),
    ],
)
async def test_names_that_no_store_takes(
    manager: BidLockManager, arguments: dict[str, str], named: str, redis_server: RedisServer
) -> None:
    with pytest.raises(ValueError, match=named):
        await manager.acquire_lock(**{"marketplace_id": "m", "posting_id": "p", **arguments})
    assert redis_server.execute("KEYS", "*") == []


async def test_databases_of_a_server_are_apart(redis_server: RedisServer, redis_url: str) -> None:
    async with BidLockManager(300, redis_url) as one, BidLockManager(300, redis_server.url(7)) as other:
        assert await one.acquire_lock("m", "p", timeout=0)
        assert await other.acquire_lock("m", "p", timeout=0)
        assert not await one.acquire_lock("m", "p", timeout=0)


async def test_a_unix_socket(redis_server: RedisServer, redis_url: str) -> None:
    url = f"unix://{redis_server.socket}?db=0"
    async with BidLockManager(300, url) as one, BidLockManager(300, redis_url) as other:
        assert await one.acquire_lock("m", "p", timeout=0)
        assert not await other.acquire_lock("m", "p", timeout=0)


async def test_a_closed_manager_leaves_no_connection(own_server: RedisServer) -> None:
    def connections() -> int:
        return len(own_server.client.client_list())

    before = connections()
    async with BidLockManager(300, own_server.url()) as manager:
        assert await manager.acquire_lock("m", "p")
        assert not await manager.acquire_lock("m", "p", timeout=0.2)
        assert before < connections() <= before + 2
        assert await manager.release_lock("m", "p")
    deadline = time.monotonic() + 20
    while connections() > before:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


# --- neighbours on the same keys ---


async def test_a_neighbour_that_took_the_key_under_the_same_name_keeps_it(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    lease = await manager.acquire_lease("m", "p", holder_id="scanner", auto_renew=False)
    redis_server.execute("DEL", "bid_lock:m:p")
    redis_server.execute("SET", "bid_lock:m:p", "scanner", "NX", "PX", 60_000)
    with pytest.raises(LockLostError):
        await lease.renew()
    assert not await lease.release()
    assert redis_server.execute("GET", "bid_lock:m:p") == "scanner"


async def test_a_lock_that_never_expires_is_respected(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    redis_server.execute("SET", "bid_lock:m:p", "someone")
    assert not await manager.acquire_lock("m", "p", timeout=0.2)
    (lock,) = (await manager.locks()).held
    assert (lock.holder_id, lock.is_expired) == ("someone", False)
    assert await manager.release_lock("m", "p", holder_id="someone")


async def test_a_key_of_another_kind_is_respected(manager: BidLockManager, redis_server: RedisServer) -> None:
    redis_server.execute("RPUSH", "bid_lock:m:p", "not", "a", "lock")
    assert not await manager.acquire_lock("m", "p", timeout=0.2)
    assert redis_server.execute("LLEN", "bid_lock:m:p") == 3


async def test_only_keys_of_locks_are_ever_deleted(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    redis_server.execute("SET", "session:7", "the application's own")
    await manager.acquire_lock("m", "p")
    assert not await manager.break_lock("session:7")
    assert await manager.break_lock("bid_lock:m:p")
    await manager.cleanup_all()
    assert redis_server.execute("GET", "session:7") == "the application's own"


async def test_a_broken_lock_wakes_its_waiter_whichever_name_it_is_broken_by(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    redis_server.execute("SET", "bid_lock:m:p", "an old process", "PX", 60_000)
    waiter = asyncio.create_task(manager.acquire_lock("m", "p", timeout=30))
    await asyncio.sleep(0.5)
    assert redis_server.execute("PUBSUB", "CHANNELS", "arbitrageai:lock:*")
    assert await manager.break_lock("bid_lock:m:p")
    assert await waiter


async def test_old_waiters_and_new_ones_take_turns(manager: BidLockManager, redis_url: str) -> None:
    old = OldManager(redis_url)
    inside = 0

    async def work(of: OldManager | BidLockManager, number: int) -> None:
        nonlocal inside
        for _ in range(5):
            async with of.with_lock("m", "p", timeout=60, holder_id=str(number)):
                assert inside == 0
                inside += 1
                await asyncio.sleep(0.001)
                inside -= 1

    await asyncio.gather(*(work((old, manager)[number % 2], number) for number in range(6)))
    await old.close()


# --- who is told of a release ---


async def test_a_release_is_published(manager: BidLockManager, redis_server: RedisServer) -> None:
    with redis_server.client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.psubscribe("arbitrageai:lock:*")
        assert heard.get_message(timeout=5) is None  # the subscription itself
        assert await manager.acquire_lock("m", "p")
        assert await manager.release_lock("m", "p")
        message = heard.get_message(timeout=5)
        assert message is not None
        assert await manager.acquire_lock("m", "other")
        await manager.cleanup_all()
        other = heard.get_message(timeout=5)
        assert other is not None
        assert other["channel"] != message["channel"]


async def test_a_waiter_looks_when_it_hears_of_a_release_and_not_of_others(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    def looks() -> int:
        calls: int = redis_server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
        return calls

    redis_server.execute("SET", "bid_lock:m:p", "someone", "PX", 60_000)
    waiter = asyncio.create_task(manager.acquire_lock("m", "p", timeout=60))
    await asyncio.sleep(0.5)
    (channel,) = redis_server.execute("PUBSUB", "CHANNELS", "arbitrageai:lock:*")
    before = looks()
    for _ in range(50):
        redis_server.execute("PUBLISH", channel + "1", "")
        await asyncio.sleep(0.02)
    assert looks() - before < 10  # the slow poll
    before = looks()
    for _ in range(50):
        redis_server.execute("PUBLISH", channel, "")
        await asyncio.sleep(0.02)
    assert looks() - before > 25
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter


# --- servers that come and go ---


async def test_a_restarted_server_has_forgotten_and_all_notice(own_server: RedisServer) -> None:
    async with BidLockManager(3, own_server.url(), on_lost="raise") as manager:
        lease = await manager.acquire_lease("m", "p")
        waiter = asyncio.create_task(manager.acquire_lease("m", "p", timeout=60))
        other = BidLockManager(3, own_server.url() + "?client_name=other")
        waiter_elsewhere = asyncio.create_task(other.acquire_lease("m", "p", timeout=60))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(own_server.restart)
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


@pytest.mark.parametrize("own_server", [{"durable": True}], indirect=True)
async def test_a_restarted_server_with_a_durable_log_has_lost_nothing(own_server: RedisServer) -> None:
    async with BidLockManager(30, own_server.url(), on_lost="raise") as manager:
        async with manager.with_lock("m", "p") as lease:
            waiter = asyncio.create_task(manager.acquire_lease("m", "p", timeout=60))
            await asyncio.to_thread(own_server.restart)
            assert await manager.acquire_lock("m", "q", timeout=60)
            await lease.renew()
        successor = await waiter
        assert successor.fencing_token > lease.fencing_token


async def test_health_is_that_of_now(own_server: RedisServer) -> None:
    manager = RedisBidLockManager(own_server.url())
    assert await manager.health_check()
    await asyncio.to_thread(own_server.restart)
    assert await manager.health_check()
    own_server.kill()
    started = time.monotonic()
    assert not await manager.health_check()
    assert time.monotonic() - started < 1
    await asyncio.to_thread(own_server.start)
    assert await manager.health_check()
    own_server._process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    assert not await manager.health_check()
    assert time.monotonic() - started < 4
    own_server._process.send_signal(signal.SIGCONT)
    await manager.close()


async def test_a_promoted_replica_takes_over(own_server: RedisServer) -> None:
    replica = RedisServer(settings={"replicaof": f"127.0.0.1 {own_server.port}"})
    try:
        async with TcpProxy(own_server.port) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}"
            async with BidLockManager(30, url, on_lost="raise") as manager:
                lease = await manager.acquire_lease("m", "p", timeout=10)
                deadline = time.monotonic() + 30
                while replica.execute("GET", "bid_lock:m:p") is None:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.02)
                own_server.kill()
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
            while time.monotonic() < stop:
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
        assert rounds > 10
        deadline = time.monotonic() + 20
        while (await direct.locks()).held:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        proxy.refuse()
        started = time.monotonic()
        assert not await manager.acquire_lock("m", "p", timeout=1)
        assert 0.9 < time.monotonic() - started < 5
        await manager.aclose()
        await direct.aclose()


class LastAnswerLost(TcpProxy):
    """Passes a script's request on, but not its answer, once it is told to; and nothing more after that."""

    losing = False
    lost = False

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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


async def test_a_server_that_stands_still_is_waited_for(own_server: RedisServer) -> None:
    async with BidLockManager(300, own_server.url()) as manager:
        assert await manager.acquire_lock("m", "p")
        own_server._process.send_signal(signal.SIGSTOP)
        acquiring = asyncio.create_task(manager.acquire_lock("m", "q", timeout=30))
        started = time.monotonic()
        assert not await manager.acquire_lock("m", "r", timeout=0.2)
        assert time.monotonic() - started < 3
        own_server._process.send_signal(signal.SIGCONT)
        assert await acquiring
        # What was given up while the server stood still is not left behind.
        deadline = time.monotonic() + 20
        while own_server.execute("GET", "bid_lock:m:r") is not None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def test_a_server_that_forgot_the_scripts_is_told_them_again(
    manager: BidLockManager, redis_server: RedisServer
) -> None:
    assert await manager.acquire_lock("m", "p")
    redis_server.execute("SCRIPT", "FLUSH")
    assert await manager.release_lock("m", "p")
    redis_server.execute("SCRIPT", "FLUSH")
    assert await manager.acquire_lock("m", "p", timeout=5)


async def test_a_server_without_memory_is_waited_for(own_server: RedisServer) -> None:
    async with BidLockManager(300, own_server.url()) as manager:
        assert await manager.acquire_lock("m", "p")
        own_server.execute("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(LockBackendError, match="OOM"):
            await manager.acquire_lock("m", "q", timeout=0.3, raise_on_error=True)
        acquiring = asyncio.create_task(manager.acquire_lock("m", "q", timeout=30))
        await asyncio.sleep(0.1)
        own_server.execute("CONFIG", "SET", "maxmemory", "0")
        assert await acquiring


# --- users, encryption ---

#: As `docs/locks.md` has it.
RULES = (
    "on ~bid_lock:* ~arbitrageai:* resetchannels &arbitrageai:lock:* "
    "+evalsha +script|load +time +get +set +pttl +pexpire +del +hget +hset "
    "+publish +subscribe +unsubscribe +scan +ping"
)


def test_the_documented_rules_are_the_tested_ones() -> None:
    page = (Path(__file__).parent.parent / "docs" / "locks.md").read_text()
    documented = re.search(r"ACL SETUSER \S+ (on .*?) >", page, re.DOTALL)
    assert documented is not None
    assert documented[1].replace("\\", " ").split() == RULES.split()


async def test_a_user_who_may_just_lock(own_server: RedisServer) -> None:
    own_server.execute("ACL", "SETUSER", "locker", *RULES.split(), ">pass word@1")
    url = own_server.url(user="locker:pass%20word%401")
    async with BidLockManager(300, url) as one, BidLockManager(300, url + "?client_name=other") as other:
        lease = await one.acquire_lease("m", "p")
        await lease.renew()
        waiter = asyncio.create_task(other.acquire_lock("m", "p", timeout=30))
        await asyncio.sleep(0.1)
        assert await lease.release()
        assert await waiter
        assert len((await one.locks()).held) == 1
        assert one.get_metrics()["active_locks"] == 1
        await one.cleanup_all()
        assert (await one.locks()).held == []
    # Nothing was tried that is not allowed. (`CLIENT SETINFO` is a courtesy, and may be refused.)
    refused = {entry["object"] for entry in own_server.client.acl_log()}
    assert refused <= {"client|setinfo", "client"}


async def test_a_user_who_may_not_publish_locks_all_the_same(own_server: RedisServer) -> None:
    rules = [rule for rule in RULES.split() if not rule.startswith("&")]
    own_server.execute("ACL", "SETUSER", "locker", *rules, ">secret-word")
    url = own_server.url(user="locker:secret-word")
    async with BidLockManager(300, url) as one, BidLockManager(300, url + "?client_name=other") as other:
        lease = await one.acquire_lease("m", "p")
        waiter = asyncio.create_task(other.acquire_lock("m", "p", timeout=30))
        await asyncio.sleep(0.3)
        assert await lease.release()
        assert await waiter


async def refused(manager: BidLockManager, caplog: pytest.LogCaptureFixture, timeout: float = 30) -> str:
    """The message of a manager that can't use its server, and knows it at once."""
    started = time.monotonic()
    with caplog.at_level(logging.ERROR), pytest.raises(LockBackendError) as raised:
        await manager.acquire_lock("m", "p", timeout=timeout, raise_on_error=True)
    assert time.monotonic() - started < 5
    assert not await manager.acquire_lock("m", "p", timeout=min(timeout, 0.1))
    assert "secret" not in f"{raised.value} {raised.value.__cause__} {caplog.text} {manager!r}"
    return str(raised.value)


@pytest.mark.parametrize("own_server", [{"password": "right"}], indirect=True)
async def test_a_wrong_password(own_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    for user in ("someone:secret-word", ":secret-word"):
        message = await refused(BidLockManager(300, own_server.url(user=user)), caplog)
        assert "name or password" in message
    assert "NOAUTH" in await refused(BidLockManager(300, own_server.url()), caplog)
    async with BidLockManager(300, own_server.url(user=":right")) as manager:
        assert await manager.acquire_lock("m", "p")


async def test_a_user_who_may_not(own_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    own_server.execute("ACL", "SETUSER", "reader", "on", "~*", "+get", ">secret-word")
    manager = BidLockManager(300, own_server.url(user="reader:secret-word"))
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
                await asyncio.sleep(0.1)
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
