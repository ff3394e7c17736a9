"""Which module imports which, and which of them run in a circle: of Python by `ast`, of Rust by its paths."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping

Graph = dict[str, set[str]]


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or over others (Tarjan's algorithm)."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        numbers[module] = lowest[module] = len(numbers)
        path.append(module)
        for imported in graph.get(module, ()):
            if imported not in numbers:
                visit(imported)
            if imported in path:
                lowest[module] = min(lowest[module], lowest[imported])
        if lowest[module] == numbers[module]:
            group = path[path.index(module) :]
            del path[path.index(module) :]
            if len(group) > 1 or module in graph.get(module, ()):
                found.append(sorted(group))

    for module in sorted(graph):
        if module not in numbers:
            visit(module)
    return sorted(found)


# --- Python ---


def python_imports(sources: Mapping[str, str]) -> Graph:
    """What each module imports of the others: at its top, in functions, and for type checkers alone.

    Args:
        sources: the text of each module by its name; of a package the name is that of its `__init__`,
            `package.__init__`.
    """
    return {name: set(_imported(name, text, sources.keys())) - {name} for name, text in sources.items()}


def _imported(name: str, text: str, modules: Iterable[str]) -> Iterator[str]:
    known = {module.removesuffix(".__init__"): module for module in modules}
    package = name.removesuffix(".__init__") if name.endswith(".__init__") else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (known[alias.name] for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: -(node.level - 1) or None] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                found = known.get(f"{base}.{alias.name}") or known.get(base)
                if found is not None:
                    yield found


# --- Rust ---

_NOT_CODE = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | b?r(?P<hashes>\#*)".*?"(?P=hashes) | b?"(?:\\.|[^"\\])*"
        | b?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^'\\])'""",
    re.DOTALL | re.VERBOSE,
)
_USE = re.compile(r"\b(?P<public>pub(?:\([^)]*\))?\s+)?use\s+(?P<tree>[^;]+);")
_PATH = re.compile(r"(?<![\w:])(?:crate|self|super)(?:\s*::\s*\w+)+")
_TESTS = re.compile(r"#\[cfg\(test\)\]\s*(?:pub(?:\([^)]*\))?\s+)?mod\s+\w+\s*\{")


def without_comments_and_texts(source: str) -> str:
    """Rust with comments, strings and characters taken out; every line stays in its place."""
    return _NOT_CODE.sub(lambda found: "\n" * found[0].count("\n") or " ", source)


def block_end(code: str, start: int) -> int:
    """Where the block ends whose first brace is the next one from `start` on."""
    depth = 0
    for position in range(code.index("{", start), len(code)):
        depth += {"{": 1, "}": -1}.get(code[position], 0)
        if depth == 0:
            return position + 1
    raise ValueError("a brace is not closed")


def without_tests(code: str) -> str:
    """Rust without its modules of tests."""
    while found := _TESTS.search(code):
        code = code[: found.start()] + code[block_end(code, found.end() - 1) :]
    return code


def used_paths(tree: str) -> Iterator[list[str]]:
    """The paths in what stands behind `use`: `a::{b, c::D as E}` has two."""
    tree = tree.strip()
    head, brace, rest = tree.partition("{")
    if not brace:
        path = re.sub(r"\s+as\s+\w+$", "", tree)
        yield [part for part in re.split(r"\s*::\s*", path) if part and part not in ("*", "self")] or ["self"]
        return
    prefix = [part for part in re.split(r"\s*::\s*", head.strip()) if part]
    depth, item = 0, ""
    for character in rest.rpartition("}")[0] + ",":
        if character == "," and depth == 0:
            if item.strip():
                yield from ([*prefix, *(p for p in path if p != "self")] for path in used_paths(item))
            item = ""
            continue
        depth += {"{": 1, "}": -1}.get(character, 0)
        item += character


def rust_imports(sources: Mapping[str, str]) -> Graph:
    """What each module uses of the others, in `use` and in paths that begin with `crate`, `self` or `super`.

    A module that offers what its children have (`pub use child::Name`) does not use them by that. Who uses
    the name there uses the child.

    Args:
        sources: the text of each module by its path (`llm::call`), that of the crate is "".
    """
    code = {name: without_tests(without_comments_and_texts(text)) for name, text in sources.items()}
    offered = {name: _offered(name, text, sources.keys()) for name, text in code.items()}
    graph: Graph = {}
    for name, text in code.items():
        paths = [path for use in _USE.finditer(text) if not use["public"] for path in used_paths(use["tree"])]
        paths += [re.split(r"\s*::\s*", found[0]) for found in _PATH.finditer(_USE.sub("", text))]
        used = {_home(name, path, sources.keys(), offered) for path in paths}
        graph[name] = {module for module in used if module is not None and module != name}
    return graph


def _offered(name: str, code: str, modules: Iterable[str]) -> dict[str, str]:
    """What `pub use` offers: the last name of each path, and the module that has it."""
    found = {}
    for use in _USE.finditer(code):
        if use["public"]:
            for path in used_paths(use["tree"]):
                home = _home(name, path, modules, {})
                if home is not None and home != name:
                    found[path[-1]] = home
    return found


def _home(
    module: str, path: list[str], modules: Iterable[str], offered: Mapping[str, Mapping[str, str]]
) -> str | None:
    """The module that a path leads to, as seen from `module`; None if it leads out of the crate."""
    known = set(modules)

    def child(parent: str, name: str) -> str:
        return f"{parent}::{name}" if parent else name

    first, *rest = path
    if first == "crate":
        here = ""
    elif first == "self":
        here = module
    elif first == "super":
        here = module.rpartition("::")[0]
    elif child(module, first) in known:
        here = child(module, first)
    else:
        return None
    for number, name in enumerate(rest):
        if name == "super":
            here = here.rpartition("::")[0]
        elif child(here, name) in known:
            here = child(here, name)
        else:
            further = offered.get(here, {}).get(name)
            return here if further is None else _through(further, rest[number:], offered)
    return here


def _through(module: str, names: list[str], offered: Mapping[str, Mapping[str, str]]) -> str:
    """Follow a name that is offered by one module after another."""
    while (further := offered.get(module, {}).get(names[0])) is not None:
        module = further
    return module
