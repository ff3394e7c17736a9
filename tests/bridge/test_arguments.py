"""What is wrong with the arguments of a native method is said at the call, by the argument's name."""

import asyncio
import inspect
from typing import Any

import pytest

from arbitrageai_native._native import CallMetrics, CallOptions, ChatClient, LockManager

TERMS: dict[str, Any] = {
    "holder_id": "h",
    "ttl": 30.0,
    "timeout": 1.0,
    "auto_renew": False,
    "max_hold": None,
    "margin": None,
    "loss_check": None,
}


@pytest.mark.parametrize("method", ["lease", "lease_blocking", "lease_many"])
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("ttl", "soon"),
        ("timeout", None),
        ("auto_renew", "yes"),
        ("max_hold", []),
        ("margin", "x"),
        ("loss_check", "x"),
    ],
)
def test_a_keyword_of_the_wrong_type_is_named(method: str, keyword: str, value: object) -> None:
    names = [("m", "p")] if method == "lease_many" else ("m", "p")
    arguments = (names,) if method == "lease_many" else names
    with pytest.raises(TypeError, match=f"argument '{keyword}'"):
        getattr(LockManager.private_memory(901), method)(*arguments, **{**TERMS, keyword: value})


@pytest.mark.parametrize("keyword", TERMS)
def test_a_keyword_that_is_missing_is_named(keyword: str) -> None:
    terms = {name: value for name, value in TERMS.items() if name != keyword}
    with pytest.raises(TypeError, match=f"'{keyword}'"):
        LockManager.private_memory(901).lease("m", "p", **terms)


def test_a_keyword_that_is_unknown_is_named() -> None:
    with pytest.raises(TypeError, match="'colour'"):
        LockManager.private_memory(901).lease("m", "p", **TERMS, colour="red")


def test_a_value_that_makes_no_sense_is_a_value_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"ttl.*-1"):
        LockManager.private_memory(901).lease("m", "p", **{**TERMS, "ttl": -1.0})


async def test_a_lease_and_its_blocking_twin_give_the_same() -> None:
    manager = LockManager.private_memory(902)

    lease = await manager.lease("m", "one", **TERMS)
    twin = await asyncio.to_thread(lambda: manager.lease_blocking("m", "two", **TERMS))

    assert (lease.is_held, twin.is_held) == (True, True)
    assert await asyncio.to_thread(twin.renew_blocking, 60.0) > await lease.renew(30.0)
    assert await asyncio.to_thread(manager.active_locks_blocking, 5.0) == await manager.active_locks(5.0) == 2
    assert (await lease.release(), await asyncio.to_thread(twin.release_blocking)) == (True, True)
    assert (await lease.release(), await asyncio.to_thread(twin.release_blocking)) == (False, False)
    assert await manager.close(1.0)
    assert await asyncio.to_thread(manager.close_blocking, 1.0) is None


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("complete_async", ["delay", "raw"]),
        ("complete", ["stealth_mode", "raw"]),
        ("create_async", []),
        ("create", []),
        ("stream", []),
    ],
)
def test_a_call_has_named_parameters(name: str, more: list[str]) -> None:
    parameters = list(inspect.signature(getattr(ChatClient, name)).parameters)

    assert parameters == ["self", "arguments", *more]


@pytest.mark.parametrize("position", range(4))
def test_an_argument_of_a_call_that_has_another_type_is_refused(position: int) -> None:
    arguments: list[Any] = [{"model": "m"}, CallOptions(), CallMetrics(), None, None, None]
    arguments[position] = "wrong"
    with pytest.raises(TypeError, match=r"(?s)'str'.*'arguments'"):
        ChatClient("http://localhost:1", "key").create(tuple(arguments))


def test_too_few_arguments_of_a_call_are_refused() -> None:
    with pytest.raises(ValueError, match="expected tuple of length 6"):
        ChatClient("http://localhost:1", "key").create(({"model": "m"},))  # type: ignore[arg-type]
