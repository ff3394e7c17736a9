"""The watches over all tests of the client: nothing holds up a loop, and no API key gets out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from testing_support import ticker
from tests.llm import loop_watch, secret_watch

_CONTROL = pytest.StashKey[ticker.Control]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    secret_watch.forget_servers()


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    yield
    # The control has a thousand ticks a second: it lives only as long as there are tests that it is for.
    if _CONTROL in item.config.stash and (nextitem is None or nextitem.path.parent != item.path.parent):
        item.config.stash[_CONTROL].close()
        del item.config.stash[_CONTROL]
