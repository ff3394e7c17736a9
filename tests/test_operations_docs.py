"""The examples of docs/operations.md run, and print what the page says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

PAGE = (Path(__file__).parent.parent / "docs" / "operations.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
OUTPUTS = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


def example(word: str) -> str:
    (found,) = (example for example in EXAMPLES if word in example)
    return str(found)


def without_times(text: str) -> str:
    return re.sub(r"\d\.\d{3} s", "N s", text)


def test_the_monitor_logs_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(example("LoopMonitor()"), encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    assert finished.stdout == "1 stall\n"
    logged = "".join(
        line
        for line in finished.stderr.replace(f"{tmp_path}/", "").splitlines(keepends=True)
        if "^^" not in line
    )
    assert without_times(logged) == without_times(OUTPUTS[0])


def test_the_tests_of_the_page_pass(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(test_it=example("no_blocking"))
    pytester.runpytest_subprocess(timeout=60).assert_outcomes(passed=2)


def test_the_application_of_the_page_lets_nobody_in_without_a_password(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(example("FastAPI()"), encoding="utf-8")
    ask = """
import asyncio, httpx
from app import app

async def main():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        for password in ("wrong", "right"):
            answer = await client.get("/health", auth=httpx.BasicAuth("admin", password))
            print(answer.status_code, answer.text)

asyncio.run(main())
"""
    finished = subprocess.run(
        [sys.executable, "-c", ask],
        cwd=tmp_path,
        env={**os.environ, "ADMIN_PASSWORD": "right"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert finished.stdout.splitlines() == [
        '401 {"detail":"Unauthorized"}',
        '200 {"status":"ok","problems":[]}',
    ]
