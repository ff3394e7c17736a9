"""What `from arbitrageai_native import …` offers, and what the distribution says of itself."""

import ast
import inspect
import subprocess
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

import arbitrageai_native
from arbitrageai_native import exceptions

SOURCE = Path(arbitrageai_native.__file__).read_text(encoding="utf-8")
# Modules that would hide a library's name from whoever writes `import *`.
NOT_IN_ALL = {"opentelemetry", "prometheus"}


def names_for_type_checkers(source: str) -> set[str]:
    """What is imported or declared under `if TYPE_CHECKING:`; of `exceptions` that is all."""
    (block,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    names = set()
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
            names.discard("*")
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
    return names


@pytest.mark.parametrize("name", sorted(names_for_type_checkers(SOURCE)))
def test_what_type_checkers_see_is_there(name: str) -> None:
    assert getattr(arbitrageai_native, name) is not None
    assert name in dir(arbitrageai_native)


def test_all_is_what_type_checkers_see() -> None:
    names = names_for_type_checkers(SOURCE) - NOT_IN_ALL
    assert set(arbitrageai_native.__all__) == names | set(exceptions.__all__)
    assert len(set(arbitrageai_native.__all__)) == len(arbitrageai_native.__all__)
    assert {"Lease", "AsyncStream", "Stream", "__version__"} <= set(arbitrageai_native.__all__)


def test_every_exception_is_offered() -> None:
    classes = {
        name
        for name in exceptions.__all__
        if isinstance(found := getattr(exceptions, name), type) and issubclass(found, Exception)
    }
    assert "LockTimeoutError" in classes
    for name in classes:
        assert getattr(arbitrageai_native, name) is getattr(exceptions, name)
        assert name in dir(arbitrageai_native)


def test_a_star_import_gives_what_type_checkers_see() -> None:
    program = """
from arbitrageai_native import *
from arbitrageai_native import exceptions as module
assert LockTimeoutError is module.LockTimeoutError
print(*sorted(name for name in globals() if name != "module"))
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    expected = names_for_type_checkers(SOURCE) - NOT_IN_ALL | set(exceptions.__all__)
    assert expected <= set(said.stdout.split())


@pytest.mark.parametrize("module", ["drop_in", "defaults"])
def test_importing_a_light_module_loads_no_other(module: str) -> None:
    program = (
        f"import sys\nfrom arbitrageai_native import {module}\n"
        "print([name for name in sys.modules if name.startswith('arbitrageai_native.')])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == f"['arbitrageai_native.{module}']\n"


@pytest.mark.parametrize("name", [name for name in arbitrageai_native.__all__ if name != "__version__"])
def test_signatures_show_defaults_that_can_be_read(name: str) -> None:
    found = getattr(arbitrageai_native, name)
    for thing in (found, *(vars(found).values() if isinstance(found, type) else ())):
        try:
            signature = str(inspect.signature(thing))
        except (TypeError, ValueError):  # nothing that is called, or native code
            continue
        assert " at 0x" not in signature


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'LLMServce'"):
        _ = arbitrageai_native.LLMServce  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_distribution() -> None:
    assert arbitrageai_native.__version__ == version("arbitrageai-native")
    command = [sys.executable, "-m", "arbitrageai_native", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout == f"arbitrageai-native {arbitrageai_native.__version__}\n"


def test_importing_the_package_alone_imports_none_of_its_modules() -> None:
    program = (
        "import sys, arbitrageai_native\n"
        "print([name for name in sys.modules if name.startswith('arbitrageai_native.')],"
        " 'importlib.metadata' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "[] False\n"


def test_the_distribution_says_who_made_it_and_where_it_is_kept() -> None:
    found = metadata("arbitrageai-native")
    assert found["Author"] == "The arbitrageai-native authors"
    addresses = dict(line.split(", ", 1) for line in found.get_all("Project-URL") or ())
    assert addresses.keys() >= {"Documentation", "Changelog", "Issues"}
    assert len({address.split("/", 5)[4] for address in addresses.values()}) == 1
