"""Puts this package's modules in the place of the originals, without a change to the application.

`install()` lets the originals' names (`src.llm_service`, …) stand for our modules, whether files of these
names exist or not; it has to come before the first of them is imported. `python -m arbitrageai_native run --
COMMAND` does it in COMMAND and in the Python processes that it starts, and `pytest -p
arbitrageai_native.drop_in` in a test run. `uninstall()` takes it back.

An original's name and ours are then one and the same module object, so that what is patched in one is patched
in the other: `SEAMS` lists what may be patched, and which code of ours reads it. Nothing of ours is imported
before the application asks for it.

For pytest, which would rewrite its plugins' assertions, and warn if they are imported already:
PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from importlib.abc import Loader, MetaPathFinder
else:  # the import system needs no base class, and importing `importlib.abc` takes 10 ms
    Loader = MetaPathFinder = object

__all__ = ["SEAMS", "AlreadyImportedError", "Seam", "install", "is_installed", "uninstall"]

_PACKAGE = "arbitrageai_native"

_LLM, _HEALTH, _HELPERS = "llm_service", "llm_health_check", "utils.async_helpers"
_LOCKS = "agent_execution.bid_lock_manager"
_REDIS = "agent_execution.redis_bid_lock_manager"
_FACTORY = "agent_execution.bid_lock_manager_factory"

# The original's name -> ours.
_MODULES = {
    f"src.{name}": f"{_PACKAGE}.{name}" for name in (_LLM, _HEALTH, _LOCKS, _REDIS, _FACTORY, _HELPERS)
}

_PARENTS = frozenset(("src", "src.agent_execution", "src.utils"))


class Seam(NamedTuple):
    """A name that code written for the originals patches.

    Attributes:
        module: The module that has it, below `src` and below this package.
        name: The name in that module, which may be patched under both names of the module.
        read_by: The public names in that module whose code reads it at each call, and so obeys a patch. Empty
            if the name only exists so that patching it raises no error: the work is done in native code.
    """

    module: str
    name: str
    read_by: tuple[str, ...] = ()


SEAMS = (
    Seam(_LLM, "OpenAI", ("LLMService",)),
    Seam(_LLM, "get_health_checker", ("LLMService",)),
    Seam(_LLM, "os.getenv", ("LLMService", "ModelConfig.from_env")),
    Seam(_LLM, "time.sleep", ("LLMService.complete", "LLMService.complete_with_fallback")),
    Seam(_LLM, "random.uniform", ("LLMService.complete", "LLMService.complete_async")),
    Seam(_LLM, "LLMService.complete", ("LLMService.complete_with_fallback", "LLMService.complete_async")),
    Seam(_LLM, "LLMService.with_local", ("LLMService.complete_with_fallback",)),
    Seam(_LLM, "MIN_CLOUD_REVENUE", ("LLMService.get_optimized_service",)),
    Seam(_LLM, "_default_model_config", ("get_default_model_config",)),
    Seam(_LLM, "asyncio.sleep", ("LLMService.complete_async",)),
    Seam(_LLM, "logger", ("LLMService.complete_with_fallback",)),
    *(Seam(_LLM, name) for name in ("ConfigManager", "load_dotenv", "logging")),
    Seam(_HEALTH, "_global_health_checker", ("get_health_checker",)),
    Seam(_HEALTH, "LLMHealthChecker", ("get_health_checker",)),
    Seam(_HEALTH, "ExponentialBackoff.get_delay_ms", ("ExponentialBackoff.wait",)),
    Seam(_HEALTH, "logger", ("LLMHealthChecker.record_failure", "LLMHealthChecker.register_endpoint")),
    Seam(_HEALTH, "ExponentialBackoff._calculate_jitter", ("ExponentialBackoff.get_delay_ms",)),
    *(Seam(_HEALTH, name) for name in ("asyncio", "threading")),
    Seam(_LOCKS, "BidLockManager.acquire_lock", ("BidLockManager.with_lock",)),
    Seam(_LOCKS, "BidLockManager.release_lock", ("BidLockManager.with_lock",)),
    Seam(_LOCKS, "BidLockManager._get_db", ("BidLockManager.acquire_lock", "BidLockManager.get_metrics")),
    Seam(_LOCKS, "SessionLocal", ("BidLockManager.acquire_lock", "BidLockManager.get_metrics")),
    Seam(_LOCKS, "logger", ("BidLockManager.release_lock",)),
    Seam(_LOCKS, "BidLockManager", ("get_bid_lock_manager", "init_bid_lock_manager")),
    Seam(_LOCKS, "_bid_lock_manager", ("get_bid_lock_manager",)),
    *(Seam(_LOCKS, name) for name in ("DistributedLock", "IntegrityError", "asyncio", "time", "uuid")),
    Seam(_REDIS, "RedisBidLockManager.acquire_lock", ("RedisBidLockManager.with_lock",)),
    Seam(_REDIS, "RedisBidLockManager.release_lock", ("RedisBidLockManager.with_lock",)),
    Seam(_REDIS, "RedisBidLockManager._make_holder_id", ("RedisBidLockManager.acquire_lock",)),
    Seam(_REDIS, "get_redis_url", ("RedisBidLockManager",)),
    Seam(_REDIS, "logger", ("RedisBidLockManager.release_lock",)),
    Seam(_REDIS, "uuid.uuid4", ("RedisBidLockManager.acquire_lock",)),
    Seam(_REDIS, "RedisBidLockManager", ("get_bid_lock_manager", "init_bid_lock_manager")),
    Seam(_REDIS, "_bid_lock_manager", ("get_bid_lock_manager",)),
    *(Seam(_REDIS, name) for name in ("Redis", "RedisError", "asyncio", "redis")),
    Seam(_FACTORY, "BidLockManager", ("create_bid_lock_manager",)),
    Seam(_FACTORY, "RedisBidLockManager", ("create_bid_lock_manager",)),
    Seam(_FACTORY, "should_use_redis_locks", ("create_bid_lock_manager",)),
    Seam(_FACTORY, "get_redis_url", ("create_bid_lock_manager",)),
    Seam(_FACTORY, "logger", ("create_bid_lock_manager",)),
    Seam(_FACTORY, "_bid_lock_manager", ("get_bid_lock_manager",)),
    Seam(_HELPERS, "asyncio.sleep", ("safe_sleep",)),
)
"""What may be patched in the originals' modules."""

