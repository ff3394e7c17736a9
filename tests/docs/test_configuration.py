"""docs/configuration.md names every variable that is read, and every setting that is taken."""

import inspect
import re
from pathlib import Path

import pytest

from arbitrageai_native import BidLockManager, defaults
from arbitrageai_native.llm import settings
from arbitrageai_native.llm.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
# `PYTHONPATH` is passed on by `run`; the others are constants and a word on the command line.
OF_TESTS = re.compile(r"/tests/|/tests\.rs$|/simulation/")
NOT_SETTINGS = re.compile(r"PYTHONPATH|COMMAND|DEFAULT_\w+|TASK_TYPE_\w+")


# The defaults of calls, by the setting's name; a client has another one for some.
OF_CALLS = {
    **defaults.CALL_SETTINGS,
    "stealth_range": defaults.STEALTH_RANGE,
    "fallback_timeouts": defaults.FALLBACK_TIMEOUTS,
    "fallback_delays": defaults.FALLBACK_DELAYS,
}
OF_CLIENTS = {"timeout": defaults.CLIENT_TIMEOUT, "idempotency_key": defaults.CLIENT_IDEMPOTENCY_KEY}
OTHERS = {
    "LLMService(base_url=)": defaults.CLOUD_BASE_URL,
    "LLMService(api_key=)": defaults.CLOUD_API_KEY,
    "LLMService(model=)": defaults.CLOUD_MODEL,
    "OpenAI(base_url=)": defaults.CLOUD_BASE_URL,
    "ModelConfig(cloud_model=)": defaults.CLOUD_MODEL,
    "ModelConfig(local_model=)": defaults.LOCAL_MODEL,
    "ModelConfig(local_base_url=)": defaults.LOCAL_BASE_URL,
    "ModelConfig(local_api_key=)": defaults.LOCAL_API_KEY,
    "ModelConfig(use_local_by_default=)": str(defaults.USE_LOCAL_BY_DEFAULT).lower(),
    "for_distilled_task(model=)": defaults.DISTILLED_MODEL,
    "get_optimized_service(min_cloud_revenue=)": str(defaults.MIN_CLOUD_REVENUE_CENTS),
    "database_url": defaults.LOCK_DATABASE_URL,
    "on_lost": f'"{defaults.LOCK_ON_LOST}"',
    "REDIS_HOST": defaults.REDIS_HOST,
    "REDIS_PORT": defaults.REDIS_PORT,
    "REDIS_DB": defaults.REDIS_DB,
}


def written(name: str) -> str:
    """The default of a call's setting as the page has it."""
    value = shown(OF_CALLS[name])
    return f"{value}; of a client {shown(OF_CLIENTS[name])}" if name in OF_CLIENTS else value


def shown(value: object) -> str:
    """A default as a person writes it."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))})"
    assert isinstance(value, (int, float))
    return f"{value // 1024**2} MiB" if value >= 1024**2 else f"{value:g}"


def variables_read() -> set[str]:
    """Every name in capitals that is a string of its own in a source that reads the environment."""
    names: set[str] = set()
    core = [path for path in (ROOT / "src").rglob("*.rs") if not OF_TESTS.search(path.as_posix())]
    sources = [ROOT / "python" / "arbitrageai_native" / "environment.py", *core]
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


@pytest.mark.parametrize("name", OF_CALLS)
def test_the_page_gives_the_default_of_a_setting(name: str) -> None:
    (default,) = re.findall(rf"^\| `{name}`(?: ²)? \| (.*?) \|", PAGE, re.MULTILINE)
    assert default == written(name)


@pytest.mark.parametrize("name", OTHERS)
def test_the_page_gives_the_default_of_a_parameter(name: str) -> None:
    rows = re.findall(rf"^\|.*`{re.escape(name)}`.*", PAGE, re.MULTILINE)
    assert any(f"`{OTHERS[name]}`" in row for row in rows)


@pytest.mark.parametrize("kind", ["_CommonSettings", "CallSettings", "ClientSettings", "ServiceSettings"])
def test_a_docstring_gives_the_defaults(kind: str) -> None:
    text = " ".join((getattr(settings, kind).__doc__ or "").split())
    found = dict(re.findall(r"(\w+): (?:(?!\w+: )[^()])*\(([^()]+)\)", text))
    named = {name: value for name, value in found.items() if name in OF_CALLS}
    assert named
    assert {name: f"({value})" for name, value in named.items()} == {
        name: f"({written(name).strip('()')})" for name in named
    }
