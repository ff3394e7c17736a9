"""Run an application with the live page, and take a picture of it in Chromium.

`PYTHONPATH=. python docs/record_page.py` writes docs/native-page.png. It takes two minutes, so that the chart
is full; `--seconds` changes that, `--dark` and `--width` the looks, `--target` the file.
"""

import argparse
import asyncio
import contextlib
import random
import tempfile
import time
from pathlib import Path

from fastapi import FastAPI

from arbitrageai_native import BidLockManager, LLMService
from arbitrageai_native.exceptions import APIConnectionError
from arbitrageai_native.integrations.fastapi import router
from arbitrageai_native.testing import ModelServer
from testing_support.servers.chromium import Chromium
from testing_support.servers.uvicorn import serving

TARGET = Path(__file__).with_name("native-page.png")
WIDTH = 960
SCANNERS = 4
POSTINGS = [("upwork", "logo-bakery-4711"), ("upwork", "etl-warehouse-4718"), ("fiverr", "translate-menu-93")]


def parse_postings() -> None:
    """What somebody forgot to take off the loop."""
    time.sleep(0.3)


async def scan(number: int, locks: BidLockManager, service: LLMService) -> None:
    """Bid on one posting after the other, as a scanner does."""
    while True:
        marketplace, posting = random.choice(POSTINGS)
        async with locks.with_lock(marketplace, posting, timeout=30, holder_id=f"scanner-{number}"):
            await service.complete_async(f"Write a proposal for {posting}.")
        await asyncio.sleep(random.uniform(0, 1))


async def be_busy(seconds: float) -> None:
    """Work of other parts of the application, a little of it on the loop."""
    end = time.monotonic() + seconds
    stalls = iter((0.35, 0.8))
    next_stall = next(stalls)
    while time.monotonic() < end:
        await asyncio.sleep(random.uniform(0.2, 0.5))
        time.sleep(random.expovariate(300))  # noqa: ASYNC251 - that is what the page is to show
        if next_stall is not None and time.monotonic() > end - seconds * (1 - next_stall):
            parse_postings()
            next_stall = next(stalls, None)


async def record(arguments: argparse.Namespace, folder: str) -> None:
    """Run it all, and take the picture."""
    application = FastAPI()
    locks = BidLockManager(60, f"sqlite:///{folder}/locks.db")
    application.include_router(router(locks=locks))
    async with (
        ModelServer(answer="Dear client, …", delay=lambda _: random.uniform(2, 6)) as model,
        locks,
        serving(application) as url,
    ):
        service = LLMService(base_url=model.base_url, api_key="any")
        scanners = [asyncio.create_task(scan(number, locks, service)) for number in range(1, SCANNERS + 1)]
        await be_busy(arguments.seconds)
        unreachable = LLMService(base_url="http://localhost:9/v1", api_key="any", max_retries=0)
        for _ in range(3):
            with contextlib.suppress(APIConnectionError):
                await unreachable.complete_async("Are you there?")
        await asyncio.to_thread(take_picture, f"{url}/native", arguments)
        for scanner in scanners:
            scanner.cancel()
        await asyncio.gather(*scanners, return_exceptions=True)


def take_picture(url: str, arguments: argparse.Namespace) -> None:
    """Wait for a moment at which there is a waiter, and write down what the browser shows."""
    with Chromium() as page:
        page.resize(arguments.width, 100, scale=1.25)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if arguments.dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.open(url)
        page.wait_for("document.querySelector('#waiting').innerText > 0", 60)
        arguments.target.write_bytes(page.screenshot())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(record(arguments, folder))
    print(f"written: {arguments.target}, {arguments.target.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
