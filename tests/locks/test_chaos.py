"""Locks while everything goes wrong, for seconds. `benchmarks/lock_chaos.py` is the long form."""

from __future__ import annotations

import pytest

from testing_support.chaos.torment import FAULTS, run


@pytest.mark.parametrize("store", list(FAULTS))
async def test_no_two_holders_and_no_stale_write(store: str) -> None:
    faults = [*FAULTS[store], "stop"]
    outcome = await run(store, workers=4, ttl=1.0, faults=faults)
    assert outcome.faults.total() == len(faults)
    assert outcome.holds > len(faults)
    assert outcome.handed_over > 0
    assert outcome.writes > 0
