"""The demo: scanner processes compete, and every posting is bid on exactly once."""

import os
import sqlite3
import time
from pathlib import Path

import pytest

from arbitrageai_native.testing import Answer, Failure, ModelServer, RecordedRequest
from testing_support.servers.postgres import PostgresServer
from tests.demo.support import ALONE, POSTINGS, QUICK, outcome_of, run_demo, write_postings


def test_the_sample_is_bid_on_exactly_once_within_15_seconds() -> None:
    started = time.perf_counter()
    completed = run_demo("--json")
    seconds = time.perf_counter() - started
    assert completed.stderr == ""
    assert completed.returncode == 0
    outcome = outcome_of(completed)
    assert list(outcome) == [
        "postings",
        "bids",
        "missing",
        "duplicates",
        "seconds",
        "one_at_a_time_seconds",
        "worst_stall_ms",
    ]
    assert outcome["postings"] == outcome["bids"] >= 30
    assert outcome["missing"] == outcome["duplicates"] == []
    assert outcome["seconds"] < seconds < 15
    # Each of the calls takes at least what the model and the shortest stealth delay take.
    assert outcome["one_at_a_time_seconds"] > outcome["postings"] * 0.9
    assert outcome["one_at_a_time_seconds"] > outcome["seconds"] * 3
    assert 0 < outcome["worst_stall_ms"] < 1000


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    completed = run_demo(
        "--postings",
        str(write_postings(tmp_path)),
        "--scanners",
        "2",
        *QUICK,
        environment={"FORCE_COLOR": "1"},
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    assert "\x1b" not in completed.stdout
    lines = completed.stdout.splitlines()
    assert lines[0].startswith("12 postings, 2 scanner processes, model server http://127.0.0.1:")
    for posting in POSTINGS:
        key = f"{posting['marketplace']}:{posting['id']}"
        assert len([line for line in lines if f"on {key} " in line]) == 1
    assert sum("has seen every posting" in line for line in lines) == 2
    assert "the same calls one at a time" in completed.stdout
    assert lines[-1] == "Every posting was bid on exactly once."


def test_bids_are_kept_in_the_users_database_run_by_run(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    options = (
        "--postings",
        str(write_postings(tmp_path)),
        "--database-url",
        f"sqlite:///{path}",
        *ALONE,
        "--json",
    )
    with ModelServer(answer="PRICE: 500\nI can.") as server:
        for _ in range(2):
            assert run_demo(*options, "--base-url", server.base_url).returncode == 0
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(
            "SELECT run_id, marketplace, posting_id, price_dollars, proposal FROM demo_bids"
        ).fetchall()
        locks = connection.execute("SELECT COUNT(*) FROM distributed_locks").fetchone()
    finally:
        connection.close()
    assert len(rows) == len(set(rows)) == 2 * len(POSTINGS)
    assert {(price, proposal) for _, _, _, price, proposal in rows} == {(500, "I can.")}
    assert locks == (0,)


def test_another_server_with_its_key_and_model(tmp_path: Path) -> None:
    with ModelServer(api_key="sk-other", answer="PRICE: $1,250\nI can.") as server:
        completed = run_demo(
            "--postings", str(write_postings(tmp_path)), "--base-url", server.base_url,
            "--api-key", "sk-other", "--model", "some-model", *ALONE,
        )  # fmt: skip
        requests = server.requests
    assert completed.returncode == 0
    assert "bid $1,250 on" in completed.stdout
    assert len(requests) == len(POSTINGS)
    assert {request.json["model"] for request in requests} == {"some-model"}
    assert {request.json["messages"][0]["role"] for request in requests} == {"system"}
    titles = {request.prompt.splitlines()[1] for request in requests}
    assert titles == {f"Title: {posting['title']}" for posting in POSTINGS}


def test_stealth_delays_are_those_asked_for(tmp_path: Path) -> None:
    with ModelServer() as server:
        completed = run_demo(
            "--postings", str(write_postings(tmp_path)), "--base-url", server.base_url,
            "--stealth-range", "0.8", "0.8", "--scanners", "1", "--json",
        )  # fmt: skip
    outcome = outcome_of(completed)
    assert outcome["bids"] == len(POSTINGS)
    assert outcome["one_at_a_time_seconds"] >= 0.8 * len(POSTINGS)


def test_a_server_that_fails_now_and_then_is_asked_again(tmp_path: Path) -> None:
    with ModelServer(
        script=[Failure(503), Failure(429, headers={"retry-after-ms": "20"}), Failure(500)]
    ) as server:
        completed = run_demo(
            "--postings", str(write_postings(tmp_path)), "--base-url", server.base_url, *ALONE, "--json"
        )
        requests = server.statistics.requests
    assert (completed.returncode, completed.stderr) == (0, "")
    assert outcome_of(completed)["bids"] == len(POSTINGS)
    assert requests == len(POSTINGS) + 3


def test_postings_without_a_bid_are_named_and_the_status_says_so(tmp_path: Path) -> None:
    def refuse_job_3(request: RecordedRequest) -> Answer | Failure:
        return Failure(400, "not this one") if "Job 3\n" in request.prompt else Answer("I can.")

    postings = ("--postings", str(write_postings(tmp_path)))
    with ModelServer(answer=refuse_job_3) as server:
        as_json = run_demo(*postings, *QUICK, "--base-url", server.base_url, "--json")
        plain = run_demo(*postings, *ALONE, "--base-url", server.base_url)
    assert as_json.returncode == plain.returncode == 1
    outcome = outcome_of(as_json)
    assert (outcome["missing"], outcome["duplicates"]) == (["market-1:3"], [])
    assert outcome["bids"] == len(POSTINGS) - 1
    # Each scanner tried.
    assert as_json.stderr.startswith("3 calls failed: ")
    assert "not this one" in as_json.stderr
    assert "Without a bid: market-1:3" in plain.stdout
    assert "Every posting" not in plain.stdout
    assert "bid no price on" in plain.stdout


def test_a_server_that_is_not_there_is_an_honest_failure(tmp_path: Path) -> None:
    postings = write_postings(tmp_path, POSTINGS[:2])
    completed = run_demo("--postings", str(postings), "--base-url", "http://127.0.0.1:9/v1", *ALONE, "--json")
    assert completed.returncode == 1
    assert len(outcome_of(completed)["missing"]) == 2
    assert "failed: " in completed.stderr
    assert "Traceback" not in completed.stderr


def test_hostile_text_reaches_no_terminal(tmp_path: Path) -> None:
    posting = {
        "marketplace": "m",
        "id": "[red]1",
        "title": "\x1b]0;owned\x07 [bold]x",
        "description": "\u202e\n",
    }
    with ModelServer() as server:
        completed = run_demo(
            "--postings", str(write_postings(tmp_path, [posting])), "--base-url", server.base_url, *ALONE
        )
    assert completed.returncode == 0
    assert not any(character in completed.stdout for character in "\x1b\x07\u202e")
    assert "on m:[red]1 " in completed.stdout


@pytest.mark.parametrize("scanners", ["1", "5"])
def test_any_number_of_scanners(tmp_path: Path, scanners: str) -> None:
    with ModelServer() as server:
        options = ("--base-url", server.base_url, "--scanners", scanners, *QUICK, "--json")
        completed = run_demo("--postings", str(write_postings(tmp_path)), *options)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert outcome_of(completed)["bids"] == len(POSTINGS)


def test_locks_in_postgresql(tmp_path: Path, postgres_server: PostgresServer, postgres_url: str) -> None:
    with ModelServer() as server:
        options = ("--base-url", server.base_url, "--database-url", postgres_url, *QUICK, "--json")
        completed = run_demo("--postings", str(write_postings(tmp_path)), *options)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert outcome_of(completed)["bids"] == len(POSTINGS)
    assert postgres_server.execute("SELECT COUNT(*) FROM distributed_locks") == "0"


def test_many_postings(tmp_path: Path) -> None:
    postings = [
        {"marketplace": "m", "id": str(n), "title": f"Job {n}", "description": ""} for n in range(300)
    ]
    with ModelServer.in_subprocess(record=False) as server:
        completed = run_demo(
            "--postings",
            str(write_postings(tmp_path, postings)),
            "--base-url",
            server.base_url,
            *QUICK,
            "--json",
        )
    assert (completed.returncode, completed.stderr) == (0, "")
    assert outcome_of(completed)["bids"] == 300


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    import subprocess

    from tests.demo.support import COMMAND

    command = [*COMMAND, "--postings", str(write_postings(tmp_path)), *ALONE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == ""


def test_a_proxy_is_not_asked_for_the_demos_own_server(tmp_path: Path) -> None:
    environment = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    environment["NO_PROXY"] = os.environ.get("NO_PROXY", "")
    completed = run_demo(
        "--postings", str(write_postings(tmp_path)), *ALONE, "--json", environment=environment
    )
    assert (completed.returncode, completed.stderr) == (0, "")
