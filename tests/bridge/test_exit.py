"""The interpreter may end with calls in flight: no hang, no crash, no message, the exit code kept.

`benchmarks/exits.py` repeats these two hundred times.
"""

import pytest

from testing_support.exits import WAYS_TO_END, end, exit_status


@pytest.mark.parametrize("way", WAYS_TO_END)
def test_exit_with_a_hundred_calls_in_flight(way: str) -> None:
    for _ in range(3):
        ended = end(way)
        assert ended.stderr == ""
        assert ended.returncode == exit_status(way)
