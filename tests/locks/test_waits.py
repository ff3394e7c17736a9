"""Waiting for locks: it ends soon, in turn, on time, and costs next to nothing meanwhile.

The bounds leave room for a busy machine; `python -m benchmarks run waiting` gives the figures.
"""

from __future__ import annotations

import statistics

from testing_support.lock_waits import crowd, idle_cost, loop_excess, queue, takeover
from testing_support.servers.postgres import PostgresServer


async def test_an_expired_lock_of_another_is_taken_over_soon(shared_url: str) -> None:
    delays = [await takeover(shared_url) for _ in range(5)]
    assert min(delays) >= 0
    assert statistics.median(delays) < 0.15  # a third of the slow poll: the expiry itself wakes up


async def test_waiters_follow_each_other_without_pause(shared_url: str) -> None:
    ratios = [(await queue(shared_url, 20, 0.005)).ratio for _ in range(3)]
    assert min(ratios) < 3


async def test_a_crowd_is_served_or_times_out_on_time(shared_url: str) -> None:
    outcome = await crowd(shared_url, 500, timeout=1, hold=0.005)
    assert outcome.served + outcome.timed_out == 500
    assert outcome.served > 10
    assert outcome.timed_out > 10
    assert outcome.latest < 2


async def test_waiting_for_a_server_costs_few_statements(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    def count() -> int:
        query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'"
        return int(postgres_server.execute(query))

    cost = await idle_cost(postgres_url, 1000, 6, count, settled=12)
    assert 1 < cost.statements < 8
    assert cost.cpu < 0.2


async def test_waiting_for_a_file_costs_little_time(sqlite_url: str) -> None:
    assert (await idle_cost(sqlite_url, 1000, 3)).cpu < 0.2


async def test_locking_keeps_the_loop_free(shared_url: str) -> None:
    # What blocks does so every time; what else the machine does, it does not.
    assert min([await loop_excess(shared_url, 2.0) for _ in range(3)]) < 0.02
