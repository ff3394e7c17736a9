"""The example application: written for the originals' names, it runs over either."""

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from arbitrageai_native.testing import ModelServer

APPLICATION = Path(__file__).parents[2] / "examples" / "arbitrage_app"


def load_script() -> Any:
    """The application's `load.py`, which knows how to start it."""
    spec = importlib.util.spec_from_file_location("arbitrage_app_load", APPLICATION / "load.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize("originals", [False, True], ids=["ours", "originals"])
async def test_two_workers_bid_on_each_posting_once(originals: bool, tmp_path: Path) -> None:
    script = load_script()
    postings = [
        {"marketplace": "upwork", "id": f"s{number}", "title": f"Scanned {number}"} for number in range(6)
    ]
    (tmp_path / "postings.json").write_text(json.dumps(postings))

    def answer(request: Any) -> str:
        return "10\nNo." if "Dull" in request.prompt else "85\nDear client, …"

    async with ModelServer(answer=answer, delay=0.05) as model:
        with script.application(
            originals, 2, model.base_url, STEALTH_MODE="false", POSTINGS_FILE=str(tmp_path / "postings.json")
        ) as url:
            workers = await script.health_of_all(url, 2)
            modules = {worker["modules"] for worker in workers.values()}
            prefix = "src" if originals else "arbitrageai_native"
            assert modules == {f"{prefix}.agent_execution.bid_lock_manager"}
            async with httpx.AsyncClient(timeout=60) as client:
                posted = [
                    client.post(
                        f"{url}/postings",
                        json={"marketplace": "fiverr", "id": f"p{number // 4}", "title": title},
                    )
                    for number, title in enumerate(["Interesting"] * 12 + ["Dull"] * 4)
                ]
                outcomes = [answer.json()["outcome"] for answer in await asyncio.gather(*posted)]
                bids = (await client.get(f"{url}/bids")).json()
                while len(bids) < 9:
                    await asyncio.sleep(0.1)
                    bids = (await client.get(f"{url}/bids")).json()
    assert outcomes.count("bid") == 3
    assert outcomes.count("bid before") == 9
    assert outcomes.count("not worth it") == 4
    assert bids == {
        **{f"upwork:s{number}": 1 for number in range(6)},
        **{f"fiverr:p{number}": 1 for number in range(3)},
    }


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("unblock", [True, False])
async def test_the_newest_scanner_lets_the_loop_go_on_with_unblock(unblock: bool, loop: str) -> None:
    """With it, all wait for the model together; without it, one after the other."""
    script = load_script()
    at_once = most = 0

    async def answer(_: Any) -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.2)
        at_once -= 1
        return "85\nDear client, …"

    async with ModelServer(answer=answer) as model:
        with script.application(False, 1, model.base_url, unblock, loop, STEALTH_MODE="false") as url:
            await script.health_of_all(url, 1)
            async with httpx.AsyncClient(timeout=60) as client:
                posted = [
                    client.post(f"{url}/scans", json={"marketplace": "m", "id": f"p{n // 3}", "title": "T"})
                    for n in range(12)
                ]
                outcomes = [answer.json()["outcome"] for answer in await asyncio.gather(*posted)]
                bids = (await client.get(f"{url}/bids")).json()
    assert (outcomes.count("bid"), outcomes.count("bid before")) == (4, 8)
    assert bids == {f"m:p{number}": 1 for number in range(4)}
    assert most > 4 if unblock else most == 1


@pytest.mark.parametrize("holding", ["lock", "session", "generator"])
async def test_what_the_newest_scanner_holds_around_the_call_does_no_harm(
    holding: str, capfd: pytest.CaptureFixture[str]
) -> None:
    script = load_script()
    async with ModelServer(answer="85\nDear client, …", delay=0.1) as model:
        with script.application(False, 1, model.base_url, True, STEALTH_MODE="false") as url:
            await script.health_of_all(url, 1)
            async with httpx.AsyncClient(timeout=60, params={"holding": holding}) as client:
                posted = [
                    client.post(f"{url}/scans", json={"marketplace": "m", "id": f"p{n // 2}", "title": "T"})
                    for n in range(6)
                ]
                outcomes = [answer.json()["outcome"] for answer in await asyncio.gather(*posted)]
    assert (outcomes.count("bid"), outcomes.count("bid before")) == (3, 3)
    logged = capfd.readouterr().err
    expected = {"lock": "self._lock is held", "session": "session has a transaction open", "generator": ""}
    assert expected[holding] in logged
    assert ("market_scanner.py" in logged) is (holding != "generator")


async def test_the_load_script_finds_each_posting_bid_on_once(tmp_path: Path) -> None:
    script = load_script()
    arguments = [
        "--seconds",
        "1",
        "--in-flight",
        "12",
        "--model-seconds",
        "0.1",
        "--json",
        str(tmp_path / "run.json"),
    ]
    process = await asyncio.create_subprocess_exec(
        script.sys.executable, str(APPLICATION / "load.py"), *arguments, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(printed)
    assert found["duplicates"] == []
    assert found["postings_bid_on"] >= 4
    assert set(found["outcomes"]) <= {"bid", "bid before"}
    assert json.loads((tmp_path / "run.json").read_text())["lag"]
