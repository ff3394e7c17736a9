"""The functions and classes of a module: what each calls, and what each name is bound to."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Final, NamedTuple, TypeAlias

from .sources import Source, dotted

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef

# Decorators that leave a function what it is. Any other may run it in a thread, if its result is awaited.
_PLAIN_DECORATORS: Final = frozenset(
    ("cache", "cached_property", "classmethod", "lru_cache", "override", "property", "staticmethod", "wraps")
)
_PROPERTIES: Final = frozenset(("cached_property", "property"))
_CONTEXT_MANAGERS: Final = frozenset(("asynccontextmanager", "contextmanager"))
_CONSUMERS: Final = frozenset(
    ("all", "any", "dict", "frozenset", "list", "max", "min", "next", "set", "sorted", "sum", "tuple")
)


class Blocker(NamedTuple):
    """A call that blocks by itself. `is_followed`: callers of the function are reported, too."""

    line: int
    column: int
    call: str
    instead: str
    is_followed: bool = True
    is_of_service: bool = False


class How(Enum):
    """How a name gets its value from an expression."""

    ASSIGNED = "name = expression"
    ANNOTATED = "name: expression"
    ENTERED = "with expression as name"
    ASYNC_ENTERED = "async with expression as name"
    ITERATED = "for name in expression"


class Binding(NamedTuple):
    """One way in which a name gets its value; `scope` is where the expression is evaluated."""

    how: How
    expression: ast.expr
    scope: Scope


Bindings: TypeAlias = "defaultdict[str, list[Binding]]"


@dataclass(eq=False)
class Function:
    """A function, with what it calls in its own body; nested functions are functions of their own."""

    module: Module
    name: str
    node: AnyFunction
    owner: str | None
    parent: Function | None
    calls: list[ast.Call] = field(default_factory=list)
    attributes: list[ast.Attribute] = field(default_factory=list)
    returned: list[ast.expr] = field(default_factory=list)
    yielded: list[ast.expr] = field(default_factory=list)
    bindings: Bindings = field(default_factory=lambda: defaultdict(list))
    blockers: list[Blocker] = field(default_factory=list)
    is_generator: bool = False
    # Calls by identity: whose result is awaited, is used by `async with` or `async for`, or is run through
    # like a generator.
    awaited: set[int] = field(default_factory=set)
    used_by_async: set[int] = field(default_factory=set)
    consumed: set[int] = field(default_factory=set)

    @cached_property
    def arguments(self) -> list[ast.arg]:
        """The parameters that a call can give by name or place, in order."""
        given = self.node.args
        return [*given.posonlyargs, *given.args, *given.kwonlyargs]

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names of all parameters."""
        given = self.node.args
        further = [argument.arg for argument in (given.vararg, given.kwarg) if argument]
        return frozenset([*(argument.arg for argument in self.arguments), *further])

    @cached_property
    def decorators(self) -> frozenset[str]:
        """The last parts of the decorators' names."""
        called = (node.func if isinstance(node, ast.Call) else node for node in self.node.decorator_list)
        return frozenset((dotted(node) or "?").rpartition(".")[2] for node in called)

    @property
    def is_async(self) -> bool:
        """Whether it is an `async def`."""
        return isinstance(self.node, ast.AsyncFunctionDef)

    @property
    def is_method(self) -> bool:
        """Whether it is defined in a class, and not in another function."""
        return self.owner is not None and self.parent is None

    @property
    def is_property(self) -> bool:
        """Whether reading an attribute calls it."""
        return bool(self.decorators & _PROPERTIES)

    @property
    def is_context_manager(self) -> bool:
        """Whether `with` runs it."""
        return self.is_generator and bool(self.decorators & _CONTEXT_MANAGERS)

    @property
    def may_run_elsewhere(self) -> bool:
        """Whether a decorator may move it to a thread."""
        return bool(self.decorators - _PLAIN_DECORATORS)


@dataclass(eq=False)
class Class:
    """A class. `fields`: its own attributes, and those that its methods set on `self`."""

    module: Module
    name: str
    node: ast.ClassDef
    fields: Bindings = field(default_factory=lambda: defaultdict(list))

    def method(self, name: str) -> Function | None:
        """The method that the class itself defines."""
        return self.module.by_name.get(f"{self.name}.{name}")


@dataclass(eq=False)
class Module:
    """A file's functions and classes by qualified name, and what its names were imported from."""

    source: Source
    functions: list[Function] = field(default_factory=list)
    by_name: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, Class] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)
    all_of: list[str] = field(default_factory=list)  # from … import *
    bindings: Bindings = field(default_factory=lambda: defaultdict(list))
    calls: list[ast.Call] = field(default_factory=list)

    @property
    def module(self) -> Module:
        """Itself, as a function has it."""
        return self

    @property
    def parent(self) -> None:
        """No function is around it."""

    def defines(self, name: str) -> bool:
        """Whether a name is bound at its top."""
        return any(name in names for names in (self.by_name, self.classes, self.bindings, self.imports))

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


Scope: TypeAlias = Function | Module


def read_functions(source: Source) -> Module:
    """Find the functions and classes of a module, and what its names are bound to."""
    module = Module(source)
    _read_imports(module)
    _read_scope(module)
    return module


