"""`/health`, `/metrics` and `/native/data` over a real uvicorn: what they answer, and whom they hold up."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import prometheus_client
import pytest
from fastapi import Depends, FastAPI, HTTPException
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from arbitrageai_native import BidLockManager, LoopMonitor, llm_health_check
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from arbitrageai_native.integrations.fastapi import router
from arbitrageai_native.integrations.starlette import routes
from testing_support.servers.uvicorn import serving
from testing_support.waiting import until_waiting
from tests.conftest import MakeManager

PATHS = ("/health", "/metrics", "/native", "/native/data")
SECRET = "secret-word"


@pytest.fixture(autouse=True)
def no_breakers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_health_check, "_global_health_checker", None)


@asynccontextmanager
async def asking(application: Any = None, **arguments: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application with the router."""
    if application is None:
        application = FastAPI()
        application.include_router(router(**arguments))
    # `verify`: to load certificates takes time, on the loop, and none is needed.
    async with (
        serving(application) as url,
        httpx.AsyncClient(base_url=url, timeout=30, verify=False) as client,
    ):
        yield client


async def test_all_is_well_with_databases_that_answer(make_manager: MakeManager) -> None:
    async with asking(locks=[make_manager(), make_manager()]) as client:
        answer = await client.get("/health")
        while answer.status_code != 200 and "in time" in answer.text:  # the machine is busy
            answer = await client.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "problems": []})
        assert (await client.head("/health")).status_code == 200


async def test_the_locks_of_every_kind_of_database_are_told(make_manager: MakeManager) -> None:
    manager = make_manager()
    async with asking(locks={"bids": manager}) as client, manager.with_lock("upwork", "7", holder_id="one"):
        waiting = asyncio.create_task(manager.acquire_lock("upwork", "7", 30, "two"))
        await until_waiting(manager, 1)
        told = (await client.get("/native/data")).json()
        waiting.cancel()
    (bids,) = told["locks"]
    assert (bids["name"], bids["problem"]) == ("bids", None)
    (held,), (waiter,) = bids["held"], bids["waiting"]
    assert (held["key"].replace("_", ":"), held["holder"]) == ("bid:lock:upwork:7", "one")
    assert held["until"] - held["since"] == pytest.approx(300, abs=5)
    assert held["remaining"] == pytest.approx(300, abs=5)
    assert (waiter["key"], waiter["holder"]) == (held["key"], "two")
    assert 0 < waiter["seconds"] < 5


async def test_a_redis_manager_is_told_like_any_other(redis_url: str) -> None:
    manager = RedisBidLockManager(redis_url)
    async with asking(locks=manager) as client:
        assert (await client.get("/health")).status_code == 200
        async with manager.with_lock("upwork", "7", holder_id="one"):
            (locks,) = (await client.get("/native/data")).json()["locks"]
            assert [lock["holder"] for lock in locks["held"]] == ["one"]
    await manager.close()


async def test_a_database_that_is_not_there_is_told_of_without_its_password(unused_tcp_port: int) -> None:
    url = f"postgresql://user:{SECRET}@127.0.0.1:{unused_tcp_port}/bids"
    async with BidLockManager(60, url) as manager, asking(locks={"bids": manager}) as client:
        health = await client.get("/health")
        assert health.status_code == 503
        assert health.json()["status"] == "failing"
        (problem,) = health.json()["problems"]
        assert problem.startswith("bids: ")
        data = await client.get("/native/data")
        assert data.json()["locks"][0]["problem"]
        assert SECRET not in health.text + data.text


async def test_a_database_that_keeps_silent_is_waited_for_a_second_and_holds_nobody_up() -> None:
    async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    ended = asyncio.Event()
    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    manager = BidLockManager(60, f"postgresql://user:{SECRET}@127.0.0.1:{port}/bids")
    clock = asyncio.get_running_loop().time
    async with asking(locks=[manager, BidLockManager(60, "sqlite://")]) as client:
        for path, status in (("/health", 503), ("/native/data", 200)):
            start, others = clock(), 0
            waiting = asyncio.create_task(client.get(path))
            while not waiting.done():
                assert (await client.get("/native")).status_code == 200
                others += 1
            answer = await waiting
            assert answer.status_code == status
            assert 0.9 < clock() - start < 5
            assert others >= 3
            assert "locks 1" in answer.text
            assert "did not answer in time" in answer.text
    ended.set()
    silent.close()
    await silent.wait_closed()
    await manager.aclose()


