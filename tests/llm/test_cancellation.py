"""Cancelled calls leave nothing: no request under way, here or at the server, and no connection in use."""

import asyncio
import random

import pytest

from arbitrageai_native import LLMService
from arbitrageai_native._native import requests_under_way
from arbitrageai_native.testing import ModelServer
from testing_support.bridge import wait_until
from testing_support.keys import KEY

CALLS = 10_000
CONNECTIONS = 500


@pytest.mark.timeout(400)  # on a busy machine
@pytest.mark.holds_the_loop("it begins ten thousand tasks in one go")
async def test_ten_thousand_calls_half_of_them_cancelled_leave_nothing() -> None:
    chance = random.Random(20261123)
    loop = asyncio.get_running_loop()
    async with ModelServer.in_subprocess(delay=0.05, record=False) as server:
        service = LLMService(
            server.base_url, KEY, enable_circuit_breaker=False, max_connections=CONNECTIONS, max_retries=0
        )
        calls = [asyncio.ensure_future(service.complete_async("Bid?", timeout=60)) for _ in range(CALLS)]
        for call in chance.sample(calls, CALLS // 2):
            loop.call_later(chance.uniform(0, 1.5), call.cancel)
        results = await asyncio.gather(*calls, return_exceptions=True)

        cancelled = [result for result in results if isinstance(result, asyncio.CancelledError)]
        answered = [result for result in results if isinstance(result, dict)]
        assert len(cancelled) + len(answered) == CALLS
        assert cancelled
        assert all(answer["content"] == "Bid?" for answer in answered)
        assert requests_under_way() == 0 or wait_until(lambda: requests_under_way() == 0)
        await server.wait_for(
            lambda counts: counts.in_flight == 0 and counts.open_connections <= CONNECTIONS, timeout=30
        )


@pytest.mark.holds_the_loop("the answer is to come while the loop does not run")
async def test_an_answer_delivered_but_not_received_leaves_nothing() -> None:
    with ModelServer(delay=0.02, record=False) as server:  # in a thread of its own
        service = LLMService(server.base_url, KEY, enable_circuit_breaker="always")
        await service.complete_async("first")  # from here on the loop has an inbox
        for sent in range(50):
            call = asyncio.ensure_future(service.complete_async("Bid?"))
            await asyncio.sleep(0)
            assert wait_until(lambda: server.statistics.requests == sent + 2)  # noqa: B023
            assert wait_until(lambda: requests_under_way() == 0), "the answer comes while the loop is held up"
            asyncio.get_running_loop()._arbitrageai_native_inbox.drain()
            call.cancel()
            await asyncio.wait([call])
        assert (await service.complete_async("last"))["content"] == "last"
