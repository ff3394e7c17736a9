"""Any text as the value of a variable that says where locks are: accepted, or refused without its secrets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st

from arbitrageai_native import environment
from arbitrageai_native.agent_execution.redis_bid_lock_manager import RedisBidLockManager
from tests.properties import VARIABLES, examples

SECRET = "s3cr3t"
NAMES = ("REDIS_URL", "REDIS_HOST", "REDIS_PORT", "REDIS_DB", "USE_REDIS_LOCKS", "ENV")


@contextlib.contextmanager
def only(variables: dict[str, str]) -> Iterator[None]:
    """Set these variables, and none of the others that say where locks are."""
    with patch.dict("os.environ"):
        for name in (*NAMES, "REDIS_PASSWORD"):
            os.environ.pop(name, None)
        os.environ.update(variables)
        yield


@given(
    variables=st.fixed_dictionaries(
        {},
        optional={
            "REDIS_PASSWORD": VARIABLES.map(lambda text: f"{SECRET}{text}"),
            "REDIS_PORT": st.integers(-1, 70_000).map(str) | VARIABLES,
            "REDIS_DB": st.integers(-1, 20).map(str) | VARIABLES,
            "REDIS_URL": VARIABLES.map(lambda text: f"redis://:{SECRET}{text}@h:1/0") | VARIABLES,
            "REDIS_HOST": VARIABLES,
        },
    )
)
@examples(100)
def test_a_manager_is_made_or_the_refusal_tells_no_secret(variables: dict[str, str]) -> None:
    with only(variables):
        message = "redis_url"
        try:
            manager = RedisBidLockManager()
        except ValueError as error:
            message = str(error)
        else:
            assert SECRET not in repr(manager)
        assert "redis" in message.lower(), message
        assert SECRET not in message


@given(
    variables=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            NAMES, VARIABLES | st.sampled_from(["", "TRUE", "yes", " true", "Development"])
        ),
    )
)
@example({"USE_REDIS_LOCKS": "", "REDIS_URL": "redis://h"})
@example({"USE_REDIS_LOCKS": " true"})
@example({"ENV": "Development"})
@examples(80)
def test_old_and_new_processes_decide_alike_where_locks_are(variables: dict[str, str]) -> None:
    with only(variables):
        wants_redis = environment.wants_redis()
    if "USE_REDIS_LOCKS" in variables:
        expected = variables["USE_REDIS_LOCKS"].lower() in ("true", "1", "yes")
    elif any(variables.get(name) for name in ("REDIS_URL", "REDIS_HOST", "REDIS_PORT")):
        expected = True
    else:
        expected = variables.get("ENV", "development").lower() != "development"
    assert wants_redis == expected
