"""`metrics()` counts all that the process does, and goes on doing so when those who did it are gone."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from arbitrageai_native import (
    AsyncOpenAI,
    BidLockManager,
    LLMService,
    LoopMonitor,
    OpenAI,
    exceptions,
    metrics,
)
from arbitrageai_native._native import Probe
from arbitrageai_native.llm_health_check import get_health_checker
from arbitrageai_native.testing import Answer, Failure, ModelServer
from testing_support.keys import KEY
from testing_support.ports import free_port
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import DONE, FaultyServer, chunk
from testing_support.waiting import until
from tests.bridge.test_fork import run_scenario

Serve = Callable[..., FaultyServer]


@pytest.fixture
def model() -> str:
    """A name that no other test calls: what it counts is this test's."""
    return f"model-{uuid.uuid4().hex}"


def of_model(model: str) -> dict[str, Any]:
    figures: dict[str, Any] = metrics()["llm"]["models"][model]
    return figures


def outcomes(model: str) -> dict[str, int]:
    """Those that occurred."""
    return {outcome: count for outcome, count in of_model(model)["calls"].items() if count}


def service(base_url: str, model: str, **settings: Any) -> LLMService:
    settings = {"max_retries": 0, "enable_circuit_breaker": False, **settings}
    return LLMService(base_url=base_url, api_key=KEY, model=model, **settings)


# Calls


async def test_calls_are_counted_by_model_and_outcome(model: str) -> None:
    async with ModelServer() as server:
        client = service(server.base_url, model, max_retries=1, retry_base=0.01)
        server.script(
            Answer("one", usage={"prompt_tokens": 3, "completion_tokens": 4}),
            Failure(500),
            Answer("two", usage={"prompt_tokens": 30, "completion_tokens": 40}),
            Failure(404),
            Failure(404),
        )
        await client.complete_async("hi")
        await client.complete_async("hi", model=model)
        for _ in range(2):
            with pytest.raises(exceptions.NotFoundError):
                await client.complete_async("hi")
        assert outcomes(model) == {"success": 2, "status": 2}
        figures = of_model(model)
        assert (figures["retries"], figures["in_flight"]) == (1, 0)
        assert figures["tokens"] == {"prompt": 33, "completion": 44}
        response = figures["response_seconds"]
        assert len(response["counts"]) == len(response["bounds"]) + 1
        assert sum(response["counts"]) == 2
        assert 0 < response["sum"] < 10


async def test_a_timeout_a_cancelled_call_and_a_lost_connection_are_told_apart(
    serve: Serve, model: str
) -> None:
    client = service(serve(faulty.hang).base_url, model)
    with pytest.raises(exceptions.APITimeoutError):
        await client.complete_async("hi", timeout=0.05)
    task = asyncio.create_task(client.complete_async("hi"))
    await until(lambda: of_model(model)["in_flight"] == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: of_model(model)["in_flight"] == 0)
    with pytest.raises(exceptions.APIConnectionError):
        await service(serve(faulty.close).base_url, model).complete_async("hi")
    assert outcomes(model) == {"timeout": 1, "cancelled": 1, "connection": 1}
    assert client.metrics()["cancelled"] == 1


async def test_streams_are_counted_whole_broken_and_left_early(serve: Serve, model: str) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11}
    whole = faulty.stream(chunk("a"), chunk("b", usage=usage), DONE)
    assert list(service(serve(whole).base_url, model).complete_streaming("hi")) == ["a", "b"]
    broken = service(serve(faulty.stream(chunk("a"))).base_url, model)
    with pytest.raises(exceptions.APIConnectionError):
        [piece async for piece in broken.complete_streaming_async("hi")]
    endless = serve(faulty.stream(chunk("a"), ending="hang"))
    async with service(endless.base_url, model).complete_streaming_async("hi") as pieces:
        async for _ in pieces:
            assert of_model(model)["in_flight"] == 1
            break
    await until(lambda: of_model(model)["in_flight"] == 0)
    assert outcomes(model) == {"success": 1, "connection": 1, "cancelled": 1}
    assert of_model(model)["tokens"] == {"prompt": 5, "completion": 6}


async def test_calls_of_the_native_clients_count(serve: Serve, model: str) -> None:
    server = serve(faulty.answer())
    for client in (
        OpenAI(base_url=server.base_url, api_key=KEY),
        AsyncOpenAI(base_url=server.base_url, api_key=KEY),
    ):
        answer = client.chat.completions.create(model=model, messages=[])
        if isinstance(client, AsyncOpenAI):
            await answer
    assert outcomes(model) == {"success": 2}
    assert of_model(model)["tokens"] == {"prompt": 6, "completion": 8}


async def test_what_a_service_counted_outlives_it(serve: Serve, model: str) -> None:
    server = serve(faulty.answer())
    for _ in range(3):
        await service(server.base_url, model).complete_async("hi")
        gc.collect()
    assert outcomes(model) == {"success": 3}


