"""How the sources are laid out: no circles of imports, a short list at the top, short files and functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from arbitrageai_native import _native, defaults
from arbitrageai_native.locks import keys
from tests.packaging.imports import (
    block_end,
    circles,
    python_imports,
    rust_imports,
    used_paths,
    without_comments_and_texts,
    without_tests,
)

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "arbitrageai_native"
CRATE = ROOT / "src"
ENGINE = CRATE / "lock"  # laid out anew by itself

LONGEST_FILE = 450
LONGEST_FUNCTION = 60
MOST_ENTRIES = 24

# Only offers names: it imports none of these modules before one of its names is looked up. All others may
# import it for `__version__`.
FRONT_DOOR = "arbitrageai_native.__init__"


def python_modules() -> dict[str, str]:
    modules = {}
    for file in PACKAGE.rglob("*.py"):
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        modules[name] = file.read_text(encoding="utf-8")
    return modules


def rust_files() -> Iterator[Path]:
    """The crate without files of tests."""
    for file in CRATE.rglob("*.rs"):
        if "tests" not in file.relative_to(CRATE).with_suffix("").parts:
            yield file


def rust_modules() -> dict[str, str]:
    modules = {"lock": ""}  # whatever uses the engine: it uses nothing of what is looked at here
    for file in rust_files():
        if file.is_relative_to(ENGINE):
            continue
        parts = file.relative_to(CRATE).with_suffix("").parts
        name = "::".join(part for part in parts if part not in ("lib", "mod"))
        modules[name] = file.read_text(encoding="utf-8")
    return modules


def sources() -> Iterator[Path]:
    yield from PACKAGE.rglob("*.py")
    yield from PACKAGE.rglob("*.pyi")
    yield from rust_files()


# --- circles ---


def test_no_python_modules_import_each_other() -> None:
    graph = python_imports(python_modules())
    assert graph["arbitrageai_native.llm_service"]
    assert graph.pop(FRONT_DOOR)
    assert circles(graph) == []


def test_no_rust_modules_use_each_other() -> None:
    graph = rust_imports(rust_modules())
    assert graph["python::llm"]
    assert graph["llm::call"]
    assert circles(graph) == []


@pytest.mark.parametrize(
    "importing",
    [
        "import p.b",
        "import p.b as b",
        "from p import b",
        "from p.b import f",
        "from . import b",
        "from .b import f",
        "def f():\n    from p.b import f",
        "import typing\nif typing.TYPE_CHECKING:\n    from p.b import f",
    ],
)
def test_a_planted_circle_of_python_modules_is_found(importing: str) -> None:
    modules = {"p.__init__": "", "p.a": importing, "p.b": "from p.c import f", "p.c": "from ..p import a"}
    assert circles(python_imports(modules)) == [["p.a", "p.b", "p.c"]]
    assert circles(python_imports({**modules, "p.a": "import json"})) == []


@pytest.mark.parametrize(
    "using",
    [
        "use super::b::B;",
        "use crate::a::b::B;",
        "use crate::a::{c::C, b::{self, B as D}};",
        "use super::{\n    b::B, // a comment; with a semicolon\n};",
        "fn f() { super::b::g(); }",
        "fn f() -> crate::a::b::B { todo() }",
        "use super::B;",  # as its parent offers it
        "use crate::a::*;\nuse crate::a::B as Other;",
    ],
)
def test_a_planted_circle_of_rust_modules_is_found(using: str) -> None:
    modules = {
        "": "mod a;",
        "a": "mod b;\nmod c;\npub use b::B;\npub(crate) use c::{C};",
        "a::b": using.replace("b::", "c::").replace("B", "C"),
        "a::c": using,
    }
    assert ["a::b", "a::c"] in circles(rust_imports(modules))
    in_tests = f"#[cfg(test)]\nmod tests {{ {using} fn g() {{ }} }}"
    for harmless in ("// use super::b::B;", 'const S: &str = "super::b::B {";', in_tests):
        assert circles(rust_imports({**modules, "a::c": harmless})) == []


def test_paths_behind_use_are_taken_apart() -> None:
    paths = used_paths("super::{a::{self, B}, c as d, e::F::*}")
    assert list(paths) == [["super", "a"], ["super", "a", "B"], ["super", "c"], ["super", "e", "F"]]


# --- sizes ---


def entries(folder: Path) -> set[str]:
    """What a newcomer sees; the compiled module and its stub are one."""
    names = {entry.name for entry in folder.iterdir() if entry.name != "__pycache__"}
    return {re.sub(r"^_native\..*", "_native", name) for name in names}


def test_the_top_of_the_package_is_short() -> None:
    assert len(entries(PACKAGE)) <= MOST_ENTRIES


def test_entries_are_counted(tmp_path: Path) -> None:
    for name in ("__pycache__", "_native.pyi", "_native.abi3.so", "a.py", "_b.py"):
        (tmp_path / name).touch()
    (tmp_path / "c").mkdir()
    assert entries(tmp_path) == {"_native", "a.py", "_b.py", "c"}


def functions(source: str, suffix: str) -> Iterator[tuple[str, int]]:
    """Each function with its number of lines, from its name to its end."""
    if suffix != ".rs":
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1
        return
    code = without_tests(without_comments_and_texts(source))
    for found in re.finditer(r"\bfn\s+(\w+)[^;{]*(?:\[[^\]]*;[^\]]*\][^;{]*)*\{", code):
        end = block_end(code, found.end() - 1)
        yield found[1], code.count("\n", found.start(), end) + 1


def test_no_file_is_long() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text("utf-8").splitlines()) for file in sources()}
    assert len(lengths) > 100
    assert {file: length for file, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_long() -> None:
    lengths = {
        f"{file.relative_to(ROOT)}: {name}": length
        for file in sources()
        for name, length in functions(file.read_text("utf-8"), file.suffix)
    }
    assert len(lengths) > 1000
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


PYTHON_FUNCTIONS = '''
class C:
    async def long(self):
        """A docstring.

        """
        def short(): pass
        return short
'''
RUST_FUNCTIONS = r"""
trait T { fn declared(&self) -> [u8; 4]; }
fn long<'a>(text: &'a str, keys: [u8; 2]) -> Vec<char>
where
    T: Sized,
{
    let brace = '{'; // }
    let texts = ["}", r#""}"#];
    if text.is_empty() {
        fn short() {}
    }
}
"""


def test_functions_are_measured() -> None:
    assert dict(functions(PYTHON_FUNCTIONS, ".py")) == {"long": 6, "short": 1}
    assert dict(functions(RUST_FUNCTIONS, ".rs")) == {"long": 10, "short": 1}


# --- one place ---


def reads_of_the_environment(source: str) -> list[str]:
    """Every `os.environ` and `os.getenv`, but where the whole environment is copied, for a child process."""
    tree = ast.parse(source)
    copies = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):  # {**os.environ, …}
            copies.update(id(value) for key, value in zip(node.keys, node.values, strict=True) if key is None)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
            copies.update(map(id, node.args))
    return [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("os.environ", "os.getenv")
        and id(node) not in copies
    ]


def test_the_environment_is_read_in_one_module() -> None:
    found = {name: reads_of_the_environment(text) for name, text in python_modules().items()}
    assert [name for name, reads in found.items() if reads] == ["arbitrageai_native.environment"]


def test_a_planted_read_of_the_environment_is_found() -> None:
    planted = "os.environ.get('A')\nos.getenv('B')\nos.environ['C']\nrun({**os.environ}, dict(os.environ))\n"
    assert sorted(reads_of_the_environment(planted)) == ["os.environ", "os.environ", "os.getenv"]


def settings_of_calls(rust: str) -> set[str]:
    """The settings that `CallOptions` takes, by the arms of its `match`."""
    return set(re.findall(r'^ +"(\w+)" =>', rust, re.MULTILINE))


def test_every_setting_of_a_call_has_its_default_in_one_place() -> None:
    (rust,) = (
        text for name, text in rust_modules().items() if "struct CallOptions" in text and "pymethods" in text
    )
    # These two have no value by themselves: see `default_max_connections`, and what a caller gives.
    assert settings_of_calls(rust) - {"max_connections", "default_headers"} == defaults.CALL_SETTINGS.keys()


def test_settings_are_found() -> None:
    assert settings_of_calls('match name {\n    "timeout" => x(),\n    "http2" => {\n') == {
        "timeout",
        "http2",
    }


async def test_what_the_native_side_says_by_itself_agrees() -> None:
    locks = _native.LockManager(f"sqlite:///file:{keys.PREFIX}?mode=memory&uri=true")
    grant = await locks.acquire("m", "p", holder_id="h", ttl=60, timeout=0)
    assert [row[0] for row in await locks.rows()] == [keys.database_key("m", "p")]
    del grant
    assert _native.LockManager(None).place.endswith(defaults.LOCK_DATABASE_FILE)
