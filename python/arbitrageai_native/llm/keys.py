"""A key that is asked for at each call, since it may expire: a function, also an asynchronous one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, TypeAlias

from arbitrageai_native import _native
from arbitrageai_native._safe_text import check_text
from arbitrageai_native.exceptions import InvalidArgumentTypeError
from arbitrageai_native.llm import injected

ApiKey: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A key, or a function that returns one. In coroutines a synchronous function runs in a worker thread."""


def client_of(base_url: str, api_key: ApiKey) -> _native.ChatClient | KeyedClient:
    """Return the native client for an endpoint and its key."""
    if isinstance(api_key, str):
        return _native.ChatClient(base_url, api_key)
    return KeyedClient(base_url, api_key)


def check_key(api_key: object) -> None:
    """Refuse what is neither a key nor a function."""
    if not isinstance(api_key, str) and not callable(api_key):
        raise InvalidArgumentTypeError(
            f"api_key has to be a string, or a function that returns one, not {type(api_key).__name__}"
        )
    check_text("api_key", api_key)


class KeyedClient:
    """A native client that asks for its key at each call; its methods are those of `_native.ChatClient`."""

    def __init__(self, base_url: str, ask: Callable[[], Any]) -> None:
        self._base_url = base_url
        self._ask = ask

    def complete(self, arguments: Any, stealth_mode: bool, raw: bool) -> dict[str, Any]:
        """Make the call and wait for it in this thread."""
        return self.asked().complete(arguments, stealth_mode, raw)

    async def complete_async(self, arguments: Any, delay: float | None, raw: bool) -> dict[str, Any]:
        """Make the call."""
        client, arguments = await self.asked_async(arguments)
        return await client.complete_async(arguments, delay, raw)

    def create(self, arguments: Any) -> Any:
        """Make the call and wait for it in this thread."""
        return self.asked().create(arguments)

    async def create_async(self, arguments: Any) -> Any:
        """Make the call."""
        client, arguments = await self.asked_async(arguments)
        return await client.create_async(arguments)

    def stream(self, arguments: Any) -> KeyedStream:
        """Return a stream that asks for the key when it is first asked for a piece."""
        return KeyedStream(self, arguments)

    def asked(self) -> _native.ChatClient:
        """Return a client with the key of now."""
        key = self._ask()
        return self._with_key(injected.wait_for(key) if inspect.isawaitable(key) else key)

    async def asked_async(self, arguments: Any) -> tuple[_native.ChatClient, Any]:
        """Return a client with the key of now, and the arguments with what is left of the deadline."""
        body, options, *others = arguments
        deadline = options.deadline
        if deadline is None:
            return self._with_key(await self._key()), arguments
        start = monotonic()
        try:
            key = await asyncio.wait_for(self._key(), deadline)
        except asyncio.TimeoutError:
            raise _native.deadline_passed(deadline) from None
        left = max(0.0, deadline - (monotonic() - start))
        return self._with_key(key), (body, options.adjusted({"deadline": left}), *others)

    async def _key(self) -> Any:
        ask = self._ask
        key = ask() if inspect.iscoroutinefunction(ask) else await injected.in_worker(ask)
        return await key if inspect.isawaitable(key) else key

    def _with_key(self, key: object) -> _native.ChatClient:
        if not isinstance(key, str):
            raise InvalidArgumentTypeError(
                f"the function api_key has to return a string, not {type(key).__name__}"
            )
        check_text("api_key", key)
        return _native.ChatClient(self._base_url, key)


class KeyedStream:
    """A stream of a `KeyedClient`; its methods are those of `_native.ChatStream`."""

    def __init__(self, client: KeyedClient, arguments: Any) -> None:
        self._client = client
        self._arguments = arguments
        self._native: _native.ChatStream | None = None
        self._closed = False

    def summary(self) -> dict[str, Any]:
        """Return what is known besides the text."""
        return {} if self._native is None else self._native.summary()

    def asides(self) -> dict[str, Any]:
        """Return what the model thought, and the tools that it wants called."""
        return {} if self._native is None else self._native.asides()

    def iterate(self, stream: Any) -> Any:
        """Return the iterator of an `async for` over `stream`."""
        return stream

    def wait_was_given_up(self) -> None:
        """Start the grace period after a cancelled wait."""
        if self._native is not None:
            self._native.wait_was_given_up()

    def next(self, texts: bool) -> list[Any] | None:
        """Return the next items, or None after the last."""
        if self._native is None and not self._closed:
            self._open(self._client.asked(), self._arguments)
        return None if self._native is None else self._native.next(texts)

    async def next_async(self, texts: bool) -> list[Any] | None:
        """Return the next items, or None after the last."""
        if self._native is None and not self._closed:
            client, arguments = await self._client.asked_async(self._arguments)
            self._open(client, arguments)
        return None if self._native is None else await self._native.next_async(texts)

    def close(self) -> None:
        """Close the request."""
        self._closed = True
        if self._native is not None:
            self._native.close()

    def _open(self, client: _native.ChatClient, arguments: Any) -> None:
        # Another task may have been faster, or closed the stream meanwhile.
        if self._native is None and not self._closed:
            self._native = client.stream(arguments)
            self._arguments = None
