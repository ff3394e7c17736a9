"""Signatures that list the keywords which a `TypedDict` names, for `help()`, `inspect.signature` and shells.

Type checkers see these keywords by `Unpack[…]`, and so does nobody else.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from types import FunctionType
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

# The default of a keyword that a caller may leave out, as stubs write it: it is then not passed on.
_LEFT_OUT = type("_LeftOut", (), {"__repr__": lambda _: "..."})()


def lists_keywords(keywords: Any) -> Callable[[Function], Function]:
    """Show the members of a `TypedDict` in the signature of a function that takes `**Unpack[…]` of it.

    The last parameter still takes keywords of any name. The function itself is not wrapped.
    """

    def listed(function: Function) -> Function:
        function.__signature__ = _Listed(function, keywords)  # type: ignore[attr-defined]
        return function

    return listed


class _Listed(Signature):
    """A signature that is built when it is looked at, since few programs that import the package do that."""

    def __init__(self, function: Any, keywords: Any) -> None:
        super().__init__(return_annotation=function.__annotations__.get("return", Signature.empty))
        self._function, self._keywords = function, keywords

    @property
    def parameters(self) -> Any:
        """The function's own parameters, the members of the `TypedDict`, and `**kwargs` of any name."""
        *own, rest = signature(_without_signature(self._function)).parameters.values()
        members = [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=Parameter.empty if name in self._keywords.__required_keys__ else _LEFT_OUT,
                annotation=kind,
            )
            for name, kind in self._keywords.__annotations__.items()
        ]
        return Signature([*own, *members, rest.replace(annotation="Any")]).parameters

    def replace(self, **changes: Any) -> Signature:  # type: ignore[override]
        """Return an ordinary signature with these changes."""
        whole = Signature(self.parameters.values(), return_annotation=self.return_annotation)
        return whole.replace(**changes)


def _without_signature(function: Any) -> FunctionType:
    """Return the same function, with the signature of its code."""
    plain = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    plain.__kwdefaults__, plain.__annotations__ = function.__kwdefaults__, function.__annotations__
    return plain
