"""What this package's main modules need only in some programs, imported when it is first used."""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from arbitrageai_native.llm.counting import CountedCall as CountedCall
    from arbitrageai_native.llm.counting import CountedStream as CountedStream
    from arbitrageai_native.llm.fallback import FallbackPlan as FallbackPlan
    from arbitrageai_native.llm.streams import AsyncStream as AsyncStream
    from arbitrageai_native.llm.streams import Stream as Stream
    from arbitrageai_native.llm_health_check import HealthMetrics as HealthMetrics
    from arbitrageai_native.llm_health_check import LLMHealthChecker as LLMHealthChecker
    from arbitrageai_native.llm_health_check import get_health_checker as get_health_checker
else:
    _HOMES = {
        "AsyncStream": "llm.streams",
        "CountedCall": "llm.counting",
        "CountedStream": "llm.counting",
        "FallbackPlan": "llm.fallback",
        "HealthMetrics": "llm_health_check",
        "LLMHealthChecker": "llm_health_check",
        "Stream": "llm.streams",
        "get_health_checker": "llm_health_check",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        home = importlib.import_module(f"{__package__}.{_HOMES[name]}")
        globals()[name] = found = getattr(home, name)
        return found
