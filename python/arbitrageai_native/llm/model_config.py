"""Which model serves which kind of task."""

from __future__ import annotations

from typing import Any

from arbitrageai_native import defaults, environment
from arbitrageai_native._typing import Self

DEFAULT_CLOUD_MODEL = defaults.CLOUD_MODEL
"""The cloud's model, if nothing says otherwise."""

DEFAULT_LOCAL_MODEL = defaults.LOCAL_MODEL
"""The local model, if nothing says otherwise."""

DEFAULT_DISTILLED_MODEL = defaults.DISTILLED_MODEL
"""The distilled model, unless the environment's `DISTILLED_MODEL_NAME` names another."""

TASK_TYPE_BASIC_ADMIN = "basic_admin"
"""The kind of `LLMService.for_basic_admin`."""

TASK_TYPE_COMPLEX = "complex"
"""The kind of `LLMService.for_complex_task`."""

TASK_TYPE_DISTILLED = "distilled"
"""The kind of a task for the distilled model."""


class ModelConfig:
    """Which model serves which kind of task, and where.

    Attributes:
        cloud_model: The cloud's model.
        local_model: The local model.
        local_base_url: The local endpoint: the argument, else the environment's `OLLAMA_URL`, else Ollama's.
        local_api_key: Its key.
        use_local_by_default: Whether a task that no map names is for the local model.
        task_model_map: Kind of task -> model.
        task_use_local_map: Kind of task -> whether it is for the local endpoint.
    """

    def __init__(
        self,
        cloud_model: str = DEFAULT_CLOUD_MODEL,
        local_model: str = DEFAULT_LOCAL_MODEL,
        local_base_url: str | None = None,
        local_api_key: str = defaults.LOCAL_API_KEY,
        use_local_by_default: bool = defaults.USE_LOCAL_BY_DEFAULT,
        task_model_map: dict[str, str] | None = None,
        task_use_local_map: dict[str, bool] | None = None,
    ) -> None:
        self.cloud_model = cloud_model
        self.local_model = local_model
        self.local_base_url = local_base_url or environment.ollama_url()
        self.local_api_key = local_api_key
        self.use_local_by_default = use_local_by_default
        self.task_model_map = task_model_map or {}
        self.task_use_local_map = task_use_local_map or {}

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment: `CLOUD_MODEL`, `LOCAL_MODEL`, `LOCAL_BASE_URL` and the others."""
        return cls(
            cloud_model=environment.cloud_model(),
            local_model=environment.local_model(),
            local_base_url=environment.local_base_url(),
            local_api_key=environment.local_api_key(),
            use_local_by_default=environment.use_local_by_default(),
            task_model_map=environment.task_model_map(),
            task_use_local_map=environment.task_use_local_map(),
        )

    def get_model_for_task(
        self, task_type: str, prefer_local: bool | None = None
    ) -> tuple[str, str, str, bool]:
        """`(model, base_url, api_key, is_local)`: by the task maps, `prefer_local`, or the default."""
        is_local = self.use_local_by_default if prefer_local is None else prefer_local
        is_local = bool(self.task_use_local_map.get(task_type, is_local))
        model = self.task_model_map.get(task_type, self.local_model if is_local else self.cloud_model)
        if is_local:
            return model, self.local_base_url, self.local_api_key, True
        return model, environment.cloud_base_url(), environment.cloud_api_key(), False

    def __getstate__(self) -> dict[str, Any]:
        # A key has no business in a pickle; the process that reads it has its own environment.
        return {name: value for name, value in vars(self).items() if name != "local_api_key"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, local_api_key=environment.local_api_key())

    def __repr__(self) -> str:
        return (
            f"ModelConfig(cloud_model={self.cloud_model!r}, local_model={self.local_model!r}, "
            f"use_local_by_default={self.use_local_by_default!r})"
        )
