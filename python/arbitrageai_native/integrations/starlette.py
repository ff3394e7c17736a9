"""Health, metrics and a live page for a Starlette application: see `fastapi`, which has the same.

app = Starlette(routes=[Mount("/internal", routes=routes(locks=manager), middleware=[…])])
"""

from __future__ import annotations

from typing import Any

try:
    from starlette.routing import Route
except ImportError as error:
    raise ImportError(f"{__name__} needs Starlette: pip install starlette", name="starlette") from error

from arbitrageai_native.integrations.endpoints import METHODS, Endpoints
from arbitrageai_native.integrations.vitals import LockManagers
from arbitrageai_native.loop_monitor import LoopMonitor

__all__ = ["routes"]


def routes(
    *, locks: LockManagers = (), monitor: LoopMonitor | None = None, registry: Any = None
) -> list[Route]:
    """Make the routes `/health`, `/metrics` and `/native`; see `fastapi.router` for the arguments.

    Routes are not told when the application starts: a monitor is installed when the page is first looked at,
    and watches until the loop ends.

    Raises:
        TypeError: `locks`, `monitor` or `registry` is something else.
    """
    endpoints = Endpoints(locks, monitor, registry)
    return [Route(path, endpoint, methods=list(METHODS)) for path, endpoint in endpoints.by_path().items()]
