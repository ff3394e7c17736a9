"""Ask a model ten things at once, while the event loop goes on ticking.

Run it as it is: it starts a model server of its own on loopback. Or set BASE_URL and API_KEY to ask another.
"""

import asyncio
import os
import time

from arbitrageai_native import LLMService
from arbitrageai_native.testing import ModelServer

TITLES = [f"Job posting {number}" for number in range(1, 11)]


async def ask(base_url: str) -> None:
    service = LLMService(base_url=base_url, api_key=os.environ.get("API_KEY", "not-needed"))
    started = time.perf_counter()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    results = await asyncio.gather(
        *(service.complete_async(f"Write a one-line proposal for: {title}") for title in TITLES)
    )
    ticking.cancel()

    seconds = time.perf_counter() - started
    for result in results:
        print(result["content"])
    added_up = sum(result["response_time_ms"] for result in results) / 1000
    print(f"{len(results)} answers in {seconds:.1f} s ({added_up:.1f} s added up), {ticks} ticks of the loop")


async def main() -> None:
    base_url = os.environ.get("BASE_URL")
    if base_url:
        await ask(base_url)
        return
    async with ModelServer.in_subprocess(delay=1.0) as server:
        await ask(server.base_url)


if __name__ == "__main__":
    asyncio.run(main())