async def test_a_blocking_call_from_a_loop_is_counted(serve: Serve, model: str) -> None:
    before = metrics()["llm"]["blocking_calls_in_loop"]
    service(serve(faulty.answer()).base_url, model).complete("hi")
    assert metrics()["llm"]["blocking_calls_in_loop"] == before + 1


# Foreign clients


def foreign(model: str, create: Any) -> LLMService:
    client = service("http://localhost:1/v1", model)
    client.client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    return client


def completion(**_: Any) -> Any:
    message = SimpleNamespace(content="theirs")
    usage = SimpleNamespace(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    return SimpleNamespace(choices=[SimpleNamespace(message=message)], model="theirs", usage=usage)


def failing(**_: Any) -> Any:
    raise ValueError("theirs")


async def endless(**_: Any) -> None:
    await asyncio.Event().wait()


async def test_calls_of_a_foreign_client_count(model: str) -> None:
    answering = foreign(model, completion)
    answering.complete("hi")
    await answering.complete_async("hi")
    with pytest.raises(ValueError, match="theirs"):
        await foreign(model, failing).complete_async("hi")
    task = asyncio.create_task(foreign(model, endless).complete_async("hi"))
    await until(lambda: of_model(model)["in_flight"] == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert outcomes(model) == {"success": 2, "foreign": 1, "cancelled": 1}
    figures = of_model(model)
    assert figures["in_flight"] == 0
    assert figures["tokens"] == {"prompt": 2, "completion": 4}
    assert sum(figures["response_seconds"]["counts"]) == 2


async def test_streams_of_a_foreign_client_count(model: str) -> None:
    def chunks(**_: Any) -> Any:
        usage = SimpleNamespace(prompt_tokens=7, completion_tokens=8, total_tokens=15)
        delta = SimpleNamespace(content="a")
        return [SimpleNamespace(choices=[SimpleNamespace(delta=delta)], usage=usage)] * 2

    client = foreign(model, chunks)
    assert list(client.complete_streaming("hi")) == ["a", "a"]
    with client.complete_streaming("hi") as pieces:
        assert next(pieces) == "a"
    forgotten = client.complete_streaming("hi")
    assert next(forgotten) == "a"
    del forgotten
    gc.collect()
    assert outcomes(model) == {"success": 1, "cancelled": 2}
    assert of_model(model)["tokens"] == {"prompt": 7, "completion": 8}


def test_a_mocks_usage_is_none(model: str) -> None:
    client = service("http://localhost:1/v1", model)
    client.client = MagicMock()
    client.complete("hi")
    assert outcomes(model) == {"success": 1}
    assert of_model(model)["tokens"] == {"prompt": 0, "completion": 0}


# Circuits


async def test_a_circuit_that_opens_is_seen(
    serve: Serve, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbitrageai_native.llm_health_check._global_health_checker", None)
    server = serve(faulty.answer(status=500))
    client = service(server.base_url, model, enable_circuit_breaker="always")
    for _ in range(3):
        with pytest.raises(exceptions.InternalServerError):
            await client.complete_async("hi")
    with pytest.raises(exceptions.CircuitBreakerError):
        await client.complete_async("hi")
    (circuit,) = metrics()["circuits"].values()
    assert abs(circuit.pop("opened_at") - time.time()) < 60
    assert circuit == {"state": "open", "consecutive_failures": 3, "total_requests": 3, "total_failures": 3}
    assert list(metrics()["circuits"]) == [server.base_url]
    assert outcomes(model) == {"status": 3, "circuit_open": 1}


def test_an_endpoints_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbitrageai_native.llm_health_check._global_health_checker", None)
    assert metrics()["circuits"] == {}
    checker = get_health_checker()
    for secret in ("first", "second"):
        checker.register_endpoint(f"https://me:{secret}@host:8/v1?api-key={secret}", failure_threshold=1)
    checker.record_failure("https://me:first@host:8/v1?api-key=first")
    checker.health_status["strange"] = object()  # type: ignore[assignment]
    assert {endpoint: circuit["state"] for endpoint, circuit in metrics()["circuits"].items()} == {
        "https://host:8/v1": "open"
    }


# Locks


def grown(before: dict[str, Any]) -> dict[str, int]:
    """What the process has counted of locks since then."""
    now = metrics()["locks"]
    return {
        name: now[name] - count
        for name, count in before.items()
        if isinstance(count, int) and now[name] != count
    }


def times(histogram: dict[str, Any]) -> int:
    return sum(histogram["counts"])


@pytest.mark.parametrize("url", ["sqlite_url", "postgres_url"])
async def test_locks_are_counted_and_their_counts_outlive_managers(
    url: str, request: pytest.FixtureRequest
) -> None:
    before = metrics()["locks"]
    locks = BidLockManager(60, request.getfixturevalue(url))
    async with locks.with_lock("upwork", "1") as lease:
        assert grown(before) == {"attempts": 1, "successes": 1, "held": 1}
        assert not await locks.acquire_lock("upwork", "1", timeout=0.05)
        waiter = asyncio.create_task(locks.acquire_lock("upwork", "1", timeout=30))
        await until(lambda: metrics()["locks"]["waiting"] == before["waiting"] + 1)
        await lease.renew()
    assert await waiter
    assert await locks.release_lock("upwork", "1")
    lost = await locks.acquire_lease("upwork", "2")
    assert await locks.break_lock(lost.key)
    with pytest.raises(exceptions.LockLostError):
        await lost.renew()
    await locks.aclose()
    del locks, lease, lost
    gc.collect()
    assert grown(before) == {
        "attempts": 4,
        "successes": 3,
        "conflicts": 2,
        "timeouts": 1,
        "hand_offs": 1,
        "renewals": 1,
        "losses": 1,
    }
    now = metrics()["locks"]
    assert times(now["wait_seconds"]) - times(before["wait_seconds"]) == 4
    assert times(now["hold_seconds"]) - times(before["hold_seconds"]) == 2, "one as a lease, one by name"
    assert now["wait_seconds"]["sum"] - before["wait_seconds"]["sum"] > 0.05


async def test_a_database_that_is_away_is_counted() -> None:
    before = metrics()["locks"]
    locks = BidLockManager(60, f"postgresql://postgres@127.0.0.1:{free_port()}/x")
    assert not await locks.acquire_lock("upwork", "1", timeout=0.1)
    counted = grown(before)
    assert counted.pop("backend_errors") >= 1
    assert counted == {"attempts": 1}


async def test_a_lock_whose_time_ran_out_is_held_no_more(sqlite_url: str) -> None:
    before = metrics()["locks"]
    async with BidLockManager(2, sqlite_url, auto_renew=False) as locks:
        assert await locks.acquire_lock("upwork", "1")
        assert grown(before)["held"] == 1
        await until(lambda: "held" not in grown(before))


# Loop, bridge, process


async def test_lags_are_counted_while_watched_and_after_it() -> None:
    before = metrics()["loop"]
    async with LoopMonitor(0.05):
        await asyncio.sleep(0.01)
        assert metrics()["loop"]["monitors"] == before["monitors"] + 1
        time.sleep(0.1)  # noqa: ASYNC251 - that is what is to be seen
        assert metrics()["loop"]["current_seconds"] >= 0.1
        await asyncio.sleep(0.01)
        during = metrics()["loop"]
        assert during["stalls"] == before["stalls"] + 1
        assert during["worst_seconds"] >= 0.1
    after = metrics()["loop"]
    assert after["monitors"] == before["monitors"]
    assert after["stalls"] == during["stalls"]
    assert times(after["lag_seconds"]) >= times(during["lag_seconds"]) > times(before["lag_seconds"])
    assert after["lag_seconds"]["sum"] >= during["lag_seconds"]["sum"]


async def test_calls_under_way_are_seen() -> None:
    before = metrics()["bridge"]["calls_under_way"]
    waits = [asyncio.ensure_future(Probe.guarded(30)) for _ in range(3)]
    await until(lambda: metrics()["bridge"]["calls_under_way"] == before + 3)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await until(lambda: metrics()["bridge"]["calls_under_way"] == before)


async def test_it_is_plain_json_from_any_thread() -> None:
    figures = await asyncio.to_thread(metrics)
    assert list(figures) == ["llm", "locks", "loop", "bridge", "circuits"]
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


FORK = """
import json
from arbitrageai_native import BidLockManager, LLMService, LoopMonitor, metrics

service = LLMService(base_url={base_url!r}, api_key="key", model="m")
locks = BidLockManager(database_url={database_url!r})

async def work():
    async with LoopMonitor(), locks.with_lock("upwork", "1"):
        await service.complete_async("Bid?")

def counted():
    figures = metrics()
    calls = sum(figures["llm"]["models"].get("m", {{"calls": {{}}}})["calls"].values())
    lags = sum(figures["loop"]["lag_seconds"]["counts"])
    return calls, figures["locks"]["attempts"], figures["locks"]["held"], lags > 0

async def main():
    await work()
    await work()
    held = await locks.acquire_lease("upwork", "2")
    slow = asyncio.ensure_future(service.complete_async("Bid?"))
    while metrics()["llm"]["models"]["m"]["in_flight"] == 0:
        await asyncio.sleep(0.01)
    child = os.fork()
    if child == 0:
        asyncio._set_running_loop(None)
        ok = counted() == (0, 0, 0, False)
        del slow
        gc.collect()
        asyncio.run(work())
        os._exit(0 if ok and counted() == (1, 1, 0, True) else 1)
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
        await asyncio.sleep(0.01)
    assert os.waitstatus_to_exitcode(status[1]) == 0
    await slow
    assert counted() == (3, 3, 1, True), counted()
    await held.release()

asyncio.run(main())
"""


def test_a_forked_child_begins_at_zero(tmp_path: Any) -> None:
    with ModelServer.in_subprocess(delay=1) as server:
        run_scenario(FORK.format(base_url=server.base_url, database_url=f"sqlite:///{tmp_path / 'locks.db'}"))
