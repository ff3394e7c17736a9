"""A process forks with calls and locks done and in flight: parent and child both complete new ones.

Each scenario runs in an interpreter of its own, so that it is the scenario, not the test runner, that forks.
"""

from pathlib import Path

import pytest

from arbitrageai_native.testing import ModelServer
from tests.bridge.test_fork import run_scenario

SERVICES = """
import logging

from arbitrageai_native import BidLockManager, LLMService

logging.disable()  # the child's attempt at the parent's lock is logged as an error
service = LLMService(base_url={base_url!r}, api_key="key", enable_circuit_breaker="always")
locks = BidLockManager(database_url={database_url!r})

async def use(name):
    async with locks.with_lock("upwork", name, timeout=10) as lease:
        answer = await service.complete_async("Bid?")
        assert answer["content"] == "Bid?" and lease.is_held
    assert await locks.acquire_lock("fiverr", name, timeout=10)
    assert await locks.release_lock("fiverr", name)

def succeeds(name):
    asyncio.run(use(name))
    return True
"""

FORK_IN_FLIGHT = """
async def main():
    await use("before")
    held = await locks.acquire_lease("upwork", "parents")
    flight = [asyncio.ensure_future(use(f"flight-{number}")) for number in range(20)]
    await asyncio.sleep(0.05)
    child = os.fork()
    if child == 0:
        asyncio._set_running_loop(None)
        ok = succeeds("child")
        ok = ok and not held.is_held
        ok = ok and not asyncio.run(locks.acquire_lock("upwork", "parents", timeout=0))
        ok = ok and service.complete("sync")["content"] == "sync"
        del held, flight  # neither releases the parent's lock nor disturbs its calls
        gc.collect()
        os._exit(0 if ok else 1)
    while (status := os.waitpid(child, os.WNOHANG))[0] == 0:
        await asyncio.sleep(0.01)
    assert os.waitstatus_to_exitcode(status[1]) == 0
    await asyncio.gather(*flight)
    assert held.is_held
    assert await held.release()
    await use("after")

asyncio.run(main())
assert locks.get_metrics()["active_locks"] == 0
"""

MULTIPROCESSING = """
def child(number):
    sys.exit(0 if succeeds(f"child-{number}") else 1)

assert succeeds("before")
context = multiprocessing.get_context("fork")
processes = [context.Process(target=child, args=(number,)) for number in range(3)]
for process in processes:
    process.start()
assert succeeds("beside")
for process in processes:
    process.join()
assert [process.exitcode for process in processes] == [0, 0, 0]
assert succeeds("after")
"""


@pytest.mark.parametrize("scenario", [FORK_IN_FLIGHT, MULTIPROCESSING], ids=["in flight", "multiprocessing"])
def test_parent_and_child_both_go_on(scenario: str, tmp_path: Path) -> None:
    with ModelServer.in_subprocess(delay=0.2) as server:
        database_url = f"sqlite:///{tmp_path / 'locks.db'}"
        run_scenario(SERVICES.format(base_url=server.base_url, database_url=database_url) + scenario)
