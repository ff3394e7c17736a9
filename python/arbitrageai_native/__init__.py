"""LLM calls and database locks for asyncio that never block the event loop.

The public names are imported when they are first used: importing this package alone loads nothing heavy and
starts nothing. (PYTEST_DONT_REWRITE: it may be imported before pytest finds the plugin.)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__all__ = [
    "AsyncOpenAI",
    "AsyncStream",
    "BidLockManager",
    "Completion",
    "LLMService",
    "Lease",
    "LoopMonitor",
    "ModelConfig",
    "OpenAI",
    "Stream",
    "Usage",
    "__version__",
    "exceptions",
    "metrics",
    "safe_sleep",
]

if TYPE_CHECKING:
    from arbitrageai_native import exceptions as exceptions
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager as BidLockManager
    from arbitrageai_native.exceptions import *  # noqa: F403, each of them is offered here
    from arbitrageai_native.integrations import opentelemetry as opentelemetry
    from arbitrageai_native.integrations import prometheus as prometheus
    from arbitrageai_native.llm.clients import AsyncOpenAI as AsyncOpenAI
    from arbitrageai_native.llm.clients import OpenAI as OpenAI
    from arbitrageai_native.llm.results import Completion as Completion
    from arbitrageai_native.llm.results import Usage as Usage
    from arbitrageai_native.llm.streams import AsyncStream as AsyncStream
    from arbitrageai_native.llm.streams import Stream as Stream
    from arbitrageai_native.llm_service import LLMService as LLMService
    from arbitrageai_native.llm_service import ModelConfig as ModelConfig
    from arbitrageai_native.locks.leases import Lease as Lease
    from arbitrageai_native.loop_monitor import LoopMonitor as LoopMonitor
    from arbitrageai_native.process_metrics import metrics as metrics
    from arbitrageai_native.utils.async_helpers import safe_sleep as safe_sleep

    __version__: str
    __all__ += exceptions.__all__

if not TYPE_CHECKING:
    # `__getattr__` makes `__all__`, for `import *` alone: with the exceptions, whose module is loaded then.
    _NAMES = __all__
    del __all__

    # Public name -> the module that defines it, or, for a module, that module itself.
    _HOMES = {
        "AsyncOpenAI": "llm.clients",
        "AsyncStream": "llm.streams",
        "BidLockManager": "agent_execution.bid_lock_manager",
        "Completion": "llm.results",
        "LLMService": "llm_service",
        "Lease": "locks.leases",
        "LoopMonitor": "loop_monitor",
        "ModelConfig": "llm_service",
        "OpenAI": "llm.clients",
        "Stream": "llm.streams",
        "Usage": "llm.results",
        "exceptions": "exceptions",
        "metrics": "process_metrics",
        "opentelemetry": "integrations.opentelemetry",
        "prometheus": "integrations.prometheus",
        "safe_sleep": "utils.async_helpers",
    }

    def __getattr__(name):
        if name == "__version__":
            from importlib.metadata import version

            value = version("arbitrageai-native")
        elif name == "__all__":
            value = [*_NAMES, *__getattr__("exceptions").__all__]
        elif name in _HOMES:
            module = importlib.import_module(f"{__name__}.{_HOMES[name]}")
            value = module if module.__name__.endswith(f".{name}") else getattr(module, name)
        # No exception begins with a small letter: `from arbitrageai_native import drop_in` loads no other.
        elif name[:1].isupper() and name in (found := __getattr__("exceptions")).__all__:
            value = getattr(found, name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__"), *_HOMES})
