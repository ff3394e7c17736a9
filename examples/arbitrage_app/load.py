"""Puts the application under load and measures how late its event loops are.

It starts a model server that takes a second for each answer, the application under uvicorn with several
workers, and clients that post job postings; each posting is posted by three of them at the same time. With
this package's modules in the place of the originals, or (`--originals`) with their reference in
`testing_support/reference`:

    python examples/arbitrage_app/load.py --seconds 30 --in-flight 100 --json ours.json
    python examples/arbitrage_app/load.py --seconds 30 --in-flight 100 --originals --json originals.json
    python examples/arbitrage_app/plot.py ours.json originals.json
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx

from arbitrageai_native.testing import ModelServer

HERE = Path(__file__).resolve().parent
REFERENCE = HERE.parent.parent / "testing_support" / "reference"
SAME_POSTING = 3
WARM_UP = "warm-up"
SECONDS_TO_START = 60.0
# What is under way in the end is waited for: an event loop that is stopped again and again may take its time.
SECONDS_TO_END = 300.0


def command(originals: bool, port: int, workers: int, unblock: bool = False, loop: str = "auto") -> list[str]:
    """How the application is started."""
    uvicorn = [sys.executable, "-m", "uvicorn", "src.api.main:app", "--app-dir", str(HERE)]
    uvicorn += ["--port", str(port), "--workers", str(workers), "--log-level", "warning"]
    uvicorn += ["--loop", loop]
    if originals:
        return uvicorn
    options = ["--unblock"] if unblock else []
    return [sys.executable, "-m", "arbitrageai_native", "run", *options, "--", *uvicorn]


@contextmanager
def application(
    originals: bool,
    workers: int,
    model_url: str,
    unblock: bool = False,
    loop: str = "auto",
    **environment: str,
):
    """The application, in an empty folder; gives its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            **os.environ,
            "DATABASE_URL": f"sqlite:///{folder}/arbitrage.db",
            "BASE_URL": model_url,
            "API_KEY": "any",
            **environment,
        }
        if originals:
            path = os.environ.get("PYTHONPATH")
            variables["PYTHONPATH"] = os.pathsep.join([str(REFERENCE), *([path] if path else [])])
        started = command(originals, port, workers, unblock, loop)
        process = subprocess.Popen(started, env=variables, cwd=folder)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def idle_loop():
    """An event loop that has nothing to do, in a process of its own: its lag is the machine's."""
    measured: dict[str, float] = {}
    command = [sys.executable, str(HERE / "src" / "monitoring" / "loop_lag.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield measured
        finally:
            measured["worst_ms"] = float(process.communicate()[0])


async def health_of_all(url: str, workers: int, **parameters: str) -> dict[int, dict]:
    """The health of every worker: whichever answers is asked again until all have answered."""
    found: dict[int, dict] = {}
    deadline = time.monotonic() + SECONDS_TO_START
    while len(found) < workers:
        try:
            # A new connection each time: it may be another worker that accepts it. Nothing is encrypted
            # here: the system's certificates need not be read, which would take a while.
            async with httpx.AsyncClient(verify=False, timeout=SECONDS_TO_START) as client:
                answer = (await client.get(f"{url}/health", params=parameters)).json()
            found.setdefault(answer["worker"], answer)
        except httpx.TransportError:
            await asyncio.sleep(0.05)
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {len(found)} of {workers} workers answered")
    return found


async def warm_up(url: str, workers: int, path: str) -> None:
    """Let every worker consider a posting or two."""

    async def one(number: int) -> None:
        async with httpx.AsyncClient(verify=False, timeout=SECONDS_TO_END) as client:
            posting = {"marketplace": WARM_UP, "id": str(number), "title": "Warm up"}
            await client.post(f"{url}/{path}", json=posting)

    await asyncio.gather(*(one(number) for number in range(8 * workers)))


async def post_for(url: str, seconds: float, in_flight: int, path: str) -> Counter[str]:
    """Post postings, so many at a time, for so long; counts the outcomes."""
    outcomes: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    numbers = iter(range(10**9))

    async def one_client(client: httpx.AsyncClient, start: float) -> None:
        await asyncio.sleep(start)
        while time.monotonic() < deadline:
            number = next(numbers) // SAME_POSTING
            posting = {"marketplace": "upwork", "id": f"p{number}", "title": f"Posting {number}"}
            try:
                answer = await client.post(f"{url}/{path}", json=posting)
                outcomes[answer.json()["outcome"] if answer.is_success else str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                outcomes[type(error).__name__] += 1

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(verify=False, timeout=SECONDS_TO_END, limits=limits) as client:
        # They begin one after the other, within a second, as real ones would.
        await asyncio.gather(*(one_client(client, number / in_flight) for number in range(in_flight)))
    return outcomes


async def measure(arguments: argparse.Namespace) -> dict:
    """One run."""
    path = "scans" if arguments.scans else "postings"
    answer = "85\nDear client, this is just what I do."
    async with ModelServer.in_subprocess(answer=answer, delay=arguments.model_seconds, record=False) as model:
        with application(
            arguments.originals, arguments.workers, model.base_url, arguments.unblock, arguments.loop
        ) as url:
            await health_of_all(url, arguments.workers)
            with idle_loop() as control:
                # What a process does once, when it starts and for its first posting, is not what is measured.
                await warm_up(url, arguments.workers, path)
                await health_of_all(url, arguments.workers, reset="true")
                await asyncio.sleep(0.5)
                begun = time.time()
                outcomes = await post_for(url, arguments.seconds, arguments.in_flight, path)
                took = time.time() - begun
                workers = await health_of_all(url, arguments.workers, history="true")
            async with httpx.AsyncClient(verify=False, timeout=SECONDS_TO_END) as client:
                bids = (await client.get(f"{url}/bids")).json()
                bids = {posting: count for posting, count in bids.items() if not posting.startswith(WARM_UP)}
    return {
        "modules": next(iter(workers.values()))["modules"],
        "seconds": round(took, 1),
        "requests": sum(outcomes.values()),
        "outcomes": outcomes,
        "postings_bid_on": len(bids),
        "duplicates": [posting for posting, count in bids.items() if count > 1],
        "worst_lag_ms": max(worker["loop_lag_ms"]["worst"] for worker in workers.values()),
        "worst_lag_of_an_idle_process_ms": control["worst_ms"],
        "lag": [
            [[moment - begun, late] for moment, late in worker["history"]] for worker in workers.values()
        ],
    }


def main() -> int:
    """Run, print what was found, and say with the exit status whether each posting was bid on once."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--originals", action="store_true", help="without this package's modules")
    parser.add_argument(
        "--scans", action="store_true", help="post to the newest scanner, which calls complete()"
    )
    parser.add_argument("--unblock", action="store_true", help="run --unblock")
    parser.add_argument("--loop", default="auto", choices=["auto", "asyncio", "uvloop"], help="uvicorn's")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--model-seconds", type=float, default=1.0, help="how long the model takes (default: 1)"
    )
    parser.add_argument("--json", type=Path, help="a file for all that was measured")
    arguments = parser.parse_args()
    found = asyncio.run(measure(arguments))
    if arguments.json:
        arguments.json.write_text(json.dumps(found))
    print(json.dumps({name: value for name, value in found.items() if name != "lag"}))
    return 1 if found["duplicates"] or not found["postings_bid_on"] else 0


if __name__ == "__main__":
    sys.exit(main())
