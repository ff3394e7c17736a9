"""The names and defaults of a call's settings."""

from __future__ import annotations

from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import TypedDict

    class ServiceSettings(TypedDict, total=False):
        """Keyword settings of a service, besides the original's. All times in seconds; None: no limit.

        timeout: limit of one try from start to end (30); for a stream, of the first event and of each gap.
        deadline: the whole call with its retries and waits.
        connect_timeout: making a connection (5). first_byte_timeout: from sending the request to the
        answer's head. idle_timeout: between two parts of an answer's body.
        max_retries (2), retry_base (0.5), retry_cap (8), retry_jitter (0.25), retry_after_limit (120): see
        `complete`. idempotency_key: True (a header of its own for each call), False, or a string.
        max_body_bytes: the longest answer, and the longest event of a stream (64 MiB).
        max_connections: requests under way at once; more wait in line, which counts against `deadline` only.
        http2: True uses HTTP/2 with servers that offer it (False). All calls to a server then share one
            connection and its limit on streams (often 100); waiting for a stream counts against `timeout`.
        default_headers, organization, project: sent with every request (`OPENAI_ORG_ID`,
        `OPENAI_PROJECT_ID`). stealth_range: the least and the longest stealth wait (2, 5).
        fallback_timeouts: of the two tries and the local one (10, 20, 30). fallback_delays: before the
        second and third (2, 5).
        """

        timeout: float | None
        deadline: float | None
        connect_timeout: float | None
        first_byte_timeout: float | None
        idle_timeout: float | None
        max_retries: int
        retry_base: float
        retry_cap: float
        retry_jitter: float
        retry_after_limit: float
        idempotency_key: bool | str | None
        max_body_bytes: int
        max_connections: int
        http2: bool
        default_headers: Mapping[str, str | None] | None
        organization: str | None
        project: str | None
        stealth_range: tuple[float, float]
        fallback_timeouts: tuple[float | None, float | None, float | None]
        fallback_delays: tuple[float, float]


# Keywords of a call that set its limits, and are no members of the request.
CALL_SETTINGS = frozenset(
    (
        "timeout",
        "deadline",
        "connect_timeout",
        "first_byte_timeout",
        "idle_timeout",
        "max_retries",
        "retry_base",
        "retry_cap",
        "retry_jitter",
        "retry_after_limit",
        "idempotency_key",
        "max_body_bytes",
    )
)


@cache
def default_max_connections() -> int:
    """What the limit of file descriptors leaves, some kept for the application; 10,000 at most."""
    try:
        import resource
    except ImportError:
        return 1000
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 10_000
    return max(16, min(soft - max(64, soft // 10), 10_000))
