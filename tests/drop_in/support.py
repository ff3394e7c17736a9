"""Helpers for the tests of the drop-in modules."""

import sqlite3
import sys
from contextlib import closing
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

PREFIXES = {"reference": "testing_support.reference.src", "native": "arbitrageai_native"}

ENVIRONMENT = [
    "API_KEY",
    "BASE_URL",
    "CLOUD_MODEL",
    "DATABASE_URL",
    "DISTILLED_MODEL_NAME",
    "ENV",
    "LOCAL_API_KEY",
    "LOCAL_BASE_URL",
    "LOCAL_MODEL",
    "MIN_CLOUD_REVENUE",
    "OLLAMA_URL",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "REDIS_DB",
    "REDIS_HOST",
    "REDIS_PASSWORD",
    "REDIS_PORT",
    "REDIS_URL",
    "TASK_MODEL_MAP",
    "TASK_USE_LOCAL_MAP",
    "USE_LOCAL_BY_DEFAULT",
    "USE_REDIS_LOCKS",
]


def module(implementation: str, name: str) -> ModuleType:
    """A module by its name below the package."""
    return import_module(f"{PREFIXES[implementation]}.{name}")


def rows(file: Path, sql: str = "SELECT * FROM distributed_locks") -> list[dict[str, Any]]:
    """The table's rows, read past both implementations."""
    with closing(sqlite3.connect(file)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql)]


def change(file: Path, sql: str, *values: Any) -> None:
    """Change the database past both implementations."""
    with closing(sqlite3.connect(file, timeout=10)) as connection, connection:
        connection.execute(sql, values)


def rewind(file: Path, seconds: float) -> None:
    """Let all locks end `seconds` earlier."""
    change(file, "UPDATE distributed_locks SET expires_at = expires_at - ?", seconds)


def python(*arguments: str) -> list[str]:
    """A command that runs this Python."""
    return [sys.executable, *arguments]