def _read_imports(module: Module) -> None:
    """Note what each imported name stands for; leading dots stay, since only the tree can resolve them."""
    for node in ast.walk(module.source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                module.imports[name] = alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            origin = f"{node.module}." if node.module else ""
            for alias in node.names:
                if alias.name == "*":
                    module.all_of.append(f"{dots}{node.module or ''}")
                else:
                    module.imports[alias.asname or alias.name] = f"{dots}{origin}{alias.name}"


def _read_scope(module: Module) -> None:
    pending: list[tuple[ast.AST, str, Class | None, Function | None]] = [(module.source.tree, "", None, None)]
    while pending:
        scope, prefix, owner, parent = pending.pop()
        for node in own_nodes(scope):
            if isinstance(node, ast.ClassDef):
                made = Class(module, prefix + node.name, node)
                module.classes.setdefault(made.name, made)
                pending.append((node, f"{made.name}.", made, None))
            elif isinstance(node, AnyFunction):
                owner_name = owner.name if owner else None
                function = Function(module, prefix + node.name, node, owner_name, parent)
                _read_body(function, owner)
                module.functions.append(function)
                module.by_name.setdefault(function.name, function)
                pending.append((node, f"{function.name}.<locals>.", owner, function))
            elif parent is None:
                if isinstance(node, ast.Call):
                    module.calls.append(node)
                bindings = module.bindings if owner is None else owner.fields
                for target, binding in _bindings(node, module):
                    if isinstance(target, ast.Name):
                        bindings[target.id].append(binding)


def _read_body(function: Function, owner: Class | None) -> None:
    global_names: set[str] = set()
    bound: list[tuple[str, Binding]] = []
    for node in own_nodes(function.node):
        if isinstance(node, ast.Call):
            function.calls.append(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            function.attributes.append(node)
        elif isinstance(node, ast.Return) and node.value is not None:
            function.returned.append(node.value)
        elif isinstance(node, ast.Yield | ast.YieldFrom):
            function.is_generator = True
            if isinstance(node, ast.Yield) and node.value is not None:
                function.yielded.append(node.value)
        elif isinstance(node, ast.Global):
            global_names.update(node.names)
        _read_use(function, node)
        for target, binding in _bindings(node, function):
            if isinstance(target, ast.Name):
                bound.append((target.id, binding))
            elif isinstance(target, ast.Attribute) and owner and _is_self(target.value):
                owner.fields[target.attr].append(binding)
    for name, binding in bound:
        (function.module.bindings if name in global_names else function.bindings)[name].append(binding)


def _read_use(function: Function, node: ast.AST) -> None:
    """Note which results are awaited, and which generators are run through."""
    if isinstance(node, ast.Await):
        function.awaited.add(id(node.value))
    elif isinstance(node, ast.AsyncWith):
        function.used_by_async.update(id(item.context_expr) for item in node.items)
    elif isinstance(node, ast.With):
        function.consumed.update(id(item.context_expr) for item in node.items)
    elif isinstance(node, ast.For | ast.comprehension):
        is_async = isinstance(node, ast.comprehension) and node.is_async
        (function.used_by_async if is_async else function.consumed).add(id(node.iter))
    elif isinstance(node, ast.AsyncFor):
        function.used_by_async.add(id(node.iter))
    elif isinstance(node, ast.YieldFrom):
        function.consumed.add(id(node.value))
    elif isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in _CONSUMERS or name == "join":
            function.consumed.update(map(id, node.args))


def _bindings(node: ast.AST, scope: Scope) -> Iterator[tuple[ast.expr, Binding]]:
    """What a statement or an expression binds."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _unpacked(target, node.value, scope)
    elif isinstance(node, ast.AnnAssign):
        yield node.target, Binding(How.ANNOTATED, node.annotation, scope)
        if node.value is not None:
            yield node.target, Binding(How.ASSIGNED, node.value, scope)
    elif isinstance(node, ast.NamedExpr):
        yield node.target, Binding(How.ASSIGNED, node.value, scope)
    elif isinstance(node, ast.With | ast.AsyncWith):
        how = How.ENTERED if isinstance(node, ast.With) else How.ASYNC_ENTERED
        for item in node.items:
            if item.optional_vars is not None:
                yield item.optional_vars, Binding(how, item.context_expr, scope)
    elif isinstance(node, ast.For | ast.AsyncFor):
        yield node.target, Binding(How.ITERATED, node.iter, scope)


def _unpacked(target: ast.expr, value: ast.expr, scope: Scope) -> Iterator[tuple[ast.expr, Binding]]:
    if not isinstance(target, ast.Tuple | ast.List):
        yield target, Binding(How.ASSIGNED, value, scope)
    elif isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
        for one, its_value in zip(target.elts, value.elts, strict=True):
            yield from _unpacked(one, its_value, scope)


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """What runs when the scope runs: without the bodies of functions, lambdas and classes in it."""
    pending: list[ast.AST] = list(reversed(getattr(scope, "body", [])))
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, AnyFunction | ast.ClassDef | ast.Lambda):
            pending.extend(reversed(list(ast.iter_child_nodes(node))))


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")
