"""The application's module `src.api.database`, which defines where its locks are: found, and imported."""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import Future
from importlib import import_module
from threading import Lock, Thread
from types import ModuleType
from typing import Any

from arbitrageai_native._safe_text import without_credentials
from arbitrageai_native.exceptions import LockBackendError

__all__ = ["DATABASE", "application_database", "import_in_thread", "no_database", "would_block_a_loop"]

DATABASE = "src.api.database"
_PARTS = ("src", "src.api", DATABASE)
_NAMES = ("SessionLocal", "engine", "DATABASE_URL")


def application_database() -> Any:
    """Return the object that determines the application's database.

    This is the `SessionLocal` of the module `src.api.database`, else its `engine`, else its `DATABASE_URL`.
    The module is imported if it exists: the original imports it, and an old process and a new one have to use
    the same database. Returns None if there is no such module.

    Raises:
        LockBackendError: the import fails, or it is still under way and is what calls this function.
    """
    module = _application_module()
    for name in _NAMES:
        found = getattr(module, name, None)
        if found is not None:
            return found
    if module is not None and _is_being_imported(module):
        raise no_database("is still being imported, and does not define SessionLocal or engine yet")
    return None


# The `sys.path` in which the module was not found. The module is searched again when `sys.path`
# changes.
_path_without_application: list[str] | None = None


def _application_module() -> ModuleType | None:
    global _path_without_application
    module = sys.modules.get(DATABASE)
    if module is not None and not _is_being_imported(module):
        return module
    if module is None and sys.path == _path_without_application:
        return None
    from importlib.util import find_spec  # not every program has locks in an application's database

    try:
        if module is None and find_spec(DATABASE) is None:
            _path_without_application = list(sys.path)
            return None
        return import_module(DATABASE)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _PARTS:
            _path_without_application = list(sys.path)
            return None
        # Falling back to another database would break the exclusion with old processes.
        said = without_credentials(f"{type(error).__name__}: {error}")
        raise no_database(f"can't be imported: {said}") from error


def no_database(why: str) -> LockBackendError:
    return LockBackendError(f"{DATABASE}, which defines the database of the locks, {why}")


def _is_being_imported(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


# The import that is under way in a thread.
_importing: Future[None] | None = None
_starting = Lock()


def _forget_import() -> None:
    """Forget it in a forked child, which does not have the thread."""
    global _importing, _starting
    _importing, _starting = None, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_import)


def import_in_thread() -> Future[None]:
    """Start the import of the application's module, unless it is already under way; return its future."""
    global _importing
    with _starting:
        importing = _importing
        if importing is None:
            importing = _importing = Future()
            importing.set_running_or_notify_cancel()  # no caller that stops waiting may cancel it
            Thread(target=_run_import, args=(importing,), name="arbitrageai-import", daemon=True).start()
        return importing


def _run_import(importing: Future[None]) -> None:
    global _importing
    failure: BaseException | None = None
    try:
        application_database()
    except BaseException as error:
        failure = error
    with _starting:
        _importing = None
    if failure is None:
        importing.set_result(None)
    else:
        importing.set_exception(failure)


def would_block_a_loop() -> bool:
    """Whether this thread has an event loop that the import of the application's module would stop."""
    if asyncio._get_running_loop() is None:
        return False
    module = sys.modules.get(DATABASE)
    if module is None:
        return sys.path != _path_without_application
    return _is_being_imported(module)
