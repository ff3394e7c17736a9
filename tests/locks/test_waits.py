"""Waiting for locks: it ends soon, in turn, on time, and costs next to nothing meanwhile.

The bounds leave room for a busy machine; `python -m benchmarks run waiting` gives the figures.
"""

from __future__ import annotations

import asyncio

import pytest

from testing_support import ticker
from testing_support.lock_waits import crowd, idle_cost, lock_all_the_time, queue, takeover
from testing_support.machine import Stopwatch
from testing_support.servers.postgres import PostgresServer
from testing_support.servers.tcp_proxy import TcpProxy
from tests.llm import loop_watch


async def test_an_expired_lock_of_another_is_taken_over_soon(shared_url: str) -> None:
    assert 0 <= await takeover(shared_url) < 5


async def test_waiters_follow_each_other_without_pause(shared_url: str) -> None:
    assert (await queue(shared_url, 20, 0.005)).seconds < 3  # 20 waiters that poll would take twice as long


async def test_a_crowd_is_served_or_times_out_on_time(shared_url: str) -> None:
    watch = Stopwatch()
    outcome = await crowd(shared_url, 500, timeout=1, hold=0.005)
    assert outcome.served + outcome.timed_out == 500
    assert outcome.served > (10 if watch.held_up < 0.5 else 0)
    assert outcome.timed_out > 10
    assert outcome.latest < 5 + watch.held_up


@pytest.mark.serial
async def test_waiting_for_a_server_costs_few_statements(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    async with TcpProxy(postgres_server.port) as proxy:
        url = postgres_url.replace(str(postgres_server.port), str(proxy.port))
        cost = await idle_cost(url, 200, 3, lambda: proxy.requests, others_url=postgres_url)
    assert 1 < cost.statements < 8
    assert cost.cpu < 0.2


@pytest.mark.serial
async def test_waiting_for_a_file_costs_little_time(sqlite_url: str) -> None:
    assert (await idle_cost(sqlite_url, 200, 2)).cpu < 0.2


@pytest.mark.serial
async def test_locking_keeps_the_loop_free(shared_url: str) -> None:
    with ticker.control() as control, loop_watch.watched() as watch:
        stop = watch.tick_in(asyncio.get_running_loop())
        await lock_all_the_time(shared_url, 1.0)
        stop()
        # While the thread has no processor, all hundred tasks come due, and then go on one after the other.
        # Together they take long then, in a debug build above all; each is judged all the same.
        watch.late = [
            late
            for late in watch.late
            if isinstance(late, loop_watch.LateCallback) or late.span.queued < 0.001
        ]
        watch.judge(control)
