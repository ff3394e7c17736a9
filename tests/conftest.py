"""What every test file may use."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
import uvloop

from testing_support.servers.faulty_http import Action, FaultyServer
from tests.drop_in.fixtures import (
    async_helpers,
    errors,
    health,
    http_client,
    implementation,
    llm_service,
    lock_factory,
    lock_file,
    locks,
    pytest_configure,
    pytest_runtest_call,
    redis_locks,
    server,
    service,
)
from tests.locks.fixtures import (
    make_manager,
    manager,
    own_redis_server,
    postgres_server,
    postgres_url,
    redis_server,
    redis_url,
    shared_url,
    sqlite_url,
    table_url,
)

# Fixtures and hooks are found by their names here.
__all__ = [
    "async_helpers",
    "errors",
    "health",
    "http_client",
    "implementation",
    "llm_service",
    "lock_factory",
    "lock_file",
    "locks",
    "make_manager",
    "manager",
    "own_redis_server",
    "postgres_server",
    "postgres_url",
    "pytest_configure",
    "pytest_runtest_call",
    "redis_locks",
    "redis_server",
    "redis_url",
    "server",
    "service",
    "shared_url",
    "sqlite_url",
    "table_url",
]


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """Refuses `add_reader`, as Windows' proactor loop does, so that the bridge takes its portable way."""

    def add_reader(self, *_args: object) -> None:
        raise NotImplementedError


# The watches over all tests of the client.
pytest_plugins = ["tests.llm.loop_watch", "tests.llm.secret_watch"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(
    params=[asyncio.SelectorEventLoop, uvloop.new_event_loop, LoopWithoutReaders],
    ids=["asyncio", "uvloop", "portable"],
)
def new_loop(request: pytest.FixtureRequest) -> LoopFactory:
    """Every kind of event loop that the bridge serves."""
    return request.param


@pytest.fixture
def serve() -> Iterator[Callable[..., FaultyServer]]:
    """Starts servers under the test's control, and stops them after it."""
    servers: list[FaultyServer] = []

    def start(*script: Action) -> FaultyServer:
        servers.append(FaultyServer(*script))
        return servers[-1]

    yield start
    for started in servers:
        started.close()
