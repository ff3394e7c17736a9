"""What is public, of the sources: they are read, not run, as the reference does it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import griffe

from tests.docs.blocks import ROOT

PACKAGE = "arbitrageai_native"

#: No part of the library's API: the command line, what the command `demo` runs, and what the others share.
INTERNAL = {"cli", "defaults", "demo", "environment"}

#: The public modules of folders whose other modules are internal.
PUBLIC = {
    "integrations": {"fastapi", "opentelemetry", "prometheus", "starlette"},
    "llm": {"clients", "results", "streams"},
    "locks": {"leases", "overview"},
    "utils": {"async_helpers"},
}

Thing = griffe.Object | griffe.Alias


@cache
def package() -> griffe.Module:
    """The package, read."""
    loaded = griffe.load(PACKAGE, search_paths=[ROOT / "python"], resolve_aliases=True)
    assert isinstance(loaded, griffe.Module)
    return loaded


@dataclass(frozen=True)
class PublicName:
    """A public module, class, function, method, property or constant."""

    path: str
    thing: Thing

    @property
    def is_documented(self) -> bool:
        """Whether it has a docstring; of an attribute its class may tell."""
        return self.thing.docstring is not None or self._is_told_of_by_its_class

    @property
    def anchor(self) -> str:
        """Where the reference tells of it."""
        return self.path if self.thing.docstring is not None else self.path.rpartition(".")[0]

    @property
    def _is_told_of_by_its_class(self) -> bool:
        around = self.thing.parent.docstring if self.thing.parent is not None else None
        return self.thing.is_attribute and around is not None and f"{self.thing.name}:" in around.value


def public_names() -> dict[str, list[PublicName]]:
    """What is public, each with all its names: one thing may be offered by several modules."""
    found = defaultdict(list)
    for module in _modules(package()):
        names = [PublicName(f"{module.path}.{name.path}", name.thing) for name in _members(module)]
        for name in [PublicName(module.path, module), *names] if names else []:
            found[name.thing.canonical_path].append(name)
    return found


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    if module.exports is not None and module is not package():
        return  # what a package of its own offers, it offers itself
    for name, child in sorted(module.modules.items()):
        if name.startswith("_") or child.is_alias or name in INTERNAL:
            continue
        if name in PUBLIC.get(module.name, {name}):
            yield from _modules(child)


def _members(parent: Thing) -> Iterator[PublicName]:
    """The public members, their paths counted from the parent."""
    for name, member in parent.members.items():
        if name.startswith("_") or not member.is_public or member.is_module:
            continue
        yield PublicName(name, member)
        if not member.is_class:
            continue
        # What a private base has is offered by the class.
        for owner in (member, *(base for base in member.mro() if base.name.startswith("_"))):
            for inner in _members(owner):
                yield PublicName(f"{name}.{inner.path}", inner.thing)
