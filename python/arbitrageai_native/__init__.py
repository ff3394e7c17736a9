"""LLM calls and database locks for asyncio that never block the event loop.

The public names are imported when they are first used: importing this package alone loads nothing heavy and
starts nothing. (PYTEST_DONT_REWRITE: it may be imported before pytest finds the plugin.)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arbitrageai_native import exceptions as exceptions
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager as BidLockManager
    from arbitrageai_native.exceptions import APIConnectionError as APIConnectionError
    from arbitrageai_native.exceptions import APIError as APIError
    from arbitrageai_native.exceptions import APIResponseValidationError as APIResponseValidationError
    from arbitrageai_native.exceptions import APIStatusError as APIStatusError
    from arbitrageai_native.exceptions import APITimeoutError as APITimeoutError
    from arbitrageai_native.exceptions import AuthenticationError as AuthenticationError
    from arbitrageai_native.exceptions import BadRequestError as BadRequestError
    from arbitrageai_native.exceptions import CircuitBreakerError as CircuitBreakerError
    from arbitrageai_native.exceptions import ClientClosedError as ClientClosedError
    from arbitrageai_native.exceptions import ConflictError as ConflictError
    from arbitrageai_native.exceptions import InternalServerError as InternalServerError
    from arbitrageai_native.exceptions import InvalidArgumentError as InvalidArgumentError
    from arbitrageai_native.exceptions import InvalidArgumentTypeError as InvalidArgumentTypeError
    from arbitrageai_native.exceptions import LockBackendError as LockBackendError
    from arbitrageai_native.exceptions import LockError as LockError
    from arbitrageai_native.exceptions import LockLostError as LockLostError
    from arbitrageai_native.exceptions import LockStoreError as LockStoreError
    from arbitrageai_native.exceptions import LockTimeoutError as LockTimeoutError
    from arbitrageai_native.exceptions import NotFoundError as NotFoundError
    from arbitrageai_native.exceptions import OpenAIError as OpenAIError
    from arbitrageai_native.exceptions import PermissionDeniedError as PermissionDeniedError
    from arbitrageai_native.exceptions import RateLimitError as RateLimitError
    from arbitrageai_native.exceptions import UnprocessableEntityError as UnprocessableEntityError
    from arbitrageai_native.integrations import opentelemetry as opentelemetry
    from arbitrageai_native.integrations import prometheus as prometheus
    from arbitrageai_native.llm.clients import AsyncOpenAI as AsyncOpenAI
    from arbitrageai_native.llm.clients import OpenAI as OpenAI
    from arbitrageai_native.llm.streams import AsyncStream as AsyncStream
    from arbitrageai_native.llm.streams import Stream as Stream
    from arbitrageai_native.llm_service import LLMService as LLMService
    from arbitrageai_native.llm_service import ModelConfig as ModelConfig
    from arbitrageai_native.locks.leases import Lease as Lease
    from arbitrageai_native.loop_monitor import LoopMonitor as LoopMonitor
    from arbitrageai_native.process_metrics import metrics as metrics
    from arbitrageai_native.utils.async_helpers import safe_sleep as safe_sleep

    __version__: str

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncOpenAI",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "BidLockManager",
    "CircuitBreakerError",
    "ClientClosedError",
    "ConflictError",
    "InternalServerError",
    "InvalidArgumentError",
    "InvalidArgumentTypeError",
    "LLMService",
    "Lease",
    "LockBackendError",
    "LockError",
    "LockLostError",
    "LockStoreError",
    "LockTimeoutError",
    "LoopMonitor",
    "ModelConfig",
    "NotFoundError",
    "OpenAI",
    "OpenAIError",
    "PermissionDeniedError",
    "RateLimitError",
    "Stream",
    "UnprocessableEntityError",
    "__version__",
    "exceptions",
    "metrics",
    "safe_sleep",
]

if not TYPE_CHECKING:
    # Public name -> the module that defines it, or, for a module, that module itself. All others of `__all__`
    # are exceptions.
    _HOMES = {
        "AsyncOpenAI": "llm.clients",
        "AsyncStream": "llm.streams",
        "BidLockManager": "agent_execution.bid_lock_manager",
        "LLMService": "llm_service",
        "Lease": "locks.leases",
        "LoopMonitor": "loop_monitor",
        "ModelConfig": "llm_service",
        "OpenAI": "llm.clients",
        "Stream": "llm.streams",
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
        elif name in _HOMES or name in __all__:
            home = _HOMES.get(name, "exceptions")
            module = importlib.import_module(f"{__name__}.{home}")
            value = module if home.rpartition(".")[2] == name else getattr(module, name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__, *_HOMES})