async def test_an_open_breaker_makes_it_unwell_until_a_probe_is_wanted() -> None:
    checker = llm_health_check.get_health_checker()
    endpoint = f"http://user:{SECRET}@127.0.0.1:11434/v1?key={SECRET}"
    checker.register_endpoint(endpoint, failure_threshold=1, recovery_timeout_seconds=1)
    async with asking() as client:
        assert (await client.get("/health")).status_code == 200
        checker.record_failure(endpoint)
        answer = await client.get("/health")
        assert answer.status_code == 503
        assert answer.json()["problems"] == ["http://127.0.0.1:11434/v1: the circuit is open"]
        await asyncio.sleep(1.1)
        # A load balancer that sent nothing more would keep the circuit open for ever.
        assert (await client.get("/health")).status_code == 200
        (circuit,) = (await client.get("/native/data")).json()["circuits"]
        assert circuit["endpoint"] == "http://127.0.0.1:11434/v1"


async def test_what_the_applications_own_session_says_is_not_passed_on(sqlite_url: str) -> None:
    def get_db() -> None:
        raise ConnectionError(f"no such user: {SECRET}")

    manager = BidLockManager(60, sqlite_url)
    manager._get_db = get_db  # type: ignore[method-assign]
    async with asking(locks=manager) as client:
        health, data = await client.get("/health"), await client.get("/native/data")
    assert health.json()["problems"] == ["locks: where the locks are can't be told: ConnectionError"]
    assert SECRET not in health.text + data.text


async def test_of_many_locks_the_first_are_told(sqlite_url: str) -> None:
    async with BidLockManager(60, sqlite_url) as manager, asking(locks=manager) as client:
        leases = await manager.lock_many([("upwork", f"{number:03}") for number in range(201)])
        waiting = [asyncio.create_task(manager.acquire_lock("upwork", "000", 30)) for _ in range(201)]
        await until_waiting(manager, 201)
        (locks,) = (await client.get("/native/data")).json()["locks"]
        for waiter in waiting:
            waiter.cancel()
        assert (len(locks["held"]), locks["more_held"]) == (200, True)
        assert (len(locks["waiting"]), locks["more_waiting"]) == (200, True)
        assert locks["held"][-1]["key"].endswith(":199")
        seconds = [waiter["seconds"] for waiter in locks["waiting"]]
        assert seconds == sorted(seconds, reverse=True)
        await leases[0].release()
        (locks,) = (await client.get("/native/data")).json()["locks"]
        assert (len(locks["held"]), locks["more_held"], locks["more_waiting"]) == (200, False, False)


async def test_a_row_that_another_program_wrote_amiss_is_told_all_the_same(tmp_path: Path) -> None:
    async with BidLockManager(60, f"sqlite:///{tmp_path / 'locks.db'}") as manager:
        assert await manager.acquire_lock("upwork", "7")
        with sqlite3.connect(tmp_path / "locks.db") as database:
            database.execute("UPDATE distributed_locks SET expires_at = 9e999")
        database.close()
        async with asking(locks=manager) as client:
            (locks,) = (await client.get("/native/data")).json()["locks"]
            assert (locks["held"][0]["until"], locks["held"][0]["remaining"]) == (None, None)


async def test_metrics_are_prometheus_text_of_this_package_alone_or_of_a_registry(sqlite_url: str) -> None:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Gauge("bids_open", "Bids that are open.", registry=registry).set(3)
    async with (
        BidLockManager(60, sqlite_url) as manager,
        asking() as client,
        asking(registry=registry) as other,
    ):
        await manager.acquire_lock("upwork", "7")
        answer = await client.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        families = list(text_string_to_metric_families(answer.text))
        (attempts,) = (family for family in families if family.name == "arbitrageai_native_lock_attempts")
        assert attempts.samples[0].value >= 1
        assert all(family.name.startswith("arbitrageai_native_") for family in families)
        openmetrics = await client.get("/metrics", headers={"accept": "application/openmetrics-text"})
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        assert openmetrics.text.endswith("# EOF\n")
        assert "bids_open 3.0" in (await other.get("/metrics")).text


