"""Objects whose methods block, which ruff does not know: told by how they are made or annotated.

The synchronous `openai` client, SQLAlchemy's synchronous session, and this package's own synchronous methods.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from .sources import dotted

_OPENAI: Final = "openai client"
_SESSION: Final = "SQLAlchemy session"
_SESSION_MAKER: Final = "SQLAlchemy session maker"
_SERVICE: Final = "LLMService"
_LOCKS: Final = "BidLockManager"

_CLASSES: Final = {
    "openai.OpenAI": _OPENAI,
    "openai.AzureOpenAI": _OPENAI,
    "arbitrageai_native.OpenAI": _OPENAI,
    "arbitrageai_native.llm_service.OpenAI": _OPENAI,
    "sqlalchemy.orm.Session": _SESSION,
    "sqlalchemy.orm.session.Session": _SESSION,
    "sqlmodel.Session": _SESSION,
    "sqlalchemy.orm.sessionmaker": _SESSION_MAKER,
    "sqlalchemy.orm.scoped_session": _SESSION_MAKER,
    "arbitrageai_native.LLMService": _SERVICE,
    "arbitrageai_native.llm_service.LLMService": _SERVICE,
    "src.llm_service.LLMService": _SERVICE,
    "arbitrageai_native.BidLockManager": _LOCKS,
    "arbitrageai_native.agent_execution.bid_lock_manager.BidLockManager": _LOCKS,
}
_SESSION_METHODS: Final = frozenset(
    (
        *("commit", "connection", "delete", "execute", "flush", "get", "get_one", "merge"),
        *("query", "refresh", "rollback", "scalar", "scalars"),
    )
)
_SERVICE_METHODS: Final = frozenset(("complete", "complete_streaming", "complete_with_fallback"))
_LOCKS_INSTEAD: Final = {
    "close": "await manager.aclose()",
    "get_metrics": "await manager.get_metrics_async()",
    "with_lock_sync": "async with manager.with_lock(…)",
}


class TypesHere(NamedTuple):
    """The known types of the names that a function sees, and of its `self`'s attributes."""

    names: dict[str, str]
    attributes: dict[str, str]
    constructors: KnownTypes


@dataclass
class KnownTypes:
    """The known types of a module's names."""

    tree: ast.Module
    imports: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what stands at the module's top."""
        self._attributes: dict[str, dict[str, str]] = {}
        # Twice: a session maker may be called below a function that is read first.
        for statement in self.tree.body:
            self._bind(statement, self.names)
        pending: list[tuple[ast.AST, str]] = [(self.tree, "")]
        while pending:
            scope, prefix = pending.pop()
            for node in getattr(scope, "body", []):
                if isinstance(node, ast.ClassDef):
                    name = prefix + node.name
                    self._attributes[name] = self._of_self(node)
                    pending.append((node, f"{name}."))

    @staticmethod
    def may_be_in(imports: dict[str, str]) -> bool:
        """Whether a module imports anything from where the known types are."""
        origins = {name.partition(".")[0] for name in _CLASSES}
        return any(name.partition(".")[0] in origins for name in imports.values())

    def in_function(self, function: ast.FunctionDef | ast.AsyncFunctionDef, owner: str | None) -> TypesHere:
        """What a function sees."""
        names = dict(self.names)
        arguments = function.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            names.pop(argument.arg, None)
            kind = self._of_annotation(argument.annotation)
            if kind:
                names[argument.arg] = kind
        for node in ast.walk(function):
            self._bind(node, names)
        return TypesHere(names, self._attributes.get(owner or "", {}), self)

    def _of_self(self, owner: ast.ClassDef) -> dict[str, str]:
        attributes: dict[str, str] = {}
        for node in ast.walk(owner):
            if isinstance(node, ast.Assign | ast.AnnAssign):
                kind = self.of(node.value, self.names) if node.value else None
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if kind and isinstance(target, ast.Attribute) and _is_self(target.value):
                        attributes[target.attr] = kind
        return attributes

    def _bind(self, node: ast.AST, names: dict[str, str]) -> None:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            targets, value = [node.optional_vars], node.context_expr
        else:
            if isinstance(node, ast.With):
                for item in node.items:
                    self._bind(item, names)
            return
        kind = self.of(value, names)
        for target in targets:
            if isinstance(target, ast.Name):
                names.pop(target.id, None)
                if kind:
                    names[target.id] = kind

    def of(self, value: ast.expr, names: dict[str, str]) -> str | None:
        """The known type of an expression, or None."""
        if isinstance(value, ast.Name):
            return names.get(value.id)
        if not isinstance(value, ast.Call):
            return None
        made_by = value.func
        if isinstance(made_by, ast.Name) and names.get(made_by.id) == _SESSION_MAKER:
            return _SESSION
        name = self._full_name(made_by)
        kind = _CLASSES.get(name or "")
        if kind is None and name is not None:  # a class method that makes one: LLMService.with_local()
            kind = _CLASSES.get(name.rpartition(".")[0])
            return kind if kind == _SERVICE else None
        if kind == _SESSION_MAKER and any(keyword.arg == "class_" for keyword in value.keywords):
            return None  # of another kind of session: AsyncSession
        return kind

    def _of_annotation(self, annotation: ast.expr | None) -> str | None:
        if isinstance(annotation, ast.BinOp):
            return self._of_annotation(annotation.left) or self._of_annotation(annotation.right)
        if isinstance(annotation, ast.Subscript):
            inner = annotation.slice
            first = inner.elts[0] if isinstance(inner, ast.Tuple) and inner.elts else inner
            outer = (self._full_name(annotation.value) or "").rpartition(".")[2]
            return self._of_annotation(first) if outer in ("Annotated", "Optional") else None
        kind = _CLASSES.get(self._full_name(annotation) or "") if annotation is not None else None
        return None if kind == _SESSION_MAKER else kind

    def _full_name(self, node: ast.expr) -> str | None:
        first, dot, rest = (dotted(node) or "").partition(".")
        return self.imports.get(first, first) + dot + rest or None


def blocking_method(call: ast.Call, types: TypesHere) -> tuple[str, str] | None:
    """The text of a call to a known type's blocking method, and what to use instead; None for other calls."""
    path: list[str] = []
    node: ast.expr = call.func
    while isinstance(node, ast.Attribute) and not (_is_self(node.value) and node.attr in types.attributes):
        path.insert(0, node.attr)
        node = node.value
    kind = types.attributes.get(node.attr) if isinstance(node, ast.Attribute) else None
    kind = kind or types.constructors.of(node, types.names)
    if kind is None or not path:
        return None
    text = ast.unparse(call.func)
    method = path[-1]
    if kind == _OPENAI and len(path) > 1:
        return text, "await the same call of AsyncOpenAI"
    if len(path) > 1:
        return None
    if kind == _SESSION and method in _SESSION_METHODS:
        return text, "await the same call of sqlalchemy.ext.asyncio.AsyncSession, or asyncio.to_thread"
    if kind == _SERVICE and method in _SERVICE_METHODS:
        return text, f"{'async for … in' if method.endswith('streaming') else 'await'} {method}_async(…)"
    if kind == _LOCKS and method in _LOCKS_INSTEAD:
        return text, _LOCKS_INSTEAD[method]
    return None


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")
