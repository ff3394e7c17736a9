"""What may break when a service call lets the event loop go on (`unblock`), and other tasks run meanwhile.

A call is looked at in every function that a coroutine runs: what the function holds around the call is held
while other tasks run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from .call_graph import CallGraph, known_calls
from .functions import Function, Module, own_nodes
from .inference import Inference
from .known_types import Kind
from .report import Finding
from .values import Generated, Instance

_LOCK_ADVICE: Final = (
    "a task that waits for it meanwhile stops the loop, so that nobody can release it: leave the block "
    "before the call, or use asyncio.Lock in a coroutine"
)
_SESSION_ADVICE: Final = (
    "its transaction stays open while other tasks run, and they may use the session: commit or close it "
    "before the call, and give each task its own"
)
_INSIDE_GENERATOR_ADVICE: Final = (
    "a second task that advances it meanwhile gets ValueError (generator already executing): give each task "
    "its own"
)
_GENERATOR_ADVICE: Final = (
    "it stays suspended, with what it holds open, while other tasks run: collect its items in a list first, "
    "and give each task its own"
)
_ENDS_OF_TRANSACTIONS: Final = ("close", "commit", "rollback")


class _Held(NamedTuple):
    """Something that a function holds. `at`: where it gets it."""

    what: str
    line: int
    instead: str
    at: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.at or f'line {self.line}'})"


def interleavings(modules: Sequence[Module], inference: Inference) -> list[Finding]:
    """Everything that is held across a service call, in order."""
    graph = CallGraph(modules, inference, lambda blocker: blocker.is_of_service)
    found: set[Finding] = set()
    for function in _run_by_coroutines(modules, graph):
        module = function.module
        for node, call in _service_calls(function, graph, inference):
            line, column = module.start(node)
            for held in _held_around(function, node, inference):
                if not module.is_silenced(line) and not module.is_silenced(held.line):
                    place = (str(module.source.path), line, function.name, call, held.instead, column)
                    found.add(Finding(*place, held=str(held)))
    return sorted(found)


def _run_by_coroutines(modules: Sequence[Module], graph: CallGraph) -> Iterator[Function]:
    """Yield the coroutines, and the helpers that they run; what threads run blocks nobody but themselves."""
    pending = [function for module in modules for function in module.functions if function.is_async]
    seen = set(pending)
    while pending:
        function = pending.pop()
        yield function
        for _, called in graph.calls_of(function):
            if called not in seen:
                seen.add(called)
                pending.append(called)


def _service_calls(
    function: Function, graph: CallGraph, inference: Inference
) -> Iterator[tuple[ast.expr, str]]:
    """Yield the calls that lead to a service, each with its text."""
    for call, kind, _ in known_calls(function, inference):
        if kind is Kind.SERVICE:
            yield call, ast.unparse(call.func)
    for node, helper in graph.calls_of(function):
        path = graph.path_to_blocker(helper)
        if path:
            yield node, path[0]


def _held_around(function: Function, node: ast.expr, inference: Inference) -> Iterator[_Held]:
    if function.is_generator:
        what = f"the generator {function.node.name}"
        yield _Held(what, function.node.lineno, _INSIDE_GENERATOR_ADVICE)
    for statement in own_nodes(function.node):
        if not isinstance(statement, ast.With | ast.For) or not _contains(statement.body, node):
            continue
        if isinstance(statement, ast.For):
            for value in inference.values(statement.iter, function):
                if isinstance(value, Generated):
                    what = f"the generator {ast.unparse(statement.iter)}"
                    yield _Held(what, statement.lineno, _GENERATOR_ADVICE)
        else:
            for item in statement.items:
                yield from _entered(item.context_expr, function, inference)
    yield from _acquired(function, node, inference)
    yield from _open_sessions(function, node, inference)


def _entered(node: ast.expr, function: Function, inference: Inference) -> Iterator[_Held]:
    """What a `with` holds: a lock, a session, or what a context manager of the tree holds at its `yield`."""
    text = ast.unparse(node)
    for value in inference.values(node, function):
        if value == Instance(Kind.THREAD_LOCK):
            yield _Held(f"the lock {text}", node.lineno, _LOCK_ADVICE)
        elif value in (Instance(Kind.SESSION), Instance(Kind.TRANSACTION)):
            yield _Held(f"the session {text}", node.lineno, _SESSION_ADVICE)
        elif isinstance(value, Generated):
            manager = value.function
            for inner in own_nodes(manager.node):
                if isinstance(inner, ast.Yield):
                    for held in _held_around(manager, inner, inference):
                        if held.instead is not _INSIDE_GENERATOR_ADVICE:
                            at = f"{manager.module.source.path}:{held.line}"
                            yield held._replace(line=node.lineno, at=at)


def _acquired(function: Function, node: ast.expr, inference: Inference) -> Iterator[_Held]:
    """Locks that `acquire()` took on a line above, without a `release()` in between."""
    for method in _methods_of(Kind.THREAD_LOCK, function, inference):
        if method.attr == "acquire" and method.lineno < node.lineno:
            lock = ast.unparse(method.value)
            if not _is_called_between(function, f"{lock}.release", method.lineno, node.lineno):
                yield _Held(f"the lock {lock}", method.lineno, _LOCK_ADVICE)


def _open_sessions(function: Function, node: ast.expr, inference: Inference) -> Iterator[_Held]:
    """Sessions made, received or used above, and not ended in between; `_entered` knows those of a `with`."""
    opened: dict[str, int] = {}
    for name in (*function.parameters, *function.bindings):
        if Instance(Kind.SESSION) in inference.of_local(function, name):
            lines = [bound.expression.lineno for bound in function.bindings.get(name, ())]
            opened[name] = min(lines, default=function.node.lineno)
    for method in _methods_of(Kind.SESSION, function, inference):
        if method.lineno < node.lineno and method.attr not in _ENDS_OF_TRANSACTIONS:
            text = ast.unparse(method.value)
            opened[text] = max(opened.get(text, 0), method.lineno)
    for text, line in opened.items():
        is_ended = any(
            _is_called_between(function, f"{text}.{method}", line, node.lineno)
            for method in _ENDS_OF_TRANSACTIONS
        )
        if line < node.lineno and not is_ended and text not in _names_of_with(function):
            yield _Held(f"the session {text}", line, _SESSION_ADVICE)


def _methods_of(kind: Kind, function: Function, inference: Inference) -> Iterator[ast.Attribute]:
    for attribute in function.attributes:
        if Instance(kind) in inference.values(attribute.value, function):
            yield attribute


def _is_called_between(function: Function, text: str, first: int, last: int) -> bool:
    return any(first < call.lineno < last and ast.unparse(call.func) == text for call in function.calls)


def _names_of_with(function: Function) -> Iterator[str]:
    for statement in own_nodes(function.node):
        if isinstance(statement, ast.With):
            for item in statement.items:
                yield ast.unparse(item.optional_vars or item.context_expr)


def _contains(body: list[ast.stmt], node: ast.AST) -> bool:
    return any(inner is node for statement in body for inner in ast.walk(statement))
