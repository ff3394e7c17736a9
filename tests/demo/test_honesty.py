"""The demo tells when locks fail: what it counts is what is in the table of bids."""

from pathlib import Path

import pytest

from arbitrageai_native.demo.bids import Bid, BidTable
from arbitrageai_native.demo.display import PlainDisplay
from arbitrageai_native.demo.postings import Posting, sample_postings
from arbitrageai_native.demo.progress import Outcome, Progress, ScannerProgress
from arbitrageai_native.demo.proposals import read_answer
from arbitrageai_native.testing import ModelServer
from tests.demo.support import POSTINGS, QUICK, outcome_of, run_demo, write_postings

WITHOUT_LOCKS = """
from contextlib import asynccontextmanager
from types import SimpleNamespace

from arbitrageai_native import BidLockManager


@asynccontextmanager
async def no_lock(*arguments, **settings):
    yield SimpleNamespace(is_held=True, fencing_token=0)


BidLockManager.with_lock = no_lock
"""


def test_without_locks_there_are_duplicates_and_the_demo_says_so(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_LOCKS)
    with ModelServer(delay=0.3) as server:
        completed = run_demo(
            "--postings",
            str(write_postings(tmp_path)),
            "--base-url",
            server.base_url,
            *QUICK,
            "--json",
            environment={"PYTHONPATH": str(tmp_path)},
        )
    assert completed.returncode == 1
    outcome = outcome_of(completed)
    assert outcome["bids"] > len(POSTINGS)
    assert outcome["duplicates"]
    assert outcome["missing"] == []


def test_missing_and_duplicate_bids_are_counted_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    postings = [Posting("m", str(number), "title", "") for number in range(3)]
    table = BidTable.create(tmp_path / "bids.db", "run")
    other_run = BidTable.create(tmp_path / "bids.db", "another run")
    for bids, number in ((table, 0), (table, 1), (table, 1), (other_run, 2)):
        bids.place(Bid(postings[number], 100, "I can.", "scanner-1", fencing_token=1))
    assert table.has_bid(postings[1])
    assert not table.has_bid(postings[2])
    counted = table.count_by_posting(postings)
    table.close()
    other_run.close()

    outcome = Outcome.of(Progress(postings, [ScannerProgress("scanner-1")], "server"), counted, seconds=2.0)
    assert (outcome.bids, outcome.missing, outcome.duplicates) == (3, ["m:2"], ["m:1"])
    assert not outcome.is_right
    PlainDisplay().show_outcome(outcome)
    *_, missing, duplicate = capsys.readouterr().out.splitlines()
    assert missing == "Without a bid: m:2"
    assert duplicate == "Bid on more than once: m:1"


def test_the_sample_has_at_least_thirty_varied_postings() -> None:
    postings = sample_postings()
    assert len(postings) >= 30
    assert len({posting.marketplace for posting in postings}) >= 5
    assert len({posting.title for posting in postings}) == len(postings)


def test_prices_are_read_from_what_models_write() -> None:
    assert read_answer("PRICE: 450\nI can.") == (450, "I can.")
    assert read_answer("**Price:** $1,250 (fixed)\n\nI can.\nSoon.") == (1250, "I can.\nSoon.")
    assert read_answer("I can, for a fair price.") == (None, "I can, for a fair price.")
    assert read_answer("") == (None, "")
