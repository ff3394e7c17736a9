"""What an expression of the tree may stand for."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

from .functions import Class, Function, Module
from .known_types import USUAL_SESSION_MAKER, Kind, kind_of_class, member

# Annotations of these say that it is none of what the audit knows.
SIMPLE: Final = frozenset(
    ("Any", "bool", "bytes", "date", "datetime", "dict", "float", "int", "list", "set", "str", "tuple")
)
# Annotations of which the objects in brackets matter.
TRANSPARENT: Final = frozenset(
    (
        *("Annotated", "Optional", "Union", "ClassVar", "Final", "Awaitable", "Mapped"),
        *("Iterator", "Generator", "Iterable", "AsyncIterator", "AsyncGenerator"),
    )
)


class ModuleValue(NamedTuple):
    """A module of the tree."""

    module: Module


class External(NamedTuple):
    """A name of a library, or a package of the tree that has no file of its own."""

    name: str
    module: Module


class FunctionValue(NamedTuple):
    """A function of the tree. `is_bound`: a call does not give its first parameter."""

    function: Function
    is_bound: bool = False


class Generated(NamedTuple):
    """What a call of a generator function returns."""

    function: Function


class ClassValue(NamedTuple):
    """A class of the tree, or of a known kind."""

    of: Class | Kind


class Instance(NamedTuple):
    """An object of a class of the tree, or of a known kind."""

    of: Class | Kind


class Super(NamedTuple):
    """`super()` in a method of a class."""

    of: Class


class KindMethod(NamedTuple):
    """A method of an object, or of a class, of a known kind."""

    kind: Kind
    name: str
    is_of_class: bool = False


Value: TypeAlias = (
    ModuleValue | External | FunctionValue | Generated | ClassValue | Instance | Super | KindMethod
)
Values: TypeAlias = frozenset[Value]

NOTHING: Final[Values] = frozenset()


def union(values: Iterable[Values]) -> Values:
    return NOTHING.union(*values)


def external(name: str, module: Module) -> Values:
    kind = kind_of_class(name)
    if kind is not None:
        return frozenset([ClassValue(kind)])
    if name.rpartition(".")[2] == USUAL_SESSION_MAKER:
        return frozenset([Instance(Kind.SESSION_MAKER)])
    return frozenset([External(name, module)])


def class_value(made: Class) -> ClassValue:
    """A class of the tree; this package's own stand in for the modules that they replace."""
    kind = kind_of_class(f"{made.module.source.path.stem}.{made.name}")
    complete = made.method("complete")
    is_asynchronous = complete is not None and complete.is_async
    return ClassValue(made if kind is None or is_asynchronous else kind)


def of_kind(kind: Kind, name: str, *, is_instance: bool) -> Values:
    part = member(kind, name) if is_instance else None
    method = frozenset([KindMethod(kind, name, is_of_class=not is_instance)])
    return method | {Instance(part)} if part else method


def called_name(call: ast.Call, module: Module | None) -> str:
    """The last part of the name that a call calls, as it was defined."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    return module.imports.get(name, name).rpartition(".")[2] if module else name


def default_of(function: Function, name: str) -> ast.expr | None:
    given = function.node.args
    positional = [*given.posonlyargs, *given.args]
    pairs = [
        *zip(reversed(positional), reversed(given.defaults), strict=False),
        *zip(given.kwonlyargs, given.kw_defaults, strict=True),
    ]
    return next((default for argument, default in pairs if argument.arg == name), None)
