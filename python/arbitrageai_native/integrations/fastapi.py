"""Health, metrics and a live page for a FastAPI application.

    app = FastAPI()
    app.include_router(router(locks=manager), dependencies=[Depends(only_admins)])

`/health` is for load balancers, `/metrics` for Prometheus, `/native` for people. That page shows the keys and
holders of locks, the addresses of model endpoints and pieces of the application's source: protect it.
"""

from __future__ import annotations

from typing import Any

try:
    from fastapi import APIRouter
except ImportError as error:
    raise ImportError(
        f"{__name__} needs FastAPI: pip install 'arbitrageai-native[fastapi]'", name="fastapi"
    ) from error

from arbitrageai_native.integrations.endpoints import METHODS, Endpoints
from arbitrageai_native.integrations.vitals import LockManagers
from arbitrageai_native.loop_monitor import LoopMonitor

__all__ = ["router"]


def router(
    *,
    locks: LockManagers = (),
    monitor: LoopMonitor | None = None,
    registry: Any = None,
    **options: Any,
) -> APIRouter:
    """Make a router with `/health`, `/metrics` and `/native`.

    `/health` answers 200 when the databases of `locks` answer within a second and no circuit breaker is open,
    else 503; the JSON says what is wrong. `/metrics` is Prometheus' text, or 501 without `prometheus_client`.
    `/native` shows this process live: locks, breakers, calls in flight, the event loop's lag.

    Args:
        locks: The lock managers to show: one, several, or several by name.
        monitor: The monitor of the event loop to show. One that is not installed is installed on the serving
            loop while the application runs. By default that is a new one, unless the loop has one already.
        registry: The `prometheus_client` registry whose metrics are told. By default one that has those of
            this package alone.
        options: `prefix`, `dependencies` and what else FastAPI's `APIRouter` takes.

    Raises:
        TypeError: `locks`, `monitor` or `registry` is something else.
    """
    endpoints = Endpoints(locks, monitor, registry)
    made = APIRouter(lifespan=endpoints.lifespan, **options)
    for path, endpoint in endpoints.by_path().items():
        made.add_api_route(path, endpoint, methods=list(METHODS), include_in_schema=False)
    return made
