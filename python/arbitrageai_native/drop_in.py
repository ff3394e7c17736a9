"""Puts this package's modules in the place of the originals, without a change to the application.

`install()` lets the originals' names (`src.llm_service`, …) stand for our modules, whether files of these
names exist or not; it has to come before the first of them is imported. `python -m arbitrageai_native run --
COMMAND` does it in COMMAND and in the Python processes that it starts, and `pytest -p
arbitrageai_native.drop_in` in a test run. `uninstall()` takes it back.

An original's name and ours are then one and the same module object, so that what is patched in one is patched
in the other. Nothing of ours is imported before the application asks for it.

For pytest, which would rewrite its plugins' assertions, and warn if they are imported already:
PYTEST_DONT_REWRITE.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

__all__ = ["AlreadyImportedError", "application_database", "install", "is_installed", "uninstall"]

_PACKAGE = "arbitrageai_native"

# The original's name -> ours.
_MODULES = {
    f"src.{name}": f"{_PACKAGE}.{name}"
    for name in (
        "llm_service",
        "llm_health_check",
        "agent_execution.bid_lock_manager",
        "agent_execution.redis_bid_lock_manager",
        "agent_execution.bid_lock_manager_factory",
        "utils.async_helpers",
    )
}

_PARENTS = frozenset(("src", "src.agent_execution", "src.utils"))

_APPLICATION_DATABASE = "src.api.database"
_APPLICATION_PARTS = ("src", "src.api", _APPLICATION_DATABASE)
_NAMES_OF_A_DATABASE = ("SessionLocal", "engine", "DATABASE_URL")


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
        sys.modules[module.__name__] = import_module(self._name)


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


def install() -> None:
    """Let the originals' names stand for our modules, in this process, from the next import on.

    From any thread. Installed already, it changes nothing.

    Raises:
        AlreadyImportedError: an original was imported before, or is being imported at this moment. Nothing
            was changed.
    """
    with _changing:
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
        _remove_finders()
        for name, ours in _MODULES.items():
            if name in sys.modules and sys.modules[name] is sys.modules.get(ours):
                _forget(name)
        # The deepest first: a package that is still needed stays.
        for name in sorted(_PARENTS, reverse=True):
            module = sys.modules.get(name)
            if module is not None and _is_made_by_us(module) and not any(_loaded_below(name)):
                _forget(name)


def is_installed() -> bool:
    """Whether the originals' names stand for our modules."""
    return any(finder is _names for finder in sys.meta_path)


def application_database() -> Any:
    """Return the object that determines the application's database.

    This is the `SessionLocal` of the module `src.api.database`, else its `engine`, else its `DATABASE_URL`,
    whether `install()` was called or not. The module is imported if it exists: the original imports it, and
    an old process and a new one have to use the same database. Returns None if there is no such module.

    Raises:
        LockBackendError: the import fails, or it is still under way and is what calls this function.
    """
    module = _application_module()
    for name in _NAMES_OF_A_DATABASE:
        found = getattr(module, name, None)
        if found is not None:
            return found
    if module is not None and _is_being_imported(module):
        raise _no_database("is still being imported, and does not define SessionLocal or engine yet")
    return None


# The `sys.path` in which the module was not found. The module is searched again when `sys.path`
# changes.
_path_without_application: list[str] | None = None


def _application_module() -> ModuleType | None:
    global _path_without_application
    module = sys.modules.get(_APPLICATION_DATABASE)
    if module is not None and not _is_being_imported(module):
        return module
    if module is None and sys.path == _path_without_application:
        return None
    try:
        if module is None and find_spec(_APPLICATION_DATABASE) is None:
            _path_without_application = list(sys.path)
            return None
        return import_module(_APPLICATION_DATABASE)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _APPLICATION_PARTS:
            _path_without_application = list(sys.path)
            return None
        from arbitrageai_native._safe_text import without_credentials

        # Falling back to another database would break the exclusion with old processes.
        said = without_credentials(f"{type(error).__name__}: {error}")
        raise _no_database(f"can't be imported: {said}") from error


def _no_database(why: str) -> Exception:
    from arbitrageai_native.exceptions import LockBackendError

    return LockBackendError(f"{_APPLICATION_DATABASE}, which defines the database of the locks, {why}")


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def pytest_load_initial_conftests() -> None:
    """For `pytest -p arbitrageai_native.drop_in`: install before any `conftest.py` is imported."""
    _install_for_pytest()


def pytest_configure() -> None:
    """For `pytest_plugins = ["arbitrageai_native.drop_in"]`, which is read later."""
    _install_for_pytest()


def _install_for_pytest() -> None:
    try:
        install()
    except AlreadyImportedError as error:
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
