"""The functions of a module: what each calls, and which of that is known to block."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from .known_types import KnownTypes, blocking_method
from .sources import Source, dotted

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


class Blocker(NamedTuple):
    """A call that blocks by itself. `is_followed`: it is worth telling those who call the function, too."""

    line: int
    column: int
    call: str
    instead: str
    is_followed: bool = True


@dataclass(eq=False)
class Function:
    """A function, with what it calls in its own body; nested functions are functions of their own."""

    module: Module
    name: str
    node: AnyFunction
    owner: str | None
    calls: list[ast.Call] = field(default_factory=list)
    blockers: list[Blocker] = field(default_factory=list)
    is_generator: bool = False

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of its parameters."""
        arguments = ast.walk(self.node.args)
        return frozenset(argument.arg for argument in arguments if isinstance(argument, ast.arg))

    @property
    def is_async(self) -> bool:
        """Whether it is an `async def`."""
        return isinstance(self.node, ast.AsyncFunctionDef)


@dataclass(eq=False)
class Module:
    """A file's functions by qualified name, its classes' bases, and what its names were imported from."""

    source: Source
    functions: list[Function] = field(default_factory=list)
    by_name: dict[str, Function] = field(default_factory=dict)
    bases: dict[str, list[str]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)

    def innermost(self, line: int) -> Function | None:
        """The innermost function around a line."""
        around = [f for f in self.functions if f.node.lineno <= line <= (f.node.end_lineno or f.node.lineno)]
        return max(around, key=lambda function: function.node.lineno, default=None)

    def is_silenced(self, line: int) -> bool:
        """Whether a line says `# noqa`."""
        return "# noqa" in self.lines[line - 1] if 0 < line <= len(self.lines) else False

    def start(self, node: ast.expr) -> tuple[int, int]:
        """Return the line and the column of the beginning of a node, both from 1."""
        return node.lineno, self._column(node.lineno, node.col_offset)

    def end(self, node: ast.expr) -> tuple[int, int]:
        """Return the line and the column after the last character of a node, both from 1."""
        line = node.end_lineno or node.lineno
        return line, self._column(line, node.end_col_offset or 0)

    def _column(self, line: int, offset: int) -> int:
        # The parser counts bytes; editors and ruff count characters.
        return len(self.lines[line - 1].encode()[:offset].decode(errors="replace")) + 1

    @cached_property
    def lines(self) -> list[str]:
        """The text, line by line."""
        return self.source.text.split("\n")


def read_functions(source: Source) -> Module:
    """Find the functions of a module, and the blocking calls among the known types' methods."""
    module = Module(source)
    _read_imports(module)
    _read_scope(module, source.tree, prefix="", owner=None)
    if not KnownTypes.may_be_in(module.imports):
        return module
    types = KnownTypes(source.tree, module.imports)
    for function in module.functions:
        types_here = types.in_function(function.node, function.owner)
        for call in function.calls:
            found = blocking_method(call, types_here)
            if found is not None and not module.is_silenced(call.lineno):
                function.blockers.append(Blocker(*module.start(call), *found))
    return module


def _read_imports(module: Module) -> None:
    own_name = module.source.modules[0] if module.source.modules else ""
    is_package = module.source.path.stem == "__init__"
    package = own_name.split(".") if is_package else own_name.split(".")[:-1]
    for node in ast.walk(module.source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                module.imports[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                module.imports[alias.asname or alias.name] = f"{origin}.{alias.name}"


def _read_scope(module: Module, scope: ast.AST, prefix: str, owner: str | None) -> None:
    pending = [(scope, prefix, owner)]
    while pending:
        scope, prefix, owner = pending.pop()
        for node in _own_nodes(scope):
            if isinstance(node, ast.ClassDef):
                name = prefix + node.name
                module.bases[name] = [base for base in map(dotted, node.bases) if base]
                pending.append((node, f"{name}.", name))
            elif isinstance(node, AnyFunction):
                function = Function(module, prefix + node.name, node, owner)
                for inner in _own_nodes(node):
                    if isinstance(inner, ast.Call):
                        function.calls.append(inner)
                    function.is_generator |= isinstance(inner, ast.Yield | ast.YieldFrom)
                module.functions.append(function)
                module.by_name.setdefault(function.name, function)
                pending.append((node, f"{function.name}.<locals>.", owner))


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """What runs when the scope runs: without the bodies of functions, lambdas and classes in it."""
    pending: list[ast.AST] = list(getattr(scope, "body", []))
    while pending:
        node = pending.pop(0)
        yield node
        if not isinstance(node, AnyFunction | ast.ClassDef | ast.Lambda):
            pending[:0] = ast.iter_child_nodes(node)
