"""The checker of locks' histories: what it lets pass, and that it catches what no lock may do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from testing_support.chaos.history import (
    Hold,
    Notes,
    Violation,
    Visit,
    check_holds,
    check_visits,
    read_history,
)


def hold(name: str, start: float, token: int, **facts: object) -> Hold:
    """A hold of one second that was released, with a time to live of ten."""
    times = {
        "asked": start - 0.1,
        "answered": start + 0.1,
        "token": token,
        "acquired_at": start,
        "expires_at": start + 10,
        "believed": start + 0.9,
        "releasing": start + 1,
        "released": start + 1.1,
        "was_ours": True,
    }
    return Hold(name, **{**times, **facts})  # type: ignore[arg-type]


ONE = hold("one", 100, 2)
TWO = hold("two", 102, 4)
CUT_SHORT = {"releasing": None, "released": None, "was_ours": None}


def test_one_after_another() -> None:
    assert check_holds([TWO, ONE]) == [ONE, TWO]


def test_the_successor_may_come_during_the_release() -> None:
    check_holds([ONE, hold("two", 101.05, 4)])


def test_the_successor_of_a_dead_holder_waits_for_the_expiry() -> None:
    dead = replace(ONE, **CUT_SHORT)
    check_holds([dead, hold("two", 110, 4)])
    with pytest.raises(Violation, match="two holders"):
        check_holds([dead, hold("two", 109.9, 4)])


def test_a_renewed_holder_is_not_followed_at_its_first_expiry() -> None:
    with pytest.raises(Violation, match="two holders"):
        check_holds([replace(ONE, expires_at=115, **CUT_SHORT), hold("two", 110, 4)])


def test_a_late_holder_may_release_what_is_not_its_own() -> None:
    late = replace(ONE, believed=105, releasing=112, released=112.1, was_ours=False)
    check_holds([late, hold("two", 110, 4)])
    with pytest.raises(Violation, match="released what another had"):
        check_holds([replace(late, was_ours=True), hold("two", 110, 4)])


def test_an_acquisition_without_an_answer_forbids_nothing() -> None:
    check_holds([ONE, Hold("nobody knows", asked=100.5), TWO])


def test_two_holders_at_one_time() -> None:
    with pytest.raises(Violation, match="two holders by the database's clock"):
        check_holds([ONE, hold("two", 100.5, 4)])


def test_a_holder_must_not_believe_beyond_the_takeover() -> None:
    dead = replace(ONE, **CUT_SHORT)
    with pytest.raises(Violation, match="believed"):
        check_holds([replace(dead, believed=110.1), hold("two", 110.05, 4)])


def test_tokens_tell_the_order_of_holding() -> None:
    with pytest.raises(Violation, match="order of holding"):
        check_holds([hold("one", 100, 4), hold("two", 102, 1)])
    with pytest.raises(Violation, match="one token"):
        check_holds([ONE, replace(TWO, token=ONE.token)])


@pytest.mark.parametrize("acquired_at", [99.8, 100.2])
def test_an_acquisition_lies_within_its_call(acquired_at: float) -> None:
    with pytest.raises(Violation, match="while nobody asked"):
        check_holds([replace(ONE, acquired_at=acquired_at)])


def test_a_lock_may_be_handed_over_in_memory_while_it_is_released() -> None:
    """Then when it was acquired is an estimate."""
    two = hold("two", 101, 3, asked=100.5, answered=101.01)
    check_holds([ONE, replace(two, acquired_at=101.03)])
    check_holds([ONE, replace(two, acquired_at=100.99)])
    with pytest.raises(Violation, match="two holders"):
        check_holds([ONE, replace(two, answered=100.9, acquired_at=100.9)])
    with pytest.raises(Violation, match="while nobody asked"):
        check_holds([ONE, replace(two, acquired_at=101.5)])


def test_what_is_noted_is_read_again(tmp_path: Path) -> None:
    notes = Notes(tmp_path, "worker")
    notes.moment("first", "asked")
    notes.moment("first", "answered", token=5, acquired_at=3.0, expires_at=4.0)
    notes.note("first", believed=3.5, expires_at=4.5)
    Notes(tmp_path, "other").moment("second", "asked")
    first, second = sorted(read_history(tmp_path), key=lambda hold: hold.name)
    assert (first.token, first.believed, first.expires_at, first.releasing) == (5, 3.5, 4.5, None)
    assert second.answered is None


# --- what the lock protects ---


def enter(token: int, accepted: bool = True) -> Visit:
    """A holder raises the fence."""
    return Visit(token, "enter", 0, accepted)


def write(token: int, value: int, accepted: bool = True) -> Visit:
    """A holder writes."""
    return Visit(token, "write", value, accepted)


def test_writes_follow_each_other() -> None:
    stale = [write(1, 2, accepted=False), enter(1, accepted=False)]
    assert check_visits([enter(1), write(1, 1), enter(2), *stale, write(2, 2)]) == 2


@pytest.mark.parametrize(
    ("visits", "fault"),
    [
        ([enter(1), enter(2), write(1, 1)], "behind the fence"),
        ([enter(2), enter(1)], "behind the fence"),
        ([enter(1), write(1, 1, accepted=False)], "behind the fence"),
        ([enter(1), write(1, 1), enter(2), write(2, 1)], "an update was lost"),
    ],
    ids=["stale write", "stale entry", "good write refused", "lost update"],
)
def test_stale_and_lost_writes(visits: list[Visit], fault: str) -> None:
    with pytest.raises(Violation, match=fault):
        check_visits(visits)
