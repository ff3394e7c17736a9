"""Follows blocking calls through a tree's own synchronous functions, up to the coroutines that call them."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator, Sequence

from .functions import Blocker, Function, Module
from .report import Finding
from .sources import dotted


def findings(modules: Sequence[Module]) -> list[Finding]:
    """Everything that blocks in a coroutine, by itself or behind helpers, in order."""
    graph = _CallGraph(modules)
    found: set[Finding] = set()
    for module in modules:
        path = str(module.source.path)
        for function in module.functions:
            if not function.is_async:
                continue
            for blocker in function.blockers:
                place = (path, blocker.line, function.name, blocker.call, blocker.instead)
                found.add(Finding(*place, column=blocker.column))
            for made, helper in graph.calls_of(function):
                line, column = module.start(made)
                chain = graph.chain(helper)
                if chain and not module.is_silenced(line):
                    names, blocker, where = chain
                    call = " -> ".join([*names, f"{blocker.call} ({where}:{blocker.line})"])
                    instead = f"asyncio.to_thread for the helper, or in it: {blocker.instead}"
                    found.add(Finding(path, line, function.name, call, instead, column))
    return sorted(found)


class _CallGraph:
    """Which synchronous function calls which; for each that blocks, the next on the shortest way to why."""

    def __init__(self, modules: Sequence[Module]) -> None:
        self._modules: dict[str, Module] = {}
        for place in (0, 1):
            for module in modules:
                for name in module.source.modules[place : place + 1]:
                    self._modules.setdefault(name, module)
        self._next: dict[Function, Function | None] = {}
        callers: dict[Function, list[Function]] = {}
        helpers = [function for module in modules for function in module.functions if _is_helper(function)]
        for function in helpers:
            for _, called in self.calls_of(function):
                callers.setdefault(called, []).append(function)
        pending = deque(function for function in helpers if _reason(function))
        self._next.update(dict.fromkeys(pending))
        while pending:
            blocking = pending.popleft()
            for caller in callers.get(blocking, []):
                if caller not in self._next:
                    self._next[caller] = blocking
                    pending.append(caller)

    def chain(self, helper: Function) -> tuple[list[str], Blocker, str] | None:
        """The helpers from this one to the blocking call, that call, and its file."""
        if helper not in self._next:
            return None
        names = [helper.name.rpartition("<locals>.")[2]]
        while (following := self._next[helper]) is not None:
            helper = following
            names.append(helper.name.rpartition("<locals>.")[2])
        blocker = _reason(helper)
        return None if blocker is None else (names, blocker, str(helper.module.source.path))

    def calls_of(self, function: Function) -> Iterator[tuple[ast.Call, Function]]:
        """Yield the calls of a function to helpers in the source tree, each with its helper."""
        for call in function.calls:
            called = self._resolve(function, call.func)
            if called is not None and _is_helper(called):
                yield call, called

    def _resolve(self, function: Function, expression: ast.expr) -> Function | None:
        name = dotted(expression)
        if name is None:
            return None
        first, _, rest = name.partition(".")
        if first in ("self", "cls") and function.owner and rest and "." not in rest:
            return self._method(function.module, function.owner, rest)
        if first in function.parameters:
            return None  # whatever was passed
        scope = function.name
        while scope and not rest:  # nested functions, from the innermost scope outwards
            nested = function.module.by_name.get(f"{scope}.<locals>.{first}")
            if nested is not None:
                return nested
            scope = scope.rpartition(".<locals>.")[0]
        return self._in_module(function.module, name)

    def _in_module(self, module: Module, name: str, depth: int = 5) -> Function | None:
        """What a dotted name means at the top of a module: a function, or a class's constructor."""
        if name in module.by_name:
            return module.by_name[name]
        if name in module.bases:
            return self._method(module, name, "__init__")
        first, _, rest = name.partition(".")
        if first not in module.imports or depth == 0:
            return None
        full = ".".join(filter(None, [module.imports[first], rest]))
        origin, _, last = full.rpartition(".")
        attributes = [last]
        while origin:
            found = self._modules.get(origin)
            if found is not None and found is not module:
                return self._in_module(found, ".".join(attributes), depth - 1)
            origin, _, last = origin.rpartition(".")
            attributes.insert(0, last)
        return None

    def _method(self, module: Module, owner: str, name: str) -> Function | None:
        pending, seen = [owner], set[str]()
        while pending:
            class_name = pending.pop(0)
            if class_name in seen:
                continue
            seen.add(class_name)
            found = module.by_name.get(f"{class_name}.{name}")
            if found is not None:
                return found
            pending += [base for base in module.bases.get(class_name, []) if base in module.bases]
        return None


def _reason(helper: Function) -> Blocker | None:
    """The first call of a helper that makes it block its callers."""
    return next((found for found in sorted(helper.blockers, key=lambda f: f.line) if found.is_followed), None)


def _is_helper(function: Function) -> bool:
    return not function.is_async and not function.is_generator
