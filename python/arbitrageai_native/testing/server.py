"""`ModelServer`: an OpenAI-compatible model server on loopback, for tests and measurements.

It has three ways to live, chosen by what the test is about:

- ``async with ModelServer(...)``: in the running event loop; nothing is started, and failures are easy to
  debug;
- ``with ModelServer(...)``: in an event loop of its own in a thread, for synchronous code;
- ``with ModelServer.in_subprocess(...)`` (or ``async with``): in a process of its own, so that its work does
  not disturb what is being measured.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from arbitrageai_native.testing.answers import Answerer, AnyAnswer
from arbitrageai_native.testing.application import DEFAULT_MODELS, Delay, ModelApplication, echo
from arbitrageai_native.testing.exchange import Limits
from arbitrageai_native.testing.interface import LOOPBACK, _ServerInterface
from arbitrageai_native.testing.requests import RecordedRequest, Statistics
from arbitrageai_native.testing.subprocess_server import SubprocessModelServer

# The kernel cuts this to its own limit (net.core.somaxconn).
BACKLOG: Final = 65_535
TURNS_TO_ACCEPT: Final = 3


class ModelServer(_ServerInterface):
    """An OpenAI-compatible server that says what it is told to say.

    It serves POST `/v1/chat/completions` (also with `stream`), GET `/v1/models` and GET `/api/health`, on
    loopback only.

    Args:
        answer: What to answer: text, an `Answer`, a `Failure`, a `Disconnect`, or a function (plain or async)
            of the `RecordedRequest` that returns one. By default the prompt itself.
        script: Answers to give first, in order.
        delay: Seconds from a request's arrival to its answer, or a function of the request that returns them.
        api_key: The only key accepted; any, or none, if None.
        models: The names that `/v1/models` lists.
        record: Whether to keep the requests in `requests`.
        limits: The largest request accepted.
        port: The port; a free one if 0.

    Attributes:
        application: What answers: the part without the network.

    Raises:
        ValueError: `delay` is negative or not a number.
        TypeError: `script` or `models` is a single string.
    """

    def __init__(
        self,
        *,
        answer: AnyAnswer | Answerer = echo,
        script: Iterable[AnyAnswer | Answerer] = (),
        delay: Delay = 0.0,
        api_key: str | None = None,
        models: Sequence[str] = DEFAULT_MODELS,
        record: bool = True,
        limits: Limits | None = None,
        port: int = 0,
    ) -> None:
        self.application: Final = ModelApplication(
            answer=answer,
            script=script,
            delay=delay,
            api_key=api_key,
            models=models,
            record=record,
            limits=limits,
        )
        self._wanted_port = port
        self._listener: asyncio.Server | None = None
        self._thread: _LoopThread | None = None

    @classmethod
    def in_subprocess(cls, **arguments: Any) -> SubprocessModelServer:
        """Make a server that runs in a process of its own; the arguments are those of `ModelServer`.

        Functions among them must be importable by name, because only their names travel.
        """
        return SubprocessModelServer(**arguments)

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests that arrived so far, in order."""
        return list(self.application.requests)

    @property
    def statistics(self) -> Statistics:
        """Connections and requests, counted."""
        return self.application.statistics

    def script(self, *answers: AnyAnswer | Answerer) -> None:
        """Add answers to be given next, in order, before `answer` has its say again."""
        self.application.script(*answers)

    async def start(self) -> None:
        """Begin to listen in the running event loop; `async with` does it."""
        if self._port is not None:
            raise RuntimeError("the model server is running already")
        raise_descriptor_limit()
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self.application.new_connection, LOOPBACK, self._wanted_port, backlog=BACKLOG
        )
        self._port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and close every connection; `async with` does it."""
        if self._listener is None:
            return
        listener, self._listener = self._listener, None
        self._port = None
        # A connection that was just accepted becomes known a few turns of the loop later, and asyncio would
        # forget to close it if the listener were closed meanwhile. So first nothing more is accepted.
        for accepting in listener.sockets:
            with suppress(NotImplementedError):
                asyncio.get_running_loop().remove_reader(accepting.fileno())
        for _ in range(TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        listener.close()
        self.application.end_connections()
        await listener.wait_closed()
        await self.wait_for(lambda counts: not counts.open_connections and not counts.in_flight)

    async def __aenter__(self) -> ModelServer:
        """Start in the running event loop."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    def __enter__(self) -> ModelServer:
        """Start in an event loop of its own, in a thread."""
        thread = _LoopThread()
        try:
            thread.call(self.start())
        except BaseException:
            thread.end()
            raise
        self._thread = thread
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and end the thread."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            try:
                thread.call(self.stop())
            finally:
                thread.end()


class _LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="model-server", daemon=True)
        self._thread.start()

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def raise_descriptor_limit() -> None:
    """Allow this process as many open descriptors as it may have: each connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # macOS reports "unlimited" and then refuses it
            return
