"""Nobody is passed over for long beside a busy process. `benchmarks/lock_fairness.py` is the long form."""

from __future__ import annotations

import asyncio

import pytest

from testing_support.lock_fairness import busy_process, waits


@pytest.mark.serial
@pytest.mark.parametrize(
    ("tasks", "hold", "processes"),
    [(10, 0.02, 1), (3, 0.2, 1), (10, 0.02, 3)],
    ids=["short holds", "long holds", "several wait"],
)
async def test_processes_that_wait_beside_a_busy_one_get_the_lock(
    shared_url: str, tasks: int, hold: float, processes: int
) -> None:
    with busy_process(shared_url, tasks, hold) as busy:
        found = await asyncio.to_thread(waits, shared_url, processes, 3)
        assert busy.poll() is None
    # The promise is 2 s, where the machine has time for all processes.
    assert max(wait for process in found for wait in process) < 5, found
