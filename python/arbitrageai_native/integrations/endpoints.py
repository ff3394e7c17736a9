"""What `fastapi.router` and `starlette.routes` serve, in terms of Starlette, on which both are built."""

from __future__ import annotations

import asyncio
import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from arbitrageai_native.integrations.vitals import LockManagers, Vitals
from arbitrageai_native.loop_monitor import LoopMonitor

Endpoint = Callable[[Request], Awaitable[Response]]

METHODS: Final = ("GET", "HEAD")
_NOT_STORED: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Endpoints:
    """The four endpoints over one `Vitals`."""

    def __init__(self, locks: LockManagers, monitor: LoopMonitor | None, registry: Any) -> None:
        self._vitals = Vitals(locks, monitor)
        if registry is not None and not callable(getattr(registry, "collect", None)):
            raise TypeError(f"registry must be a prometheus_client.CollectorRegistry, not {registry!r}")
        self._registry = registry
        self._page = Path(__file__).with_name("native.html").read_text(encoding="utf-8")
        self._page_headers = {
            **_NOT_STORED,
            "Content-Security-Policy": _policy(self._page),
            "Referrer-Policy": "no-referrer",
        }

    def by_path(self) -> dict[str, Endpoint]:
        """Path -> what answers there."""
        return {
            "/health": self.health,
            "/metrics": self.metrics,
            "/native": self.page,
            "/native/data": self.data,
        }

    @asynccontextmanager
    async def lifespan(self, _application: Any) -> AsyncIterator[None]:
        """Watch the serving loop while the application runs."""
        async with self._vitals.watching():
            yield

    async def health(self, _request: Request) -> Response:
        """200 if nothing is wrong, else 503, and what it is."""
        problems = await self._vitals.problems()
        answer = {"status": "failing" if problems else "ok", "problems": problems}
        return JSONResponse(answer, 503 if problems else 200, _NOT_STORED)

    async def metrics(self, request: Request) -> Response:
        """The registry's metrics, in the form that the client prefers."""
        try:
            from prometheus_client.exposition import choose_encoder
        except ImportError:
            missing = "prometheus_client is not installed: pip install 'arbitrageai-native[prometheus]'"
            return PlainTextResponse(f"{missing}\n", 501, _NOT_STORED)
        if self._registry is None:
            self._registry = _own_registry()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        # In a thread, since collectors of the application's own may take their time.
        text = await asyncio.to_thread(encode, self._registry)
        return Response(text, headers={**_NOT_STORED, "Content-Type": content_type})

    async def page(self, _request: Request) -> Response:
        """The live page."""
        return HTMLResponse(self._page, headers=self._page_headers)

    async def data(self, _request: Request) -> Response:
        """What the live page asks for once a second."""
        return JSONResponse(await self._vitals.overview(), headers=_NOT_STORED)


def _own_registry() -> Any:
    from prometheus_client import CollectorRegistry

    from arbitrageai_native.integrations.prometheus import register

    registry = CollectorRegistry()
    register(registry)
    return registry


def _policy(page: str) -> str:
    """Allow the page its own style and script, by their hashes, and to ask its server; nothing else."""
    own = f"style-src {_hash_of('style', page)}; script-src {_hash_of('script', page)}"
    outside = "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; {own}; {outside}"


def _hash_of(element: str, page: str) -> str:
    (content,) = re.findall(f"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return f"'sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
