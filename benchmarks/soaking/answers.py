"""What the two model servers of a soak say. Their processes import these functions by name."""

from __future__ import annotations

import random
import time
from typing import Final

from arbitrageai_native.testing import Answer, AnyAnswer, Disconnect, Failure, RecordedRequest

_FAILING_SHARE: Final = 0.1
_TEXT: Final = "I have built shops like this one for nine years and would begin with the checkout page. " * 2
_FAILURES: Final[tuple[AnyAnswer, ...]] = (
    Failure(400, "no such parameter", delay=0.05),
    Failure(429, headers={"retry-after-ms": "20"}, delay=0.05),
    Failure(500, delay=0.05),
    Failure(503, body=b"<html>upstream is away</html>", delay=0.05),
    Disconnect(),
    Disconnect(after=120, reset=True),
    Disconnect(after=900, answer=Answer(_TEXT, delay=0.05, piece_delay=0.01)),
)
# A breaker with a second to recover trips and closes once in each period.
_PERIOD: Final = 8.0
_AWAY: Final = 3.0


def steady(_request: RecordedRequest) -> AnyAnswer:
    """Answer most requests after a while; let the others fail in one of the ways in which answers do."""
    if random.random() < _FAILING_SHARE:
        return random.choice(_FAILURES)
    return Answer(_TEXT, delay=random.uniform(0.1, 0.5), piece_delay=random.uniform(0.0, 0.03))


def moody(_request: RecordedRequest) -> AnyAnswer:
    """Answer for some seconds, then fail for some."""
    if time.monotonic() % _PERIOD < _AWAY:
        return Failure(503, "away", delay=0.02)
    return Answer("Here again.", delay=0.05)
