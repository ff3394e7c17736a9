"""Ways for an interpreter to end with a hundred calls in flight."""

from __future__ import annotations

import subprocess
import sys

PRELUDE = """
import asyncio, sys, threading
from arbitrageai_native._native import Probe

class LoopWithoutReaders(asyncio.SelectorEventLoop):
    def add_reader(self, *_):
        raise NotImplementedError

async def calls_in_flight(seconds=0.05):
    loop = asyncio.get_running_loop()
    for _ in range(100):
        task = asyncio.ensure_future(Probe.guarded(seconds))
        task._log_destroy_pending = False  # that message would be asyncio's
        tasks.add(task)
    await asyncio.sleep(0.02)

tasks = set()
"""

WAYS_TO_END = {
    "main returns": "asyncio.run(calls_in_flight())",
    "main returns, calls that would take long": "asyncio.run(calls_in_flight(60))",
    "sys.exit inside a coroutine": """
async def main():
    await calls_in_flight()
    sys.exit(7)
asyncio.run(main())
""",
    "the loop is stopped and never closed": """
loop = asyncio.new_event_loop()
loop.run_until_complete(calls_in_flight())
import warnings; warnings.simplefilter("ignore", ResourceWarning)
""",
    "a loop in a daemon thread": """
import time
started = threading.Event()
async def main():
    await calls_in_flight()
    started.set()
    await asyncio.sleep(60)
threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
started.wait()
""",
    "a daemon thread in a blocking call": """
import time
threading.Thread(target=Probe.guarded_blocking, args=(60,), daemon=True).start()
time.sleep(0.05)
""",
    "a loop that polls nothing": """
loop = LoopWithoutReaders()
loop.run_until_complete(calls_in_flight())
""",
}


def end(way: str) -> subprocess.CompletedProcess[str]:
    """Run an interpreter that ends in this way."""
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + WAYS_TO_END[way]],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def exit_status(way: str) -> int:
    """Return the status that an interpreter has to end with."""
    return 7 if "sys.exit" in way else 0
