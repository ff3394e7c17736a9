"""Which calls of a tree may call a function or a class, by the name alone."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Sequence

from .functions import Class, Module, Scope
from .sources import dotted
from .values import called_name


class Callers:
    """The calls by what they call, and the classes by what they inherit from."""

    def __init__(self, modules: Sequence[Module]) -> None:
        self._calls: dict[str, list[tuple[Scope, ast.Call]]] = defaultdict(list)
        self._subclasses: dict[str, list[Class]] = defaultdict(list)
        for module in modules:
            scopes: list[Scope] = [module, *module.functions]
            for scope in scopes:
                for call in scope.calls:
                    self._calls[called_name(call, module)].append((scope, call))
            for made in module.classes.values():
                for base in made.node.bases:
                    self._subclasses[_last(dotted(base) or "")].append(made)

    def calls(self, name: str) -> Sequence[tuple[Scope, ast.Call]]:
        """The calls of anything that has this name, as the last part of its full name."""
        return self._calls.get(name, ())

    def subclasses(self, name: str) -> Sequence[Class]:
        """The classes that inherit directly from a class of this name."""
        return self._subclasses.get(_last(name), ())

    def classes_from(self, name: str) -> list[str]:
        """The name of a class, and those of all that inherit from it."""
        names, pending = {_last(name): None}, [name]
        while pending:
            for made in self.subclasses(pending.pop()):
                if _last(made.name) not in names:
                    names[_last(made.name)] = None
                    pending.append(made.name)
        return list(names)


def _last(name: str) -> str:
    return name.rpartition(".")[2]
