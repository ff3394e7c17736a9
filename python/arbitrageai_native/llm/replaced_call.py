"""Calls that go through a replaced `complete`: a test patched it, or a subclass overrides it.

The originals call their own public methods by keywords, and so do these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from arbitrageai_native import _native
from arbitrageai_native.llm.injected import in_worker as _in_worker
from arbitrageai_native.llm.results import Completion

__all__ = ["in_worker", "keywords"]


def keywords(prompt: Any, temperature: Any, max_tokens: Any, system_prompt: Any) -> dict[str, Any]:
    """Return the arguments of a call as the originals pass them."""
    return {
        "prompt": prompt,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "system_prompt": system_prompt,
    }


async def in_worker(
    complete: Callable[..., Completion], delay: float | None, arguments: Mapping[str, Any]
) -> Completion:
    """Call `complete` in a worker thread, in stealth mode `delay` seconds later."""
    if delay:
        await _native.sleep(delay)
    return await _in_worker(lambda: complete(**arguments, stealth_mode=False))
