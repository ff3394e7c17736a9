"""Three conditions without `await`: an awaitable is always true, and a bid would be made without its lock.

The two comments switch on what finds them, in a project's settings or, as here, for a file.
"""
# mypy: enable-error-code="truthy-bool"
# pyright: reportUnnecessaryComparison=true

from __future__ import annotations

from arbitrageai_native import BidLockManager, LLMService


async def bids(manager: BidLockManager, service: LLMService) -> None:
    if manager.acquire_lock("upwork", "1"):  # mistake: no await in a condition
        print("bid")
    while not manager.release_lock("upwork", "1"):  # mistake: no await in a condition
        print("again")
    print("bid" if service.complete_async("hi") else "nothing")  # mistake: no await in a condition
