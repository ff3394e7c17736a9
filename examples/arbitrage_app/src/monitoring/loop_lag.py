"""How late the event loop is: a task that wants to wake up every 10 ms notes how much later it did."""

import asyncio
import sys
import time

INTERVAL = 0.01
BUCKET_SECONDS = 0.1


class LoopLag:
    """Measures while `run` does. For each tenth of a second the worst lag in it is kept."""

    def __init__(self) -> None:
        self.worst_ms = 0.0
        self.last_ms = 0.0
        self._history: dict[int, float] = {}

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            wanted = time.monotonic() + INTERVAL
            await asyncio.sleep(INTERVAL)
            lag = max(0.0, time.monotonic() - wanted)
            self.last_ms = lag * 1000
            self.worst_ms = max(self.worst_ms, self.last_ms)
            bucket = int(time.time() / BUCKET_SECONDS)
            self._history[bucket] = max(self._history.get(bucket, 0.0), self.last_ms)

    def reset(self) -> None:
        """Forget what was measured."""
        self.worst_ms = 0.0
        self._history.clear()

    def history(self) -> list[tuple[float, float]]:
        """(Unix time, worst lag in ms) for each tenth of a second in which a wake-up fell."""
        return [(bucket * BUCKET_SECONDS, lag) for bucket, lag in sorted(self._history.items())]


async def _measure_alone() -> None:
    lag = LoopLag()
    task = asyncio.create_task(lag.run())
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    task.cancel()
    print(lag.worst_ms)


if __name__ == "__main__":
    # For comparison: how late an event loop is that has nothing to do. Ends with its input.
    asyncio.run(_measure_alone())
