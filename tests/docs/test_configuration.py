"""docs/configuration.md names every variable that is read, and every setting that is taken."""

import inspect
import re
from pathlib import Path

import pytest

from arbitrageai_native import BidLockManager
from arbitrageai_native.llm.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
# `PYTHONPATH` is passed on by `run`; the others are constants and a word on the command line.
NOT_SETTINGS = re.compile(r"PYTHONPATH|COMMAND|DEFAULT_\w+|TASK_TYPE_\w+")


def variables_read() -> set[str]:
    """Every name in capitals that is a string of its own in a source that reads the environment."""
    names: set[str] = set()
    sources = [ROOT / "python" / "arbitrageai_native" / "environment.py", *(ROOT / "src").rglob("*.rs")]
    for source in sources:
        text = source.read_text(encoding="utf-8")
        if not re.search(r"getenv|env::var", text):
            continue
        names.update(re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)"', text))
    return {name for name in names if not NOT_SETTINGS.fullmatch(name)}


def settings_of_calls() -> list[str]:
    return sorted(ServiceSettings.__optional_keys__)


def test_the_sources_are_found() -> None:
    assert {"DATABASE_URL", "API_KEY", "ARBITRAGEAI_NATIVE_WORKER_THREADS"} <= variables_read()
    assert {"timeout", "fallback_delays"} <= set(settings_of_calls())


@pytest.mark.parametrize("name", sorted(variables_read()))
def test_every_variable_is_named(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_every_setting_of_a_call_is_named() -> None:
    assert [name for name in settings_of_calls() if f"`{name}" not in PAGE] == []


def test_every_setting_of_locks_is_named_with_its_default() -> None:
    parameters = inspect.signature(BidLockManager).parameters.values()
    for parameter in parameters:
        (row,) = re.findall(rf"^\| `{parameter.name}` \| .*", PAGE.split("## Locks")[1], re.MULTILINE)
        if isinstance(parameter.default, int):
            assert f"| {parameter.default} |" in row
