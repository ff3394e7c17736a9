"""Names of the originals' modules that ours do not use themselves: tests patch them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["foreign_names"]


def foreign_names(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module that has foreign names; each is imported when it is looked up."""

    def __getattr__(name: str) -> Any:  # noqa: N807, it is one
        if name.startswith("__"):  # every import of a name of the module asks for `__path__`
            raise AttributeError(name)
        from arbitrageai_native import drop_in  # few programs look up a foreign name

        return drop_in.foreign_name(module, name)

    return __getattr__