# Foreign names in our modules: where each is defined. They are imported only when they are looked up.
_FOREIGN = {
    "ConfigManager": "src.config.config_manager.ConfigManager",
    "DistributedLock": "src.api.models.DistributedLock",
    "IntegrityError": "sqlalchemy.exc.IntegrityError",
    "Redis": "redis.asyncio.client.Redis",
    "RedisError": "redis.exceptions.RedisError",
    "asyncio": "asyncio",
    "load_dotenv": "dotenv.load_dotenv",
    "logging": "logging",
    "redis": "redis.asyncio",
    "threading": "threading",
    "time": "time",
    "uuid": "uuid",
}


def foreign_name(module: str, name: str) -> Any:
    """Return what a module of the originals has under a foreign name; for the `__getattr__` of ours.

    Raises:
        AttributeError: it has no such name.
    """
    if Seam(module.removeprefix(f"{_PACKAGE}."), name) not in SEAMS or name not in _FOREIGN:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    from pkgutil import resolve_name  # few programs look one up

    try:
        return resolve_name(_FOREIGN[name])
    except ImportError as error:
        raise AttributeError(
            f"{module}.{name} is {_FOREIGN[name]}, which can't be imported: {error}"
        ) from error


class AlreadyImportedError(RuntimeError):
    """An original module was imported before `install()`; the message names it, and who imported it."""


class _OurModule(Loader):
    """Loads our module under the original's name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to the import system: what it makes is replaced below."""

    def exec_module(self, module: ModuleType) -> None:
        """Put our module where the import system looks for the one that it made."""
        ours = sys.modules[module.__name__] = import_module(self._name)
        _name_logger(ours, module.__name__)


# The loggers of our modules, where they have the originals' names: by these names.
_own_loggers: dict[str, Any] = {}


def _name_logger(ours: Any, name: str) -> None:
    """Let a module of ours log under the original's name: what operators watch has it."""
    if "logger" in vars(ours):
        from logging import getLogger  # our module has imported it

        own = _own_loggers.setdefault(name, ours.logger)
        ours.logger = named = getLogger(name)
        for each in own.filters:
            named.addFilter(each)


class _OriginalNames(MetaPathFinder):
    """Finds our modules under the originals' names, before anyone finds the originals."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of our modules."""
        ours = _MODULES.get(fullname)
        if ours is None or find_spec(ours) is None:
            return None
        return ModuleSpec(fullname, _OurModule(ours), origin=ours)


class _MissingParents(MetaPathFinder):
    """Finds the packages that the originals' names need, where the application has none of its own."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find an empty package."""
        return ModuleSpec(fullname, None, is_package=True) if fullname in _PARENTS else None


_names = _OriginalNames()
_missing_parents = _MissingParents()
_changing = RLock()


def install(unblock: bool = False) -> None:
    """Let the originals' names stand for our modules, in this process, from the next import on.

    From any thread. Installed already, it changes nothing, except that `unblock` may be added.

    Args:
        unblock: let a blocking method of the service that is called in a task, such as `complete()`, suspend
            this task, so that the event loop goes on. Tasks that run already can do so from their next step
            on. Needs the extra `unblock`.

    Raises:
        AlreadyImportedError: an original was imported before, or is being imported at this moment. Nothing
            was changed.
        ImportError: the extra `unblock` is not installed. Nothing was changed.
    """
    with _changing:
        if unblock:
            _unblock().check_extra()
        _install_names()
        if unblock:
            _unblock().install()


