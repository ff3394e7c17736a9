"""What the names and expressions of a tree stand for: its functions and classes, and objects of known kinds.

A name stands for everything that is ever bound to it, in whatever order. A parameter stands for what its
annotation and its default say, and for the objects that the calls in the tree pass.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from .callers import Callers
from .functions import Binding, Class, Function, How, Module, Scope
from .imports import ModuleIndex
from .known_types import Kind, result
from .sources import dotted
from .values import (
    NOTHING,
    SIMPLE,
    TRANSPARENT,
    ClassValue,
    External,
    FunctionValue,
    Generated,
    Instance,
    KindMethod,
    ModuleValue,
    Super,
    Value,
    Values,
    called_name,
    class_value,
    default_of,
    external,
    of_kind,
    union,
)

# Beyond that, what an expression stands for is taken to be unknown.
_DEEPEST: Final = 60


class Inference:
    """Evaluates expressions of the tree; each name once, whatever asks for it first."""

    def __init__(self, modules: Sequence[Module]) -> None:
        self._index = ModuleIndex(modules)
        self._modules = modules
        self._known: dict[object, Values] = {}
        self._assumed: dict[object, Values] = {}
        self._open: set[object] = set()
        self._has_cut = False
        self._callers = Callers(modules)
        self._sites: dict[Function, list[tuple[Scope, ast.Call]]] = {}
        self._ancestors: dict[Class, list[Class | Kind]] = {}
        self._settle()

    def _settle(self) -> None:
        """Evaluate every call, and once more with what was found if names depend on each other."""
        self._evaluate_calls()
        if self._has_cut:
            self._assumed, self._known = self._known, {}
            self._sites.clear()
            self._ancestors.clear()
            self._evaluate_calls()

    def _evaluate_calls(self) -> None:
        for module in self._modules:
            for function in module.functions:
                for call in function.calls:
                    self.of_called(call, function)

    def of_called(self, call: ast.Call, scope: Scope) -> Values:
        """What a call calls."""
        return self._once(("called", call), lambda: self.values(call.func, scope))

    def functions_called(self, call: ast.Call, scope: Scope) -> Iterator[Function]:
        """The functions of the tree that a call runs."""
        for value in self.of_called(call, scope):
            if isinstance(value, FunctionValue):
                yield value.function
            elif isinstance(value, ClassValue | Instance) and isinstance(value.of, Class):
                name = "__init__" if isinstance(value, ClassValue) else "__call__"
                for found in self._of_class(value.of, name, is_instance=True):
                    if isinstance(found, FunctionValue):
                        yield found.function

    # --- expressions ---

    def _once(self, key: object, evaluate: Callable[[], Values]) -> Values:
        known = self._known.get(key)
        if known is not None:
            return known
        if key in self._open or len(self._open) > _DEEPEST:
            self._has_cut = True
            return self._assumed.get(key, NOTHING)
        self._open.add(key)
        try:
            found = evaluate()
        except RecursionError:
            found = NOTHING
        finally:
            self._open.discard(key)
        self._known[key] = found
        return found

    def values(self, node: ast.expr | None, scope: Scope) -> Values:
        """What an expression may stand for."""
        if isinstance(node, ast.Name):
            return self._of_name(node.id, scope)
        if isinstance(node, ast.Attribute):
            base = self.values(node.value, scope)
            return union(self._of_member(value, node.attr) for value in base)
        if isinstance(node, ast.Call):
            return self._once(("result", node), lambda: self._of_call(node, scope))
        if isinstance(node, ast.BoolOp):
            return union(self.values(value, scope) for value in node.values)
        if isinstance(node, ast.IfExp):
            return self.values(node.body, scope) | self.values(node.orelse, scope)
        if isinstance(node, ast.Await | ast.NamedExpr):
            return self.values(node.value, scope)
        return NOTHING

    def _of_name(self, name: str, scope: Scope) -> Values:
        function = scope if isinstance(scope, Function) else None
        while function is not None:
            if name in function.parameters or name in function.bindings:
                return self.of_local(function, name)
            nested = scope.module.by_name.get(f"{function.name}.<locals>.{name}")
            if nested is not None:
                return frozenset([FunctionValue(nested)])
            function = function.parent
        return self._of_global(scope.module, name)

    def of_local(self, function: Function, name: str) -> Values:
        """What a parameter or another name of a function may stand for."""

        def evaluate() -> Values:
            bound = self._bound(function.bindings.get(name, ()))
            return bound | self._of_parameter(function, name) if name in function.parameters else bound

        return self._once(("local", function, name), evaluate)

    def _of_global(self, module: Module, name: str) -> Values:
        def evaluate() -> Values:
            if name in module.by_name:
                return frozenset([FunctionValue(module.by_name[name])])
            if name in module.classes:
                return frozenset([class_value(module.classes[name])])
            found = self._bound(module.bindings.get(name, ()))
            if name in module.imports:
                found |= self._of_import(module, module.imports[name])
            elif not module.defines(name):
                places = [self._index.find(module, origin) for origin in module.all_of]
                return union(self._of_global(place[0], name) for place in places if place and not place[1])
            return found

        return self._once(("global", module, name), evaluate)

    def _of_import(self, module: Module, name: str) -> Values:
        place = self._index.find(module, name)
        if place is None:
            return external(name, module)
        origin, attributes = place
        if not attributes:
            return frozenset([ModuleValue(origin)])
        if origin is module:
            return NOTHING
        if not origin.defines(attributes[0]) and not origin.all_of:
            return external(name, module)
        values = self._of_global(origin, attributes[0])
        for attribute in attributes[1:]:
            values = union(self._of_member(value, attribute) for value in values)
        return values

    def _bound(self, bindings: Iterable[Binding]) -> Values:
        found = NOTHING
        for how, expression, scope in bindings:
            if how is How.ANNOTATED:
                found |= self._annotated(expression, scope)
            elif how is How.ASSIGNED:
                found |= self.values(expression, scope)
            else:
                for value in self.values(expression, scope):
                    found |= self._iterated(value) if how is How.ITERATED else self._entered(value, how)
        return found

    def _entered(self, value: Value, how: How) -> Values:
        if isinstance(value, Generated):
            return self._yielded(value.function)
        if how is How.ASYNC_ENTERED and isinstance(value, Instance) and value.of is Kind.SESSION:
            return NOTHING  # it is an asynchronous one after all
        if isinstance(value, Instance) and isinstance(value.of, Class):
            name = "__enter__" if how is How.ENTERED else "__aenter__"
            methods = self._of_class(value.of, name, is_instance=True)
            return union(self._returned(m.function) for m in methods if isinstance(m, FunctionValue)) or (
                frozenset([value])
            )
        return frozenset([value])

    def _iterated(self, value: Value) -> Values:
        return self._yielded(value.function) if isinstance(value, Generated) else NOTHING

    def _annotated(self, node: ast.expr | None, scope: Scope) -> Values:
        """The objects that an annotation allows."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            try:
                node = ast.parse(node.value, mode="eval").body
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return NOTHING
        if isinstance(node, ast.BinOp):
            return self._annotated(node.left, scope) | self._annotated(node.right, scope)
        if isinstance(node, ast.Subscript):
            if (dotted(node.value) or "").rpartition(".")[2] not in TRANSPARENT:
                return NOTHING
            inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            return union(self._annotated(one, scope) for one in inner)
        if not isinstance(node, ast.Name | ast.Attribute) or dotted(node) in SIMPLE:
            return self.values(node, scope) if isinstance(node, ast.Call) else NOTHING
        classes = self.values(node, scope)
        return frozenset(
            Instance(c.of) for c in classes if isinstance(c, ClassValue) and c.of is not Kind.SESSION_MAKER
        )

    # --- calls ---

    def _of_call(self, call: ast.Call, scope: Scope) -> Values:
        called = self.of_called(call, scope)
        found = union(self._result(value, call, scope) for value in called)
        name = called_name(call, None)
        if not called and name == "next" and call.args:
            return union(self._iterated(value) for value in self.values(call.args[0], scope))
        if not called and name == "super" and isinstance(scope, Function) and scope.owner:
            owner = scope.module.classes.get(scope.owner)
            return frozenset([Super(owner)]) if owner else NOTHING
        if not found and name in ("get", "getattr", "pop", "setdefault"):
            found |= self._looked_up(call, scope)
        return found

    def _looked_up(self, call: ast.Call, scope: Scope) -> Values:
        """`keywords.get("llm", LLMService())` and `getattr(self, "llm", None)`."""
        found = self.values(call.args[-1], scope) if len(call.args) > 1 else NOTHING
        if isinstance(call.func, ast.Name) and len(call.args) > 1:
            attribute = call.args[1]
            if isinstance(attribute, ast.Constant) and isinstance(attribute.value, str):
                base = self.values(call.args[0], scope)
                return found | union(self._of_member(value, attribute.value) for value in base)
        return found

    def _result(self, value: Value, call: ast.Call, scope: Scope) -> Values:
        if isinstance(value, FunctionValue):
            if value.function.is_generator:
                return frozenset([Generated(value.function)])
            return self._returned(value.function)
        if isinstance(value, ClassValue):
            # A session maker that is told its class makes another kind of session: AsyncSession.
            has_class = any(keyword.arg == "class_" for keyword in call.keywords)
            is_other = value.of is Kind.SESSION_MAKER and has_class
            return NOTHING if is_other else frozenset([Instance(value.of)])
        if isinstance(value, KindMethod):
            if value.is_of_class:  # LLMService.with_local()
                return frozenset([Instance(value.kind)]) if value.kind is Kind.SERVICE else NOTHING
            made = result(value.kind, value.name)
            return frozenset([Instance(made)]) if made else NOTHING
        if isinstance(value, Instance) and value.of is Kind.SESSION_MAKER:
            return frozenset([Instance(Kind.SESSION)])
        return self._of_library(value.name, call, scope) if isinstance(value, External) else NOTHING

    def _of_library(self, name: str, call: ast.Call, scope: Scope) -> Values:
        last = name.rpartition(".")[2]
        if last in ("Depends", "Security", "closing") and call.args:
            values = self.values(call.args[0], scope)
            return values if last == "closing" else union(self._provided(value) for value in values)
        if last == "cast" and len(call.args) > 1:
            return self._annotated(call.args[0], scope) | self.values(call.args[1], scope)
        if last in ("field", "Field"):
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            factory = given.get("default_factory")
            if isinstance(factory, ast.Lambda):
                return self.values(factory.body, scope)
            made = (self._result(value, call, scope) for value in self.values(factory, scope))
            return union(made) | self.values(given.get("default"), scope)
        return NOTHING

    def _provided(self, value: Value) -> Values:
        """What FastAPI passes for `Depends(value)`."""
        if isinstance(value, FunctionValue):
            return self._returned(value.function) | self._yielded(value.function)
        return frozenset([Instance(value.of)]) if isinstance(value, ClassValue) else NOTHING

    def _returned(self, function: Function) -> Values:
        def evaluate() -> Values:
            annotated = self._annotated(function.node.returns, function.parent or function.module)
            return annotated | union(self.values(node, function) for node in function.returned)

        return self._once(("returned", function), evaluate)

    def _yielded(self, function: Function) -> Values:
        def evaluate() -> Values:
            annotated = self._annotated(function.node.returns, function.parent or function.module)
            return annotated | union(self.values(node, function) for node in function.yielded)

        return self._once(("yielded", function), evaluate)

    # --- parameters ---

    def _of_parameter(self, function: Function, name: str) -> Values:
        first = function.arguments[0].arg if function.arguments else ""
        if function.is_method and name == first and "staticmethod" not in function.decorators:
            owner = function.module.classes.get(function.owner or "")
            is_of_class = "classmethod" in function.decorators
            made = class_value(owner) if owner else None
            return frozenset([made if is_of_class else Instance(made.of)]) if made else NOTHING
        outside = function.parent or function.module
        annotation = next((a.annotation for a in function.arguments if a.arg == name), None)
        found = self._annotated(annotation, outside) | self.values(default_of(function, name), outside)
        if isinstance(annotation, ast.Name) and annotation.id in SIMPLE - {"Any"}:
            return found
        if any(isinstance(value, Instance) and isinstance(value.of, Kind) for value in found):
            return found
        passed = (self._passed(call, function, name) for call in self._calls_of(function))
        # Functions are left out: what one caller hands over would be held against all others.
        return found | {v for v in union(passed) if isinstance(v, Instance | ClassValue)}

    def _calls_of(self, function: Function) -> list[tuple[Scope, ast.Call]]:
        sites = self._sites.get(function)
        if sites is None:
            self._sites[function] = []  # for whatever asks again meanwhile
            sites = self._sites[function] = list(self._find_calls_of(function))
        return sites

    def _find_calls_of(self, function: Function) -> Iterator[tuple[Scope, ast.Call]]:
        names = [function.node.name]
        if function.node.name == "__init__" and function.owner:
            names += self._callers.classes_from(function.owner)
        for name in names:
            for scope, call in self._callers.calls(name):
                if function in self.functions_called(call, scope):
                    yield scope, call

    def _passed(self, made: tuple[Scope, ast.Call], function: Function, name: str) -> Values:
        scope, call = made
        for keyword in call.keywords:
            if keyword.arg == name:
                return self.values(keyword.value, scope)
        positional = [
            argument.arg for argument in (*function.node.args.posonlyargs, *function.node.args.args)
        ]
        if name not in positional:
            return NOTHING
        called = self.of_called(call, scope)
        is_bound = FunctionValue(function, is_bound=True) in called or any(
            isinstance(value, ClassValue | Instance) for value in called
        )
        index = positional.index(name) - is_bound
        given = call.args[: index + 1]
        if not 0 <= index < len(call.args) or any(isinstance(argument, ast.Starred) for argument in given):
            return NOTHING
        return self.values(given[index], scope)

    # --- attributes ---

    def _of_member(self, value: Value, name: str) -> Values:
        if isinstance(value, ModuleValue):
            is_package = value.module.source.path.stem == "__init__"
            if is_package and not value.module.defines(name):
                return self._of_import(value.module, f".{name}")
            return self._of_global(value.module, name)
        if isinstance(value, External):
            return self._of_import(value.module, f"{value.name}.{name}")
        if isinstance(value, Super):
            classes = self.classes(value.of)[1:]
            return self._in_classes(classes, name, is_instance=True)
        if isinstance(value, Instance | ClassValue):
            is_instance = isinstance(value, Instance)
            if isinstance(value.of, Kind):
                return of_kind(value.of, name, is_instance=is_instance)
            return self._of_class(value.of, name, is_instance=is_instance)
        return NOTHING

    def _of_class(self, made: Class, name: str, *, is_instance: bool) -> Values:
        found = self._in_classes(self.classes(made), name, is_instance=is_instance)
        if found or not is_instance or name.startswith("__"):
            return found
        # A base class uses what only its subclasses set.
        below = self._callers.subclasses(made.name)
        return union(self._of_field(sub, name) for sub in below if name in sub.fields)

    def _in_classes(self, classes: Iterable[Class | Kind], name: str, *, is_instance: bool) -> Values:
        for made in classes:
            if isinstance(made, Kind):
                return of_kind(made, name, is_instance=is_instance)
            function = made.method(name)
            if function is not None:
                if function.is_property and is_instance:
                    return self._returned(function)
                is_bound = is_instance or "classmethod" in function.decorators
                return frozenset(
                    [FunctionValue(function, is_bound and "staticmethod" not in function.decorators)]
                )
            found = self._of_field(made, name) if name in made.fields else NOTHING
            if found:
                return found
        return NOTHING

    def _of_field(self, made: Class, name: str) -> Values:
        def evaluate() -> Values:
            found = self._bound(made.fields[name])
            is_declared = any(binding.how is How.ANNOTATED for binding in made.fields[name])
            if found or not is_declared or made.method("__init__"):
                return found
            order = [f for f, bound in made.fields.items() if bound[0].how is How.ANNOTATED]
            passed = self._passed_to_field(made, name, order.index(name)) if name in order else ()
            return union(passed)

        return self._once(("field", made, name), evaluate)

    def _passed_to_field(self, made: Class, name: str, place: int) -> Iterator[Values]:
        """What the calls pass to a dataclass, whose constructor nobody wrote."""
        for scope, call in self._callers.calls(made.name.rpartition(".")[2]):
            if ClassValue(made) not in self.of_called(call, scope):
                continue
            given = [keyword.value for keyword in call.keywords if keyword.arg == name]
            given += call.args[place : place + 1]
            for expression in given:
                values = self.values(expression, scope)
                yield frozenset(v for v in values if isinstance(v, Instance | ClassValue))

    def classes(self, made: Class) -> list[Class | Kind]:
        """A class and those that it inherits from, the nearest first."""
        if made not in self._ancestors:
            self._ancestors[made] = [made]  # for a class that inherits from itself
            found: dict[Class | Kind, None] = {}
            pending: list[Class | Kind] = [made]
            while pending:
                one = pending.pop(0)
                if one in found:
                    continue
                found[one] = None
                for base in one.node.bases if isinstance(one, Class) else ():
                    values = self.values(base, one.module) if isinstance(one, Class) else NOTHING
                    pending += [value.of for value in values if isinstance(value, ClassValue)]
            self._ancestors[made] = list(found)
        return self._ancestors[made]
