"""What the tests of the drop-in modules share.

Each test asks for modules (`llm_service`, `health`, `locks`, …) and runs twice: over the reference of the
originals and over the native modules. A test marked `better` speaks of a difference: over the reference it
has to fail.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from arbitrageai_native.testing import ModelServer
from testing_support.keys import KEY
from tests.drop_in.support import ENVIRONMENT, PREFIXES, module
from tests.llm import secret_watch
from tests.run import collect_what_is_left


def runs_over(item: pytest.Item) -> str | None:
    """Return whose modules a test runs over, if it asks for any."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("implementation") if callspec is not None else None


def is_watched(item: pytest.Item) -> bool:
    """Whether this is a test of our client."""
    return runs_over(item) == "native" and not {"llm_service", "health"}.isdisjoint(item.fixturenames)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    secret_watch.forget_servers()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    mark = item.get_closest_marker("better")
    if mark is None or runs_over(item) != "reference":
        with secret_watch.watched() if is_watched(item) else contextlib.nullcontext():
            return (yield)
    expected = mark.kwargs.get("raises", AssertionError)
    try:
        yield
    except expected as error:
        # What the reference left behind when it failed, coroutines never awaited for one, is none of the
        # next test's business; and it must be held by nothing when it is collected.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        if isinstance(error, AttributeError):
            error.obj = None  # which had not the attribute, a coroutine for one
        collect_what_is_left()
        return None
    pytest.fail(f"the reference passes: this is no difference, or the test does not show it ({expected})")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    return secret_watch.checked(report) if is_watched(item) else report


@pytest.fixture(params=list(PREFIXES))
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Whose modules are tested; in an empty folder, with nothing in the environment."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def http_client() -> Iterator[Any]:
    """Shared by the reference's clients: each would read the system's certificates for one of its own."""
    from openai import DefaultHttpxClient

    with DefaultHttpxClient() as client:
        yield client


@pytest.fixture
def llm_service(implementation: str, health: Any, monkeypatch: pytest.MonkeyPatch, http_client: Any) -> Any:
    """`llm_service`, with the default configuration."""
    found: Any = module(implementation, "llm_service")
    found.set_default_model_config(found.ModelConfig())
    if implementation == "reference":

        class OpenAI(found.OpenAI):  # type: ignore[name-defined,misc]
            def __init__(self, **arguments: Any) -> None:
                super().__init__(**arguments, http_client=http_client)

        monkeypatch.setattr(found, "OpenAI", OpenAI)
    return found


@pytest.fixture
def health(implementation: str) -> Any:
    """`llm_health_check`, without a global checker."""
    found: Any = module(implementation, "llm_health_check")
    found._global_health_checker = None
    return found


@pytest.fixture
def locks(implementation: str, monkeypatch: pytest.MonkeyPatch, lock_file: Path) -> Iterator[Any]:
    """`bid_lock_manager`, on an SQLite file of the test's own."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{lock_file}")
    found: Any = module(implementation, "agent_execution.bid_lock_manager")
    found._bid_lock_manager = None
    yield found
    found._bid_lock_manager = None


@pytest.fixture
def redis_locks(implementation: str, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Iterator[Any]:
    """`redis_bid_lock_manager`, on an empty Redis server."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    found: Any = module(implementation, "agent_execution.redis_bid_lock_manager")
    found._bid_lock_manager = None
    yield found
    found._bid_lock_manager = None


@pytest.fixture
def lock_factory(implementation: str, locks: Any) -> Iterator[Any]:
    """`bid_lock_manager_factory`, on an SQLite file of the test's own, without Redis."""
    found: Any = module(implementation, "agent_execution.bid_lock_manager_factory")
    found._bid_lock_manager = None
    yield found
    found._bid_lock_manager = None


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    """The database of `locks`."""
    return tmp_path / "locks.db"


@pytest.fixture
def async_helpers(implementation: str) -> Any:
    """`utils.async_helpers`."""
    return module(implementation, "utils.async_helpers")


@pytest.fixture
def errors(implementation: str) -> Any:
    """Where the exceptions of calls are."""
    return import_module("openai" if implementation == "reference" else "arbitrageai_native.exceptions")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model server in a thread of its own, which a blocked event loop does not hold up."""
    with ModelServer() as server:
        yield server


@pytest.fixture
def service(llm_service: Any, server: ModelServer) -> Any:
    """A service of `server`, without a breaker."""
    return llm_service.LLMService(base_url=server.base_url, api_key=KEY, enable_circuit_breaker=False)
