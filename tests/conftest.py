"""What every test file may use."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from .lock_fixtures import make_manager, manager, postgres_server, postgres_url, shared_url, sqlite_url

__all__ = ["make_manager", "manager", "postgres_server", "postgres_url", "shared_url", "sqlite_url"]


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """Refuses `add_reader`, as Windows' proactor loop does, so that the bridge takes its portable way."""

    def add_reader(self, *_args: object) -> None:
        raise NotImplementedError


LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(
    params=[asyncio.SelectorEventLoop, uvloop.new_event_loop, LoopWithoutReaders],
    ids=["asyncio", "uvloop", "portable"],
)
def new_loop(request: pytest.FixtureRequest) -> LoopFactory:
    """Every kind of event loop that the bridge serves."""
    return request.param
