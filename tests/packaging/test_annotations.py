"""Every annotation of the package can be evaluated, as libraries do that read signatures at run time."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator

import pytest

import arbitrageai_native

# Without the modules of the command line, whose functions nobody imports.
MODULES = [
    module.name
    for module in pkgutil.walk_packages(arbitrageai_native.__path__, "arbitrageai_native.")
    if not module.name.endswith(("__main__", "._native", "subprocess_child")) and ".cli." not in module.name
]

# Classes of packages that are imported only where they are used.
NAMES = "CallbackOptions CollectorRegistry Family Meter MeterProvider Observation"
OF_OPTIONAL_PACKAGES = dict.fromkeys(NAMES.split(), object)


def annotated(owner: object, module: str) -> Iterator[object]:
    """The classes and functions that a module or a class of it defines."""
    for member in vars(owner).values():
        if isinstance(member, (staticmethod, classmethod)):
            member = member.__func__
        if isinstance(member, property):
            yield from (part for part in (member.fget, member.fset) if part is not None)
        elif inspect.isfunction(member) and member.__module__ == module:
            yield inspect.unwrap(member)
        elif inspect.isclass(member) and member.__module__ == module and member is not owner:
            yield member
            yield from annotated(member, module)


@pytest.mark.parametrize("name", MODULES)
def test_annotations_can_be_evaluated(name: str) -> None:
    module = importlib.import_module(name)
    for thing in annotated(module, name):
        typing.get_type_hints(thing, localns=OF_OPTIONAL_PACKAGES)


def test_the_modules_are_found() -> None:
    assert len(MODULES) > 60
    service = importlib.import_module("arbitrageai_native.llm_service").LLMService
    assert service.complete in set(annotated(service, service.__module__))
