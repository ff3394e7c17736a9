"""What a test of an application puts in the place of a manager's method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def replacement(instance: Any, name: str, original: Any, ignored: type | None = None) -> Any:
    """Return what was put in the place of a static method, on an instance or on a class; None if nothing was.

    The original is a static method in some versions and a method in others, so a function may take `self` or
    not.

    Args:
        instance: an object with that method.
        name: the method's name.
        original: the function that stands there if nothing replaces it.
        ignored: a class whose own replacement does not count.
    """
    if name in vars(instance):
        return vars(instance)[name]
    if getattr(type(instance), name) is original:
        return None
    owner = next(cls for cls in type(instance).__mro__ if name in vars(cls))
    if owner is ignored:
        return None
    found = vars(owner)[name]
    if inspect.isfunction(found) and not _wants_self(found):
        return found
    return getattr(instance, name)


def is_replaced(instance: Any, own: Mapping[str, object]) -> bool:
    """Whether one of an object's methods was replaced, on it or on a class, or is overridden.

    Args:
        instance: an object with these methods.
        own: what stands in the class under each name if nothing replaces it.
    """
    if not own.keys().isdisjoint(vars(instance)):
        return True
    # Every call asks this, and `inspect.getattr_static` would take longer than the rest of the call.
    classes = type(instance).__mro__
    for name, method in own.items():
        for cls in classes:
            if name in cls.__dict__:
                if cls.__dict__[name] is not method:
                    return True
                break
    return False


def _wants_self(function: Callable[..., Any]) -> bool:
    first = next(iter(inspect.signature(function).parameters.values()), None)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return first is not None and first.default is first.empty and first.kind in positional