def _unblock() -> Any:
    return import_module(f"{_PACKAGE}.llm.unblock")


def _install_names() -> None:
    if is_installed():
        return
    # First ours, then the look at what is there: what another thread imports meanwhile is ours.
    sys.meta_path.insert(0, _names)
    sys.meta_path.append(_missing_parents)
    complaints = [_complaint(name, module) for name, module in _imported_originals()]
    if complaints:
        _remove_finders()
        raise AlreadyImportedError(
            "install() has to come before the first import of the modules it replaces: "
            + "; ".join(complaints)
        )


def uninstall() -> None:
    """Take `install()` back: the next import of an original's name finds the original.

    Modules that were imported meanwhile keep what they have of ours. Not installed, it changes nothing.
    """
    with _changing:
        if f"{_PACKAGE}.llm.unblock" in sys.modules:
            _unblock().uninstall()
        _remove_finders()
        for name, ours in _MODULES.items():
            if name in sys.modules and sys.modules[name] is sys.modules.get(ours):
                if name in _own_loggers:
                    vars(sys.modules[name])["logger"] = _own_loggers.pop(name)
                _forget(name)
        # The deepest first: a package that is still needed stays.
        for name in sorted(_PARENTS, reverse=True):
            module = sys.modules.get(name)
            if module is not None and _is_made_by_us(module) and not any(_loaded_below(name)):
                _forget(name)


def is_installed() -> bool:
    """Whether the originals' names stand for our modules."""
    return any(finder is _names for finder in sys.meta_path)


def pytest_addoption(parser: Any) -> None:
    """Add `--unblock`."""
    text = "let blocking calls of the service, made in a task, suspend the task (arbitrageai-native[unblock])"
    parser.getgroup("arbitrageai_native").addoption("--unblock", action="store_true", help=text)


def pytest_load_initial_conftests(early_config: Any) -> None:
    """For `pytest -p arbitrageai_native.drop_in`: install before any `conftest.py` is imported."""
    _install_for_pytest(early_config.known_args_namespace.unblock)


def pytest_configure(config: Any) -> None:
    """For `pytest_plugins = ["arbitrageai_native.drop_in"]`, which is read later."""
    _install_for_pytest(config.getoption("unblock"))


def _install_for_pytest(unblock: bool) -> None:
    try:
        install(unblock)
    except (AlreadyImportedError, ImportError) as error:
        import pytest

        raise pytest.UsageError(str(error)) from None


def _remove_finders() -> None:
    for finder in (_names, _missing_parents):
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)


def _forget(name: str) -> None:
    module = sys.modules.pop(name)
    parent, _, child = name.rpartition(".")
    package = sys.modules.get(parent)
    if package is not None and vars(package).get(child) is module:
        delattr(package, child)


def _is_made_by_us(module: ModuleType) -> bool:
    return getattr(module, "__file__", None) is None and not list(getattr(module, "__path__", ()))


def _loaded_below(package: str) -> Iterator[str]:
    return (name for name in sys.modules if name.startswith(f"{package}."))


def _imported_originals() -> Iterator[tuple[str, ModuleType]]:
    for name, ours in _MODULES.items():
        module = sys.modules.get(name)
        if module is not None and module is not sys.modules.get(ours) and find_spec(ours) is not None:
            yield name, module


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _complaint(name: str, original: ModuleType) -> str:
    if _is_being_imported(original):
        return f"{name} is being imported at this moment{_by(name, original)}"
    return f"{name} was imported{_by(name, original)}"


def _by(name: str, original: ModuleType) -> str:
    importers = [_described(module) for module in _importers(name, original)]
    return f" by {', '.join(importers)}" if importers else " by a module that keeps nothing of it"


def _importers(name: str, original: ModuleType) -> Iterator[ModuleType]:
    """The modules that have the original, or something defined in it, among their globals."""
    parent = name.rpartition(".")[0]
    for other_name, other in sorted(sys.modules.items()):
        # The package that it is in has it because of the import, whoever it was that imported it.
        if other is original or other_name in (name, parent) or not isinstance(other, ModuleType):
            continue
        if any(value is original or _is_defined_in(value, name) for value in list(vars(other).values())):
            yield other


def _is_defined_in(value: object, name: str) -> bool:
    if not isinstance(value, type) and not callable(value):
        return False
    try:
        return getattr(value, "__module__", None) == name
    except Exception:  # whatever an application's object does when it is asked for an attribute
        return False


def _described(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return f"{module.__name__} ({file})" if file else module.__name__
