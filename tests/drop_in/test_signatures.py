"""Every public name of the originals' modules, one by one: what it is, its arguments, its defaults."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from tests.drop_in.support import module

MODULES = (
    "llm_service",
    "llm_health_check",
    "agent_execution.bid_lock_manager",
    "agent_execution.redis_bid_lock_manager",
    "agent_execution.bid_lock_manager_factory",
    "utils.async_helpers",
)
# Names of the reference that are its own, not the originals'.
OWN = {"DistributedLock", "POLL_SECONDS", "SessionLocal", "TYPE_CHECKING"}
# Of the privates those that tests of the originals use.
PRIVATE = {
    *("_make_lock_key", "_make_holder_id", "_get_db", "_cleanup_expired_locks", "_calculate_jitter"),
    *("_bid_lock_manager", "_global_health_checker"),
}


def is_public(name: str) -> bool:
    return name not in OWN and (not name.startswith("_") or name in PRIVATE)


def names(name: str) -> Iterator[str]:
    """The names that a module of the reference defines, and those of its classes' members."""
    reference = module("reference", name)
    for public, value in sorted(vars(reference).items()):
        if not is_public(public) or isinstance(value, ModuleType):
            continue
        defined_in = getattr(value, "__module__", reference.__name__)
        if not defined_in.startswith("testing_support"):
            continue
        yield public
        if inspect.isclass(value) and defined_in == reference.__name__:
            members = [
                member for cls in value.__mro__[:-1] for member in vars(cls) if cls.__module__ == defined_in
            ]
            yield from (f"{public}.{member}" for member in [*members, "__init__"] if is_member(member))


def is_member(name: str) -> bool:
    return name == "__init__" or is_public(name)


NAMES = [(name, public) for name in MODULES for public in dict.fromkeys(names(name))]


def found(implementation: str, name: str, public: str) -> Any:
    value: Any = module(implementation, name)
    for part in public.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(("name", "public"), NAMES, ids=lambda value: str(value))
def test_the_same_name_is_the_same_thing(name: str, public: str) -> None:
    original, ours = (found(implementation, name, public) for implementation in ("reference", "native"))
    assert inspect.isclass(original) == inspect.isclass(ours)
    assert callable(original) == callable(ours)
    assert inspect.iscoroutinefunction(original) == inspect.iscoroutinefunction(ours)
    if not callable(original):
        assert original == ours or type(original).__name__ == type(ours).__name__
        return
    try:
        before, after = inspect.signature(original), inspect.signature(ours)
    except ValueError:
        return  # an exception's own constructor
    if public.endswith("Error") or public.endswith("CircuitState") or public.endswith(".__init__"):
        return
    taken = dict(after.parameters)
    for number, (argument, parameter) in enumerate(before.parameters.items()):
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            assert any(one.kind in (one.VAR_KEYWORD, one.KEYWORD_ONLY) for one in taken.values())
            continue
        assert argument in taken, f"{public} has no argument {argument}"
        assert list(taken).index(argument) == number, f"{argument} stands elsewhere"
        here = taken[argument]
        if parameter.default is parameter.empty:
            continue  # ours may have a default where the original has none
        same = here.default == parameter.default or str(here.default) == str(parameter.default)
        assert same or _is_made_anew(parameter.default, here.default)


def _is_made_anew(original: Any, ours: Any) -> bool:
    """Whether a dataclass makes the default for each object, which ours writes as None."""
    return type(original).__name__ == "_HAS_DEFAULT_FACTORY_CLASS" and ours is None


def test_every_module_has_names() -> None:
    assert {name for name, _ in NAMES} == set(MODULES)
    assert len(NAMES) > 80
