"""The pytest plugin: the fixtures `model_server` and `memory_locks`, the marker `no_blocking`.

pytest loads it in every run of an environment that has this package, so it imports nothing of it until a test
asks for something. (PYTEST_DONT_REWRITE: there is nothing to rewrite here.)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from arbitrageai_native import BidLockManager
    from arbitrageai_native.testing import ModelServer

MARKER: Final = "no_blocking"

_DEFAULT_MILLISECONDS: Final = 100


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, also to `--strict-markers`."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(milliseconds={_DEFAULT_MILLISECONDS}): fail if the test's event loop is blocked "
        "for longer, and print the stack that blocked it",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have a marked test run under a monitor."""
    marker = item.get_closest_marker(MARKER)
    if marker is None or not isinstance(item, pytest.Function):
        return
    milliseconds = _milliseconds(*marker.args, **marker.kwargs)
    if not inspect.iscoroutinefunction(item.obj):
        raise pytest.UsageError(f"{item.nodeid}: {MARKER} is for asynchronous tests")
    item.obj = _monitored(item.obj, milliseconds)


def _milliseconds(milliseconds: object = _DEFAULT_MILLISECONDS, *more: object, **unknown: object) -> float:
    if more or unknown:
        raise pytest.UsageError(f"{MARKER} takes one argument, milliseconds")
    # `bool` is an `int`, and no number of milliseconds.
    if not isinstance(milliseconds, int | float) or milliseconds is True or not milliseconds >= 1:
        raise pytest.UsageError(f"{MARKER}: milliseconds={milliseconds!r} must be a number of at least 1")
    return float(milliseconds)


def _monitored(test: Callable[..., Awaitable[Any]], milliseconds: float) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(test)
    async def monitored(*arguments: Any, **fixtures: Any) -> Any:
        from arbitrageai_native.loop_monitor import LoopMonitor, Stall

        stalls: list[Stall] = []
        # What many heartbeats cost does not matter here; a stall little longer than the limit is seen.
        monitor = LoopMonitor(milliseconds / 1000, interval=milliseconds / 10_000, on_stall=stalls.append)
        async with monitor:
            result = await test(*arguments, **fixtures)
        if monitor.stalls:
            pytest.fail(_complaint(milliseconds, monitor.worst, stalls), pytrace=False)
        return result

    return monitored


def _complaint(milliseconds: float, worst: float, stalls: list[Any]) -> str:
    lines = [f"the event loop was blocked for {worst * 1000:.0f} ms; {MARKER} allows {milliseconds:g} ms"]
    for stall in stalls:
        lines += ["", f"blocked by {stall.location}:", stall.stack.rstrip()]
    if not stalls:
        lines += ["", "the stall ended before its stack could be taken"]
    return "\n".join(lines)


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    """An OpenAI-compatible server, in a thread of its own: see `arbitrageai_native.testing.ModelServer`.

    It echoes the prompt until it is told what to answer: `model_server.script("yes", Failure(429), …)`.
    """
    from arbitrageai_native.testing import ModelServer

    with ModelServer() as server:
        yield server


@pytest.fixture
def memory_locks() -> Iterator[BidLockManager]:
    """A lock manager on the process's in-memory database, without any locks at the start."""
    from arbitrageai_native import BidLockManager
    from arbitrageai_native.llm.many import run_in_private_loop

    manager = BidLockManager(database_url="sqlite://")
    run_in_private_loop(manager.cleanup_all)  # not `asyncio.run`: the thread's current loop is the test's
    yield manager
    manager.close()
