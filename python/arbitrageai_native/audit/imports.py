"""Which file of the audited tree an import leads to, by the place of the files alone.

How the application is started, and so what is on its path, is not known: an absolute import is searched for
in every folder above the file that makes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from .functions import Module

Parts: TypeAlias = tuple[str, ...]


class ModuleIndex:
    """The modules of the tree by their place."""

    def __init__(self, modules: Sequence[Module]) -> None:
        self._by_parts = {module.source.parts: module for module in modules}
        self._packages = {m.source.parts for m in modules if m.source.path.stem == "__init__"}

    def find(self, module: Module, name: str) -> tuple[Module, Parts] | None:
        """The module that a full name leads to, and the attributes in it; None for a library's name.

        A name with leading dots counts from the package of `module`.
        """
        parts = tuple(name.lstrip(".").split("."))
        level = len(name) - len(name.lstrip("."))
        if level == 0:
            if parts[0] in sys.stdlib_module_names:
                return None
            return self._longest(self._roots(module.source.folder), parts)
        folder = module.source.folder
        package = folder[: len(folder) - level + 1]
        found = self._longest([package], parts)
        if found is None and package in self._by_parts and self._by_parts[package].defines(parts[0]):
            return self._by_parts[package], parts
        if found is None and len(parts) > 1:
            # The file has been moved, or the module stands in for one that was: a package above may have it.
            found = self._longest([package[:end] for end in range(len(package) - 1, 0, -1)], parts)
        return found

    def _longest(self, folders: Sequence[Parts], parts: Parts) -> tuple[Module, Parts] | None:
        for end in range(len(parts), 0, -1):
            for folder in folders:
                found = self._by_parts.get(folder + parts[:end])
                if found is not None:
                    return found, parts[end:]
        return None

    def _roots(self, folder: Parts) -> Sequence[Parts]:
        """The folders above, the nearest first; those that are no package come before packages."""

        def above() -> Iterator[Parts]:
            for end in range(len(folder), 0, -1):
                yield folder[:end]

        return sorted(above(), key=lambda place: place in self._packages)
