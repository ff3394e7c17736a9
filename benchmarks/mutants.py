"""Whether tests notice that a module is wrong: each mutant differs in one place, and some test must fail.

    python benchmarks/mutants.py arbitrageai_native.llm.fallback tests/llm/test_fallback.py --sample 50

An option of pytest is one word: `-kname`. No file is changed: a mutant is made while it is imported, in a
forked process of its own. The survivors are printed; each needs a test, or the reason why it behaves as the
module does.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType

import pytest

ROOT = Path(__file__).parents[1]
UNUSED = 99
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}


def mutants(source: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield what was changed and the changed module, for every place that can be changed."""
    tree = ast.parse(source)
    unchanged = ast.unparse(tree)
    for index, node in enumerate(ast.walk(tree)):
        for variant in range(3):
            if change(copy.deepcopy(node), variant) is None:
                continue
            changed = copy.deepcopy(tree)
            what = change(next(itertools.islice(ast.walk(changed), index, None)), variant)
            if ast.unparse(changed) != unchanged:
                line = getattr(node, "lineno", 0)
                yield f"{line}: {what}: {ast.unparse(node).splitlines()[0][:90]}", changed


def change(node: ast.AST, variant: int) -> str | None:
    """Change the node; return how, or None if it has no such variant."""
    if isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp) and variant == 0:
        operator = node.ops[0] if isinstance(node, ast.Compare) else node.op
        swapped = SWAPPED.get(type(operator))
        if swapped is None:
            return None
        if isinstance(node, ast.Compare):
            node.ops[0] = swapped()  # type: ignore[call-overload]
        else:
            node.op = swapped()  # type: ignore[assignment]
        return f"{type(operator).__name__} -> {swapped.__name__}"
    if isinstance(node, ast.Constant) and variant == 0 and isinstance(node.value, bool | int | float):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1
        return "another constant"
    if isinstance(node, ast.If | ast.While | ast.IfExp) and variant < 2:
        node.test = ast.Constant(variant == 0)
        return f"always {variant == 0}"
    if isinstance(node, ast.Return) and variant == 0 and node.value is not None:
        node.value = ast.Constant(None)
        return "returns None"
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and variant == 0:
        node.body = [*([node.body[0]] if ast.get_docstring(node) else []), ast.Pass()]
        return "empty"
    bodies = [getattr(node, name, None) for name in ("body", "orelse", "finalbody")]
    for body in bodies[variant : variant + 1]:
        if isinstance(body, list) and not isinstance(node, ast.Module | ast.ClassDef):
            for number, statement in enumerate(body):
                is_call = isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant)
                if is_call or isinstance(statement, ast.Raise | ast.AugAssign | ast.Delete):
                    body[number] = ast.Pass()
                    return f"without {ast.unparse(statement).splitlines()[0][:60]}"
    return None


class Loader(importlib.machinery.SourceFileLoader):
    """Loads the mutant in the module's place."""

    tree: ast.Module

    def get_code(self, fullname: str) -> CodeType:
        return compile(ast.fix_missing_locations(self.tree), self.get_filename(fullname), "exec")


class Finder(importlib.abc.MetaPathFinder):
    """Finds one module, and makes a mutant of it."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self._name = name
        self._loader = Loader(name, str(path))
        self._loader.tree = tree
        self.is_used = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        self.is_used = True
        return importlib.util.spec_from_loader(fullname, self._loader)


def fails(finder: Finder | None, tests: list[str], seconds: float) -> bool:
    """Run the tests in a forked process; return whether one failed, or they took too long."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        if finder is not None:
            sys.meta_path.insert(0, finder)
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        # With its rewriting of assertions pytest would load the modules itself.
        failed = pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--assert=plain", *tests])
        os._exit(failed if finder is None or finder.is_used else UNUSED)
    deadline = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, 9)
            os.waitpid(child, 0)
            return True
        time.sleep(0.01)
    status = os.waitstatus_to_exitcode(ended[1])
    if status == UNUSED:
        sys.exit("the tests do not import the module")
    return status != 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("module")
    parser.add_argument("tests", nargs="+", help="files, or options of pytest")
    parser.add_argument("--sample", type=int, default=10**6, help="so many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument(
        "--seconds", type=float, default=600, help="the longest run, at its end the rest is not tried"
    )
    arguments, options = parser.parse_known_args()
    tests = [*arguments.tests, *options]
    path = (ROOT / "python").joinpath(*arguments.module.split(".")).with_suffix(".py")
    every = list(mutants(path.read_text(encoding="utf-8")))
    chosen = random.Random(arguments.seed).sample(every, min(arguments.sample, len(every)))
    start = time.monotonic()
    if fails(None, tests, 600):
        sys.exit("the tests fail without a mutant")
    longest = 5 * (time.monotonic() - start) + 10
    tried, survivors = 0, []
    for what, tree in chosen:
        if time.monotonic() - start > arguments.seconds:
            break
        tried += 1
        if not fails(Finder(arguments.module, path, tree), tests, longest):
            survivors.append(what)
            print(f"survives: {what}", flush=True)
    print(f"{arguments.module}: {len(every)} mutants, {tried} tried, {tried - len(survivors)} killed, "
          f"{len(survivors)} survive (seed {arguments.seed})")  # fmt: skip


if __name__ == "__main__":
    main()