async def test_metrics_without_prometheus_client_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setitem(sys.modules, "prometheus_client.exposition", None)
    async with asking() as client:
        answer = await client.get("/metrics")
        assert answer.status_code == 501
        assert "pip install 'arbitrageai-native[prometheus]'" in answer.text


async def test_dependencies_stand_before_everything() -> None:
    def nobody() -> None:
        raise HTTPException(401)

    async with asking(dependencies=[Depends(nobody)], prefix="/internal") as client:
        for path in PATHS:
            assert (await client.get(f"/internal{path}")).status_code == 401


async def test_no_answer_is_kept_by_caches_and_the_page_may_load_nothing() -> None:
    async with asking() as client:
        for path in PATHS:
            answer = await client.get(path)
            assert answer.headers["cache-control"] == "no-store", path
            assert answer.headers["x-content-type-options"] == "nosniff", path
        policy = (await client.get("/native")).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


async def test_the_loop_is_watched_while_the_application_runs() -> None:
    async with asking() as client:
        monitor = LoopMonitor.of_running_loop()
        assert monitor is not None
        told = (await client.get("/native/data")).json()["loop"]
        assert told["threshold"] == 0.1
        assert told["worst"] >= max(told["recent"]) > 0
    assert not monitor.is_installed


async def test_a_monitor_that_is_there_is_asked_and_left_alone() -> None:
    async with LoopMonitor(threshold=0.25) as monitor:
        async with asking() as client:
            assert (await client.get("/native/data")).json()["loop"]["threshold"] == 0.25
        assert monitor.is_installed


async def test_a_monitor_that_is_given_is_installed() -> None:
    monitor = LoopMonitor(threshold=0.5)
    async with asking(monitor=monitor) as client:
        assert LoopMonitor.of_running_loop() is monitor
        assert (await client.get("/native/data")).json()["loop"]["threshold"] == 0.5
    assert not monitor.is_installed


async def test_starlette_has_the_same(sqlite_url: str) -> None:
    async with BidLockManager(60, sqlite_url) as manager:
        application = Starlette(routes=[Mount("/internal", routes=routes(locks=manager))])
        async with asking(application) as client:
            assert (await client.get("/internal/health")).json() == {"status": "ok", "problems": []}
            assert "<title>" in (await client.get("/internal/native")).text
            # Nobody has told it that the application started.
            assert LoopMonitor.of_running_loop() is None
            assert (await client.get("/internal/native/data")).json()["loop"]["threshold"] == 0.1
            monitor = LoopMonitor.of_running_loop()
            assert monitor is not None
            monitor.uninstall()


@pytest.mark.parametrize("make", [router, routes])
def test_something_else_than_managers_or_a_monitor_is_refused(make: Any) -> None:
    with pytest.raises(
        TypeError, match="locks: locks must be a BidLockManager or a RedisBidLockManager, not 5"
    ):
        make(locks=[5])
    with pytest.raises(TypeError, match="locks: bids must be a BidLockManager"):
        make(locks={"bids": None})
    with pytest.raises(TypeError, match="locks must be lock managers, not 'sqlite://'"):
        make(locks="sqlite://")
    with pytest.raises(TypeError, match="locks must be lock managers, not 5"):
        make(locks=5)
    with pytest.raises(TypeError, match=r"monitor must be a LoopMonitor, not 0\.1"):
        make(monitor=0.1)
    with pytest.raises(TypeError, match=r"registry must be a prometheus_client\.CollectorRegistry, not 'x'"):
        make(registry="x")


@pytest.mark.parametrize(
    ("module", "framework", "remedy"),
    [
        ("fastapi", "fastapi", "'arbitrageai-native[fastapi]'"),
        ("starlette", "starlette.routing", "pip install starlette"),
    ],
)
def test_without_the_framework_the_import_says_what_to_install(
    module: str, framework: str, remedy: str
) -> None:
    program = (
        f"import sys; sys.modules['{framework}'] = None; import arbitrageai_native.integrations.{module}"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 1
    assert remedy in finished.stderr


def test_the_package_alone_imports_no_framework() -> None:
    program = (
        "import sys, arbitrageai_native.integrations; assert not {'fastapi', 'starlette'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
