"""LLM calls and database locks for asyncio that never block the event loop.

The public names are imported when they are first used: importing this package alone loads nothing heavy and
starts nothing. (PYTEST_DONT_REWRITE: it may be imported before pytest finds the plugin.)
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from arbitrageai_native import exceptions as exceptions
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager as BidLockManager
    from arbitrageai_native.integrations import opentelemetry as opentelemetry
    from arbitrageai_native.integrations import prometheus as prometheus
    from arbitrageai_native.llm.clients import AsyncOpenAI as AsyncOpenAI
    from arbitrageai_native.llm.clients import OpenAI as OpenAI
    from arbitrageai_native.llm_service import LLMService as LLMService
    from arbitrageai_native.llm_service import ModelConfig as ModelConfig
    from arbitrageai_native.loop_monitor import LoopMonitor as LoopMonitor
    from arbitrageai_native.process_metrics import metrics as metrics
    from arbitrageai_native.utils.async_helpers import safe_sleep as safe_sleep

# Public name -> the module that defines it, or, for a module, that module itself.
_HOMES: dict[str, str] = {
    "AsyncOpenAI": "llm.clients",
    "BidLockManager": "agent_execution.bid_lock_manager",
    "LLMService": "llm_service",
    "LoopMonitor": "loop_monitor",
    "ModelConfig": "llm_service",
    "OpenAI": "llm.clients",
    "exceptions": "exceptions",
    "metrics": "process_metrics",
    "opentelemetry": "integrations.opentelemetry",
    "prometheus": "integrations.prometheus",
    "safe_sleep": "utils.async_helpers",
}

__all__ = [
    "AsyncOpenAI",
    "BidLockManager",
    "LLMService",
    "LoopMonitor",
    "ModelConfig",
    "OpenAI",
    "exceptions",
    "metrics",
    "safe_sleep",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(f"{__name__}.{home}")
    value: object = module if home.rpartition(".")[2] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
