"""Objects of libraries whose methods block, and which ruff does not know.

The synchronous `openai` client, SQLAlchemy's synchronous session, and this package's own synchronous methods.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Kind(Enum):
    """What an object is."""

    OPENAI = "openai client"
    OPENAI_RESOURCE = "part of an openai client"
    SESSION = "SQLAlchemy session"
    SESSION_MAKER = "SQLAlchemy session maker"
    TRANSACTION = "SQLAlchemy transaction"
    SERVICE = "LLMService"
    LOCKS = "BidLockManager"
    THREAD_LOCK = "lock of a thread"


_CLASSES: Final = {
    "openai.OpenAI": Kind.OPENAI,
    "openai.AzureOpenAI": Kind.OPENAI,
    "arbitrageai_native.OpenAI": Kind.OPENAI,
    "arbitrageai_native.llm_service.OpenAI": Kind.OPENAI,
    "sqlalchemy.orm.Session": Kind.SESSION,
    "sqlalchemy.orm.session.Session": Kind.SESSION,
    "sqlmodel.Session": Kind.SESSION,
    "sqlalchemy.orm.sessionmaker": Kind.SESSION_MAKER,
    "sqlalchemy.orm.scoped_session": Kind.SESSION_MAKER,
    "arbitrageai_native.LLMService": Kind.SERVICE,
    "arbitrageai_native.BidLockManager": Kind.LOCKS,
    **{
        f"{module}.{name}": Kind.THREAD_LOCK
        for module in ("threading", "multiprocessing")
        for name in ("BoundedSemaphore", "Condition", "Lock", "RLock", "Semaphore")
    },
}
# By whatever path an application imports the module: `src.llm_service`, `..llm_service`, `llm_service`.
_CLASSES_OF_MODULES: Final = {
    ("llm_service", "LLMService"): Kind.SERVICE,
    ("bid_lock_manager", "BidLockManager"): Kind.LOCKS,
}
# The usual name of a session maker, which counts if its module is not among the audited files.
USUAL_SESSION_MAKER: Final = "SessionLocal"

_SESSION_METHODS: Final = frozenset(
    (
        *("begin_nested", "commit", "connection", "delete", "execute", "flush", "get", "get_one", "merge"),
        *("query", "refresh", "rollback", "scalar", "scalars"),
    )
)
_TRANSACTIONS: Final = frozenset(("begin", "begin_nested"))
_TRANSACTION_METHODS: Final = frozenset(("commit", "rollback"))
_SERVICE_METHODS: Final = frozenset(
    ("complete", "complete_many", "complete_streaming", "complete_with_fallback")
)
_LOCKS_INSTEAD: Final = {
    "close": "await manager.aclose()",
    "get_metrics": "await manager.get_metrics_async()",
    "with_lock_sync": "async with manager.with_lock(…)",
}
_OF_OPENAI: Final = frozenset(("with_options", "copy"))


def kind_of_class(name: str) -> Kind | None:
    """The kind of a class's objects, by the class's full name."""
    module, _, last = name.rpartition(".")
    return _CLASSES.get(name) or _CLASSES_OF_MODULES.get((module.rpartition(".")[2], last))


def member(kind: Kind, name: str) -> Kind | None:
    """What an attribute is that is an object of a known kind itself."""
    if name.startswith("_"):
        return None
    if kind is Kind.OPENAI_RESOURCE or (kind is Kind.OPENAI and name not in _OF_OPENAI):
        return Kind.OPENAI_RESOURCE
    return Kind.OPENAI if (kind, name) == (Kind.SERVICE, "client") else None


def result(kind: Kind, method: str) -> Kind | None:
    """What a method of a known kind returns, if that is an object of a known kind."""
    if kind is Kind.OPENAI and method in _OF_OPENAI:
        return Kind.OPENAI
    if kind is Kind.SESSION and method in _TRANSACTIONS:
        return Kind.TRANSACTION
    return Kind.SESSION if (kind, method) == (Kind.SESSION_MAKER, "begin") else None


def instead_of(kind: Kind, method: str) -> str | None:
    """What to use instead of a method that blocks; None for all others."""
    if kind is Kind.OPENAI_RESOURCE:
        return "await the same call of AsyncOpenAI"
    methods = _TRANSACTION_METHODS if kind is Kind.TRANSACTION else _SESSION_METHODS
    if kind in (Kind.SESSION, Kind.SESSION_MAKER, Kind.TRANSACTION) and method in methods:
        return "await the same call of sqlalchemy.ext.asyncio.AsyncSession, or asyncio.to_thread"
    if kind is Kind.SERVICE and method in _SERVICE_METHODS:
        return f"{'async for … in' if method.endswith('streaming') else 'await'} {method}_async(…)"
    return _LOCKS_INSTEAD.get(method) if kind is Kind.LOCKS else None
