"""What a service tells of itself, and its end."""

from __future__ import annotations

from typing import Any, cast

from arbitrageai_native import _native
from arbitrageai_native._safe_text import without_secrets
from arbitrageai_native.llm.closing import ClosesAfterBlock
from arbitrageai_native.llm.results import ServiceMetrics

__all__ = ["ServiceFacts"]


class ServiceFacts(ClosesAfterBlock):
    """The settings of a service, without its secrets."""

    base_url: str
    model: str
    default_temperature: float
    default_max_tokens: int
    enable_fallback: bool
    _is_local: bool
    _metrics: _native.CallMetrics
    _closed: bool

    def set_model(self, model: str) -> None:
        """Change the model of the calls to come."""
        self.model = model

    def get_model(self) -> str:
        """The model of the calls to come."""
        return self.model

    def is_local(self) -> bool:
        """Whether the endpoint is on this machine."""
        return self._is_local

    def get_config(self) -> dict[str, Any]:
        """The settings, without the key, and without user, password and query of the base URL."""
        return {
            "base_url": without_secrets(self.base_url),
            "model": self.model,
            "temperature": self.default_temperature,
            "max_tokens": self.default_max_tokens,
            "is_local": self._is_local,
            "enable_fallback": self.enable_fallback,
        }

    def metrics(self) -> ServiceMetrics:
        """Return the counters of this service; those of the process: `arbitrageai_native.metrics()`."""
        return cast("ServiceMetrics", self._metrics.snapshot())

    def close(self) -> None:
        """Refuse further calls. Connections are the process's and close by themselves when idle."""
        self._closed = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={without_secrets(self.base_url)!r}, model={self.model!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(f"{type(self).__name__} holds an API key and is not pickled")
