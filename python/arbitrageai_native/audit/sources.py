"""Reads the sources of a tree; what can't be read becomes a `Problem`, and the rest goes on."""

from __future__ import annotations

import ast
import io
import os
import tokenize
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from .report import Problem

MOST_BYTES: Final = 5_000_000
SKIPPED_FOLDERS: Final = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})


class Source(NamedTuple):
    """One file. `parts`: its place, folder by folder, as an import names it."""

    path: Path
    text: str
    tree: ast.Module
    parts: tuple[str, ...]

    @property
    def folder(self) -> tuple[str, ...]:
        """The place of the folder that it is in."""
        return self.parts if self.path.stem == "__init__" else self.parts[:-1]


def read_sources(paths: Sequence[Path]) -> tuple[list[Source], list[Problem]]:
    """Read every Python file at or below the paths, each once.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    sources: list[Source] = []
    problems: list[Problem] = []
    seen: set[str] = set()
    for root in paths:
        if not os.path.lexists(root):
            raise FileNotFoundError(f"{root} does not exist")
        for path in _python_files(root, problems):
            real = os.path.realpath(path)
            if real in seen:
                continue
            seen.add(real)
            try:
                text, tree = _read(path)
            except _UnreadableError as error:
                problems.append(Problem(str(path), str(error)))
            else:
                sources.append(Source(path, text, tree, _parts(path)))
    return sources, problems


class _UnreadableError(Exception):
    pass


def _python_files(root: Path, problems: list[Problem]) -> Iterator[Path]:
    if not root.is_dir():
        yield root
        return

    def unreadable(error: OSError) -> None:
        problems.append(Problem(str(error.filename), error.strerror or str(error)))

    # Links to folders are not followed: what they lead to is audited where it is, or is not of this tree.
    for folder, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS and name[0] != ".")
        for name in sorted(files):
            if name.endswith(".py"):
                yield Path(folder, name)


def _read(path: Path) -> tuple[str, ast.Module]:
    try:
        if not path.is_file():
            raise _UnreadableError("no file, or a link that leads nowhere")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise _UnreadableError(error.strerror or str(error)) from None
    if len(content) > MOST_BYTES:
        raise _UnreadableError(f"larger than {MOST_BYTES // 1_000_000} MB")
    if b"\0" in content:
        raise _UnreadableError("binary")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = io.TextIOWrapper(io.BytesIO(content), encoding, newline=None).read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the audited code's string escapes, for instance
            return text, ast.parse(content)
    except SyntaxError as error:
        raise _UnreadableError(f"syntax error in line {error.lineno}: {error.msg}") from None
    except (ValueError, LookupError) as error:
        raise _UnreadableError(f"not Python: {error}") from None
    except (RecursionError, MemoryError):
        raise _UnreadableError("nested too deeply to be read") from None


def _parts(path: Path) -> tuple[str, ...]:
    place = Path(os.path.abspath(path)).with_suffix("")  # noqa: PTH100, as a link is imported by its own name
    return place.parts[:-1] if path.stem == "__init__" else place.parts


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` as text; None for anything but names and attributes."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])
