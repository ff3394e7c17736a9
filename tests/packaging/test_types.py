"""Type checkers find a user's mistakes, and find none in correct code; editors complete the public names."""

from __future__ import annotations

import gc
import inspect
import json
import pydoc
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_type_hints
from unittest.mock import create_autospec

import jedi
import pytest

import arbitrageai_native
from arbitrageai_native import LLMService, OpenAI
from arbitrageai_native.llm.clients import AsyncCompletions, Completions
from arbitrageai_native.llm.results import ServiceMetrics
from arbitrageai_native.llm.settings import (
    ClientSettings,
    CompleteKeywords,
    CreateKeywords,
    ManyKeywords,
    ServiceSettings,
)
from arbitrageai_native.process_metrics import ProcessMetrics
from testing_support.types import mypy

USER_CODE = Path(__file__).parent / "user_code"
FILES = ("conditions.py", "correct.py", "mistaken.py")
MARK = "# mistake: "


pytestmark = pytest.mark.timeout(600)  # whoever comes first reads two thousand modules, see `mypy`

Lines = dict[str, set[int]]


def mypy_errors(_: Path) -> Lines:
    """The lines with errors by file, as a user's mypy finds them with `--strict`."""
    return by_file((file, line) for file, line, _ in mypy(USER_CODE, FILES))


