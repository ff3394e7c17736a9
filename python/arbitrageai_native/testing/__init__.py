"""An OpenAI-compatible model server on loopback, for tests and measurements.

    async with ModelServer(answer="Dear client, …", delay=0.2) as server:
        service = LLMService(base_url=server.base_url, api_key="any")
        result = await service.complete_async("Write a proposal.")
        assert server.requests[0].prompt == "Write a proposal."

See `ModelServer` for the three ways to run it.
"""

from arbitrageai_native.testing.answers import Answer, Answerer, AnyAnswer, Disconnect, Failure
from arbitrageai_native.testing.exchange import Limits
from arbitrageai_native.testing.requests import Headers, RecordedRequest, Statistics
from arbitrageai_native.testing.server import ModelServer
from arbitrageai_native.testing.subprocess_server import SubprocessModelServer

__all__ = [
    "Answer",
    "Answerer",
    "AnyAnswer",
    "Disconnect",
    "Failure",
    "Headers",
    "Limits",
    "ModelServer",
    "RecordedRequest",
    "Statistics",
    "SubprocessModelServer",
]
