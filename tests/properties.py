"""How property tests run, and what they draw.

In the suite each has few examples, new ones in each run. A failure prints a line that repeats it, and is kept
as an `@example`. `ARBITRAGEAI_EXAMPLES=50 pytest tests/llm/test_properties_answers.py` runs fifty times as
many.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_TIMES = float(os.environ.get("ARBITRAGEAI_EXAMPLES", "1"))

settings.register_profile(
    "arbitrageai",
    deadline=None,  # the machine is shared
    print_blob=True,
    # An event loop or a server of the whole test serves every example. A slow machine is no fault of a test.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("arbitrageai")


def examples(count: int, *, steps: int = 1) -> settings:
    """Return the settings of a test with so many examples in the suite; of a machine, with so many steps."""
    return settings(max_examples=max(1, round(count * _TIMES)), stateful_step_count=steps)


# --- JSON ---

# Halves of surrogate pairs, too: `json.loads` reads them.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)

_NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1]),
)

# A byte of the environment that is not UTF-8 is half a surrogate pair in `os.environ`.
VARIABLES = st.text(
    st.one_of(
        st.characters(exclude_categories=("Cs",), exclude_characters="\0"),
        st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=("Cs",)),
        st.sampled_from("/:@?#[]%{}"),
    ),
    max_size=10,
)
"""What the value of an environment variable may be."""

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)
"""What `json.loads` may return."""

_SPACE = st.sampled_from(["", "", " ", "\n\t", "\r\n"])


@st.composite
def _text_of(draw: st.DrawFn, value: object) -> str:
    text = json.dumps(value, ensure_ascii=draw(st.booleans()))
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return text


def _array(items: tuple[list[str], str]) -> str:
    texts, space = items
    return f"[{space}{f'{space},'.join(texts)}{space}]"


def _object(members: tuple[list[tuple[str, str]], str]) -> str:
    pairs, space = members
    return f"{{{space}{f',{space}'.join(f'{name}{space}:{text}' for name, text in pairs)}}}"


_NAMES = ANY_TEXT.flatmap(_text_of)

JSON_TEXTS = st.recursive(
    st.one_of(
        (st.none() | st.booleans() | _NUMBERS | ANY_TEXT).flatmap(_text_of),
        st.sampled_from(["1e999", "-1E400", "-0", "1E+2", "0.1e-5", "9" * 400, "NaN", "-Infinity"]),
        st.sampled_from([r'"\ud83d\ude00"', r'"\uD83D"', r'"\udE00\ud83d"', r'"\\ud83d"', r'"\/\u0000"']),
    ),
    lambda inner: st.one_of(
        st.tuples(st.lists(inner, max_size=3), _SPACE).map(_array),
        # The same name may come twice: the last one counts.
        st.tuples(st.lists(st.tuples(_NAMES, inner), max_size=3), _SPACE).map(_object),
    ),
    max_leaves=8,
)
"""What `json.loads` reads, as servers write it."""


def as_read(value: Any) -> Any:
    """Return what an answer's reader makes of a value that `json.loads` has returned.

    Half a surrogate pair is U+FFFD there, an integer of more than 64 bits is a float, and a number that no
    finite float can express is None.
    """
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [as_read(item) for item in value]
    if isinstance(value, dict):
        return {as_read(name): as_read(member) for name, member in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        try:
            value = float(value)
        except OverflowError:
            return None
    return value if not isinstance(value, float) or math.isfinite(value) else None


def can_be_sent(value: Any) -> bool:
    """Return whether JSON's standard and UTF-8 can express a value."""
    if isinstance(value, str):
        return re.search("[\ud800-\udfff]", value) is None
    if isinstance(value, list):
        return all(map(can_be_sent, value))
    if isinstance(value, dict):
        return all(map(can_be_sent, (*value, *value.values())))
    if isinstance(value, bool) or value is None:
        return True
    return isinstance(value, int) or math.isfinite(value)
