"""Follows blocking calls through a tree's own synchronous functions, up to the coroutines that call them."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from .functions import Blocker, Class, Function, Module
from .inference import Inference
from .known_types import Kind, instead_of
from .report import Finding
from .values import Instance, KindMethod


class KnownCall(NamedTuple):
    """A call of a known kind's blocking method."""

    call: ast.Call
    kind: Kind
    instead: str


def known_calls(function: Function, inference: Inference) -> Iterator[KnownCall]:
    """Yield the calls of known kinds' blocking methods that a function makes itself."""
    for call in function.calls:
        # What is awaited comes from an asynchronous object, whatever it looks like.
        is_asynchronous = id(call) in function.awaited | function.used_by_async
        if is_asynchronous or not isinstance(call.func, ast.Attribute):
            continue
        for value in inference.of_called(call, function):
            if isinstance(value, KindMethod) and not value.is_of_class:
                instead = instead_of(value.kind, value.name)
                if instead:
                    yield KnownCall(call, value.kind, instead)
                    break


def add_known_blockers(modules: Sequence[Module], inference: Inference) -> None:
    """Add the calls of the known kinds' blocking methods to the functions in which they are."""
    for module in modules:
        for function in module.functions:
            for call, kind, instead in known_calls(function, inference):
                if not module.is_silenced(call.lineno):
                    blocker = Blocker(*module.start(call), ast.unparse(call.func), instead)
                    function.blockers.append(blocker._replace(is_of_service=kind is Kind.SERVICE))


def findings(modules: Sequence[Module], inference: Inference) -> list[Finding]:
    """Everything that blocks in a coroutine, by itself or behind helpers, in order."""
    graph = CallGraph(modules, inference, lambda blocker: blocker.is_followed)
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
                call = graph.path_to_blocker(helper)
                if call and not module.is_silenced(line):
                    text, blocker = call
                    instead = f"asyncio.to_thread for the helper, or in it: {blocker.instead}"
                    found.add(Finding(path, line, function.name, text, instead, column))
    return sorted(found)


class CallGraph:
    """Which synchronous function calls which; for each that blocks, the next on the shortest way to why.

    `is_meant` selects the blocking calls that are followed.
    """

    def __init__(
        self, modules: Sequence[Module], inference: Inference, is_meant: Callable[[Blocker], bool]
    ) -> None:
        self._inference = inference
        self._is_meant = is_meant
        functions = [function for module in modules for function in module.functions]
        self._properties = {function.node.name for function in functions if function.is_property}
        self._next: dict[Function, Function | None] = {}
        callers: dict[Function, list[Function]] = {}
        helpers = [function for function in functions if not function.is_async]
        for function in helpers:
            for _, called in self.calls_of(function):
                callers.setdefault(called, []).append(function)
        pending = deque(function for function in helpers if self._reason(function))
        self._next.update(dict.fromkeys(pending))
        while pending:
            blocking = pending.popleft()
            for caller in callers.get(blocking, []):
                if caller not in self._next:
                    self._next[caller] = blocking
                    pending.append(caller)

    def path_to_blocker(self, helper: Function) -> tuple[str, Blocker] | None:
        """The helpers from this one to the blocking call and its place, as text, and that call."""
        if helper not in self._next:
            return None
        names = [_short_name(helper)]
        while (following := self._next[helper]) is not None:
            helper = following
            names.append(_short_name(helper))
        blocker = self._reason(helper)
        if blocker is None:
            return None
        return " -> ".join([*names, f"{blocker.call} ({helper.module.source.path}:{blocker.line})"]), blocker

    def calls_of(self, function: Function) -> Iterator[tuple[ast.expr, Function]]:
        """Yield the calls and the reads of properties that run helpers of the tree, each with its helper."""
        for call in function.calls:
            for called in self._inference.functions_called(call, function):
                if self._is_run(function, call, called):
                    yield call, called
        for attribute in function.attributes:
            if attribute.attr in self._properties:
                for called in self._properties_read(attribute, function):
                    yield attribute, called

    def _properties_read(self, attribute: ast.Attribute, function: Function) -> Iterator[Function]:
        for value in self._inference.values(attribute.value, function):
            if isinstance(value, Instance) and isinstance(value.of, Class):
                classes = [made for made in self._inference.classes(value.of) if isinstance(made, Class)]
                found = next(filter(None, (made.method(attribute.attr) for made in classes)), None)
                if found and found.is_property and not found.is_async:
                    yield found

    def _is_run(self, function: Function, call: ast.Call, called: Function) -> bool:
        """Whether a call runs a helper's body, there and then."""
        if called.is_async:
            return False
        if id(call) in function.awaited and called.node.name != "__init__":
            return not called.may_run_elsewhere and self._returns_awaitable(called)
        return not called.is_generator or id(call) in function.consumed

    def _returns_awaitable(self, helper: Function) -> bool:
        """Whether a helper returns a coroutine; if not, an object that the audit does not know is awaited."""
        made = [node for node in helper.returned if isinstance(node, ast.Call)]
        return any(
            found.is_async for node in made for found in self._inference.functions_called(node, helper)
        )

    def _reason(self, helper: Function) -> Blocker | None:
        """The first call of a helper that makes it block its callers."""
        return next((found for found in sorted(helper.blockers) if self._is_meant(found)), None)


def _short_name(function: Function) -> str:
    return function.name.rpartition("<locals>.")[2]
