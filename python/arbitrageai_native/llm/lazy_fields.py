"""Dataclasses whose fields are made when `dataclasses` first asks for them.

The decorator `dataclass` compiles source text, and importing it takes a tenth of what this package's import
takes; few programs ask for the fields.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["LazyFields"]


class LazyFields:
    """The `__dataclass_fields__` of a class whose `__init__` names the fields.

    Args:
        factories: of the fields whose default is made for each object, by name.
    """

    def __init__(self, **factories: Callable[[], Any]) -> None:
        self._factories = factories

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner

    def __get__(self, instance: object, owner: type) -> Any:
        import inspect
        from dataclasses import dataclass, field

        annotations: dict[str, Any] = {}
        namespace: dict[str, Any] = {"__annotations__": annotations}
        for name, parameter in list(inspect.signature(vars(self._owner)["__init__"]).parameters.items())[1:]:
            annotations[name] = parameter.annotation
            if name in self._factories:
                namespace[name] = field(default_factory=self._factories[name])
            elif parameter.default is not parameter.empty:
                namespace[name] = parameter.default
        made: Any = dataclass(type(self._owner.__name__, (), namespace))
        for name in ("__dataclass_fields__", "__dataclass_params__", "__match_args__"):
            setattr(self._owner, name, getattr(made, name))
        return made.__dataclass_fields__