def pyright_errors(folder: Path) -> Lines:
    """The lines with errors by file, as a user's pyright finds them in its standard mode."""
    settings = {"typeCheckingMode": "standard", "include": [str(USER_CODE)], "pythonVersion": "3.10"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    options = ["--outputjson", "--pythonpath", sys.executable, "--project", str(folder)]
    checked = subprocess.run(
        [sys.executable, "-m", "basedpyright", *options], capture_output=True, text=True, cwd=USER_CODE
    )
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert checked.stdout, checked.stderr
    errors = json.loads(checked.stdout)["generalDiagnostics"]
    return by_file(
        (one["file"], one["range"]["start"]["line"] + 1) for one in errors if one["severity"] == "error"
    )


def by_file(places: Iterable[tuple[str, int]]) -> Lines:
    lines: Lines = {name: set() for name in FILES}
    for file, line in places:
        lines[Path(file).name].add(line)
    return lines


@pytest.fixture(scope="module", params=[mypy_errors, pyright_errors], ids=["mypy", "pyright"])
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lines:
    """What a type checker finds in the user's files."""
    found: Lines = request.param(tmp_path_factory.mktemp("types"))
    return found


def planted(file: str) -> dict[str, set[int]]:
    """The lines of each mistake."""
    mistakes = defaultdict(set)
    for number, line in enumerate((USER_CODE / file).read_text(encoding="utf-8").splitlines(), 1):
        if MARK in line:
            mistakes[line.partition(MARK)[2]].add(number)
    return mistakes


def test_a_condition_without_await_is_found_where_that_is_switched_on(errors: Lines) -> None:
    (lines,) = planted("conditions.py").values()
    assert len(lines) == 3
    assert errors["conditions.py"] == lines


def test_at_least_15_of_16_mistakes_are_found(errors: Lines) -> None:
    mistakes = planted("mistaken.py")
    assert len(mistakes) == 16
    found = [name for name, lines in mistakes.items() if lines <= errors["mistaken.py"]]
    assert len(found) >= 15, sorted(set(mistakes) - set(found))
    assert errors["mistaken.py"] <= set().union(*mistakes.values())


def test_correct_code_has_no_errors(errors: Lines) -> None:
    assert errors["correct.py"] == set()


def test_the_types_of_metrics_have_the_keys_of_the_metrics() -> None:
    assert LLMService().metrics().keys() == get_type_hints(ServiceMetrics).keys()
    metrics = arbitrageai_native.metrics()
    for name, kind in get_type_hints(ProcessMetrics).items():
        if name != "circuits":
            assert metrics[name].keys() == get_type_hints(kind).keys()  # type: ignore[literal-required]


Completed = Callable[[str], set[str]]


@pytest.fixture(scope="module")
def completed() -> Iterator[Completed]:
    """Gives the names that an editor offers at the end of the code."""
    environments = [jedi.create_environment(sys.prefix, safe=False)]
    yield lambda code: {name.name for name in jedi.Script(code, environment=environments[0]).complete()}
    environments.clear()
    gc.collect()  # its process ends with it


def test_an_editor_completes_the_public_names(completed: Completed) -> None:
    assert set(arbitrageai_native.__all__) <= completed("import arbitrageai_native\narbitrageai_native.")
    names = {name for name in dir(LLMService) if not name.startswith("_")}
    assert len(names) > 20
    program = "from arbitrageai_native import LLMService\nLLMService()."
    assert names | {"base_url", "model", "client"} <= completed(program)


KNOWN = [(LLMService, "__init__", ServiceSettings), (OpenAI, "__init__", ClientSettings)]
KNOWN += [(completions, "create", CreateKeywords) for completions in (Completions, AsyncCompletions)]
KNOWN += [
    (LLMService, name, ManyKeywords if "many" in name else CompleteKeywords)
    for name in vars(LLMService)
    if name.startswith("complete")
]


@pytest.mark.parametrize(("owner", "name", "keywords"), KNOWN)
def test_signatures_list_the_keywords_that_type_checkers_know(owner: Any, name: str, keywords: Any) -> None:
    method = getattr(owner, name)
    *_, last = parameters = inspect.signature(method).parameters.values()
    by_name = {one.name: one for one in parameters}
    for keyword, kind in get_type_hints(keywords).items():
        parameter = by_name[keyword]
        assert (parameter.kind, parameter.annotation) == (parameter.KEYWORD_ONLY, kind)
        assert (parameter.default is parameter.empty) == (keyword in keywords.__required_keys__)
    assert last.kind is last.VAR_KEYWORD
    assert "timeout: float | None = ..." in pydoc.render_doc(method, renderer=pydoc.plaintext)
    assert inspect.signature(owner if name == "__init__" else method).parameters.keys() >= {"deadline"}


def test_signatures_of_bound_methods_and_of_mocks_work() -> None:
    service = LLMService()
    assert list(inspect.signature(service.complete).parameters)[:2] == ["prompt", "temperature"]
    inspect.signature(service.complete).bind("hi", unknown=1)
    mocked = create_autospec(LLMService)("http://x/v1", timeout=5)
    assert mocked.complete("hi", top_p=1, unknown=1) is mocked.complete.return_value
    with pytest.raises(TypeError, match="too many positional"):
        mocked.complete("hi", 0, 5, "system", False, "more")


def test_a_shell_completes_the_keywords_of_a_call() -> None:
    """Of objects that exist, as in IPython; `jedi.Script`, which reads sources, does not know `Unpack`."""
    names = {"service": LLMService(), "client": OpenAI(api_key="x")}
    for program in ("service.complete(dead", "client.chat.completions.create(dead"):
        assert "deadline=" in {one.name for one in jedi.Interpreter(program, [names]).complete()}


@pytest.mark.parametrize(("client", "call"), [("OpenAI", ""), ("AsyncOpenAI", "await ")])
def test_an_editor_completes_the_members_of_a_client(client: str, call: str, completed: Completed) -> None:
    program = f"from arbitrageai_native import {client}\nclient = {client}(api_key='x')\n"
    assert "chat" in completed(f"{program}client.")
    assert "completions" in completed(f"{program}client.chat.")
    assert "create" in completed(f"{program}client.chat.completions.")
    made = f"{call}client.chat.completions.create(model='m', messages=[])"
    lines = f"{program}async def main():\n    answer = {made}\n    answer."
    assert {"model_dump", "model_dump_json"} <= completed(lines)
