"""Whether everything that the package needs is there: what `python -m arbitrageai_native doctor` looks at.

All looks are made at the same time, each for a few seconds at most. None changes anything, and none costs a
token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from arbitrageai_native import defaults

from . import databases, network, process
from .finding import Finding, Level
from .secrets import Secrets

__all__ = ["SECONDS_FOR_EACH", "Finding", "Level", "diagnose"]

SECONDS_FOR_EACH: Final = 5.0
"""How long each look may take."""

_Look = Callable[[], Awaitable[Iterable[Finding]]]


async def diagnose(database_url: str | None = None, ttl: float = defaults.LOCK_TTL) -> list[Finding]:
    """Look at everything, in a fixed order.

    Args:
        database_url: the locks' database; the environment's `DATABASE_URL` when None.
        ttl: the locks' time to live in seconds, against which clocks are judged.
    """
    dotenv = process.dotenv()  # before the others, which read the environment

    async def loaded() -> list[Finding]:
        return [dotenv]

    looks: list[tuple[str, _Look]] = [
        ("versions", process.versions),
        ("runtime", process.runtime),
        ("descriptors", process.descriptors),
        (".env", loaded),
        ("database", lambda: databases.database(database_url, ttl)),
        ("Redis", lambda: databases.redis(ttl)),
        ("model endpoint", network.cloud_endpoint),
        ("local model", network.local_endpoint),
        ("certificates", network.certificates),
        ("proxies", network.proxies),
        ("circuit breakers", process.circuits),
    ]
    found = await asyncio.gather(*(_within_its_time(check, look) for check, look in looks))
    secrets = Secrets.of_the_environment(database_url)
    return [secrets.hide(finding) for findings in found for finding in findings]


async def _within_its_time(check: str, look: _Look) -> list[Finding]:
    try:
        return list(await asyncio.wait_for(look(), SECONDS_FOR_EACH))
    except (TimeoutError, asyncio.TimeoutError) as error:
        said = str(error) or f"no answer within {SECONDS_FOR_EACH:.0f} s"
        return [Finding(check, Level.ERROR, said, "See whether the machine is overloaded, or a disk hangs.")]
    except Exception as error:
        return [Finding(check, Level.ERROR, f"{type(error).__name__}: {error}", "Report this as a bug.")]
