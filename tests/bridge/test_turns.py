"""Taking turns: a burst of calls doesn't stop the loop for as long as all of them take to start."""

import asyncio

from arbitrageai_native._native import Probe, turn

CROWD = 128


async def start_call() -> int:
    """The loop's iteration in which the call could start."""
    await turn()
    iteration = iterations
    await Probe.noop()
    return iteration


iterations = 0


async def count_iterations() -> None:
    global iterations
    iterations = 0
    while True:
        iterations += 1
        await asyncio.sleep(0)


async def test_a_few_calls_start_at_once():
    counter = asyncio.ensure_future(count_iterations())

    started = await asyncio.gather(*(start_call() for _ in range(CROWD)))

    counter.cancel()
    assert len(set(started)) == 1


async def test_a_burst_starts_in_bounded_portions():
    counter = asyncio.ensure_future(count_iterations())

    started = await asyncio.gather(*(start_call() for _ in range(10 * CROWD)))

    counter.cancel()
    assert started == sorted(started)
    assert max(started.count(iteration) for iteration in set(started)) <= CROWD


async def test_a_turn_can_be_cancelled_while_it_is_waited_for():
    tasks = [asyncio.ensure_future(start_call()) for _ in range(3 * CROWD)]
    await asyncio.sleep(0)
    for task in tasks[2 * CROWD :]:
        task.cancel()

    results = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(result, asyncio.CancelledError) for result in results[2 * CROWD :])
    assert all(isinstance(result, int) for result in results[: 2 * CROWD])
    await asyncio.wait_for(start_call(), 5)
