"""The watches over all tests of the client: nothing holds up a loop, and no API key gets out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testing_support import ticker
from tests.llm import loop_watch, secret_watch

_CONTROL = pytest.StashKey[ticker.Control]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with secret_watch.watched():
        if item.get_closest_marker("holds_the_loop") is not None:
            return (yield)
        stash = item.config.stash
        if _CONTROL not in stash:
            stash[_CONTROL] = ticker.Control()
        with loop_watch.watched() as watch:
            result = yield
        watch.judge(stash[_CONTROL])
        return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report: Any = yield
    return secret_watch.checked(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _CONTROL in session.config.stash:
        session.config.stash[_CONTROL].close()
