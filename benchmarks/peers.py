"""Who is compared: names, the packages that they need, and how to make one.

Each peer does the same work: send the same chat completion, parse the answer, and hand back its text and
token counts. Each is set up as its documentation says it performs best, above all with a connection pool
that is not the bottleneck. A factory imports its package only when it is called, in a process of its own:
what one peer loads costs no other.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.installed import OURS

MODEL = "gpt-4o-mini"
PROMPT = "Write a proposal for a logo for a bakery."
API_KEY = "not-needed"
MOST_THREADS = 1_000
BARE = "bare-reqwest"
PROGRAMS = (BARE,)


class Client(Protocol):
    """One peer, ready to call one server."""

    async def complete(self) -> dict[str, Any]:
        """One chat completion: its content, model and token counts."""

    def stream(self) -> AsyncIterator[str]:
        """The pieces of one streamed completion."""

    async def close(self) -> None:
        """Give the connections back."""


def _request(stream: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0.7,
        "max_tokens": 1000,
    }
    return {**body, "stream": True} if stream else body


def _result_of_json(answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "content": answer["choices"][0]["message"]["content"],
        "model": answer["model"],
        "usage": answer["usage"],
    }


def _result_of_object(answer: Any) -> dict[str, Any]:
    usage = answer.usage
    return {
        "content": answer.choices[0].message.content,
        "model": answer.model,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
    }


async def _pieces_of_objects(chunks: AsyncIterator[Any]) -> AsyncIterator[str]:
    async for chunk in chunks:
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


class Ours:
    """The package itself, with nothing changed from its defaults."""

    def __init__(self, base_url: str, in_flight: int) -> None:
        from arbitrageai_native import LLMService

        self._service = LLMService(base_url=base_url, api_key=API_KEY, model=MODEL)

    async def complete(self) -> dict[str, Any]:
        return await self._service.complete_async(PROMPT)

    def stream(self) -> AsyncIterator[str]:
        return self._service.complete_streaming_async(PROMPT)

    async def close(self) -> None:
        await self._service.aclose()


class OpenAI:
    """OpenAI's SDK on its default back end."""

    def __init__(self, base_url: str, in_flight: int) -> None:
        import httpx2
        import openai

        limits = httpx2.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
        self._client = openai.AsyncOpenAI(
            base_url=base_url, api_key=API_KEY, http_client=self._http_client(limits=limits)
        )

    def _http_client(self, **settings: Any) -> Any:
        import openai

        return openai.DefaultAsyncHttpxClient(**settings)

    async def complete(self) -> dict[str, Any]:
        return _result_of_object(await self._client.chat.completions.create(**_request(stream=False)))

    async def stream(self) -> AsyncIterator[str]:
        async with await self._client.chat.completions.create(**_request(stream=True)) as chunks:
            async for piece in _pieces_of_objects(chunks):
                yield piece

    async def close(self) -> None:
        await self._client.close()


class OpenAIOnAiohttp(OpenAI):
    """OpenAI's SDK on its faster back end."""

    def _http_client(self, **settings: Any) -> Any:
        import openai

        return openai.DefaultAioHttpClient(**settings)


class LiteLLM:
    """LiteLLM, which calls through aiohttp by default."""

    def __init__(self, base_url: str, in_flight: int) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no download at import
        os.environ["AIOHTTP_CONNECTOR_LIMIT"] = os.environ["AIOHTTP_CONNECTOR_LIMIT_PER_HOST"] = str(
            in_flight
        )
        import litellm

        litellm.suppress_debug_info = True
        self._litellm = litellm
        self._where = {"api_base": base_url, "api_key": API_KEY}

    def _create(self, stream: bool) -> Any:
        return self._litellm.acompletion(**{**_request(stream), "model": f"openai/{MODEL}"}, **self._where)

    async def complete(self) -> dict[str, Any]:
        return _result_of_object(await self._create(stream=False))

    async def stream(self) -> AsyncIterator[str]:
        async for piece in _pieces_of_objects(await self._create(stream=True)):
            yield piece

    async def close(self) -> None:
        pass  # its connections belong to a cache that it keeps


class Aiohttp:
    """Raw aiohttp. A stream is read in lines, and nothing in it is parsed."""

    def __init__(self, base_url: str, in_flight: int) -> None:
        import aiohttp

        self._url = f"{base_url}/chat/completions"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers={"authorization": f"Bearer {API_KEY}"}
        )

    async def complete(self) -> dict[str, Any]:
        async with self._session.post(self._url, json=_request(stream=False)) as response:
            response.raise_for_status()
            return _result_of_json(await response.json())

    async def stream(self) -> AsyncIterator[str]:
        async with self._session.post(self._url, json=_request(stream=True)) as response:
            response.raise_for_status()
            async for chunk in response.content.iter_any():
                yield chunk  # type: ignore[misc]  # bytes will do: they are only counted

    async def close(self) -> None:
        await self._session.close()


class Httpx:
    """Raw httpx. A stream is handed on as it comes, and nothing in it is parsed."""

    def __init__(self, base_url: str, in_flight: int) -> None:
        import httpx

        self._url = f"{base_url}/chat/completions"
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight),
            headers={"authorization": f"Bearer {API_KEY}"},
            timeout=600,
        )

    async def complete(self) -> dict[str, Any]:
        response = await self._client.post(self._url, json=_request(stream=False))
        return _result_of_json(response.raise_for_status().json())

    async def stream(self) -> AsyncIterator[str]:
        async with self._client.stream("POST", self._url, json=_request(stream=True)) as response:
            response.raise_for_status()
            async for chunk in response.aiter_raw():
                yield chunk  # type: ignore[misc]  # bytes will do: they are only counted

    async def close(self) -> None:
        await self._client.aclose()


class Pyreqwest:
    """pyreqwest, the nearest relative. A stream is handed on as it comes, and nothing in it is parsed."""

    def __init__(self, base_url: str, in_flight: int) -> None:
        from pyreqwest.client import ClientBuilder

        self._url = f"{base_url}/chat/completions"
        self._client = (
            ClientBuilder()
            .default_headers({"authorization": f"Bearer {API_KEY}"})
            .error_for_status(True)
            .build()
        )

    async def complete(self) -> dict[str, Any]:
        response = await self._client.post(self._url).body_json(_request(stream=False)).build().send()
        return _result_of_json(await response.json())

    async def stream(self) -> AsyncIterator[str]:
        request = self._client.post(self._url).body_json(_request(stream=True))
        # By its default it waits until 64 KB have come.
        streamed = request.streamed_read_buffer_limit(0).build_streamed()
        async with streamed as response:
            while (chunk := await response.body_reader.read_chunk()) is not None:
                yield chunk  # type: ignore[misc]  # bytes will do: they are only counted

    async def close(self) -> None:
        await self._client.close()


class Blocking:
    """The original's way: OpenAI's synchronous client inside `async def`, which stops the loop."""

    def __init__(self, base_url: str, in_flight: int) -> None:
        import httpx2
        import openai

        limits = httpx2.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
        self._client = openai.OpenAI(
            base_url=base_url, api_key=API_KEY, http_client=openai.DefaultHttpxClient(limits=limits)
        )

    def _complete(self) -> dict[str, Any]:
        return _result_of_object(self._client.chat.completions.create(**_request(stream=False)))

    async def complete(self) -> dict[str, Any]:
        await asyncio.sleep(
            0
        )  # the other tasks' turn: in an application a call is one of many things a task does
        return self._complete()

    async def stream(self) -> AsyncIterator[str]:
        with self._client.chat.completions.create(**_request(stream=True)) as chunks:
            for chunk in chunks:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content

    async def close(self) -> None:
        self._client.close()


class ToThread(Blocking):
    """OpenAI's synchronous client in `asyncio.to_thread`, with a thread for each call up to a thousand."""

    def __init__(self, base_url: str, in_flight: int) -> None:
        super().__init__(base_url, in_flight)
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(min(in_flight, MOST_THREADS)))

    async def complete(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._complete)


@dataclass(frozen=True)
class Peer:
    """One line of a comparison."""

    name: str
    make: Callable[[str, int], Client] | None
    """From a base URL and the number of calls that will be in flight; None: a program of its own."""

    distribution: str | None = None
    """What `pip` installs."""

    needs: tuple[str, ...] = ()
    """Further distributions."""


PEERS = {
    peer.name: peer
    for peer in (
        Peer(OURS, Ours, OURS),
        Peer("openai", OpenAI, "openai"),
        Peer("openai-aiohttp", OpenAIOnAiohttp, "openai", ("aiohttp",)),
        Peer("litellm", LiteLLM, "litellm"),
        Peer("aiohttp", Aiohttp, "aiohttp"),
        Peer("httpx", Httpx, "httpx"),
        Peer("pyreqwest", Pyreqwest, "pyreqwest"),
        Peer("blocking", Blocking, "openai"),
        Peer("to-thread", ToThread, "openai"),
        Peer(BARE, None),
    )
}


def distributions(names: Iterable[str]) -> set[str]:
    """What has to be installed for these peers."""
    return {
        distribution
        for name in names
        for distribution in (PEERS[name].distribution, *PEERS[name].needs)
        if distribution
    }


def check_answer(result: dict[str, Any]) -> None:
    """Raise `ValueError` unless a peer's result is what the server sent."""
    if not result["content"].startswith("I have built") or result["usage"]["total_tokens"] != 67:
        raise ValueError(f"not the server's answer: {json.dumps(result, default=str)[:200]}")


async def count_pieces(client: Client, at_most: int | None = None) -> int:
    """Read one stream to its end, or so many pieces of it."""
    pieces = 0
    async with aclosing(client.stream()) as stream:  # type: ignore[type-var]
        async for _ in stream:
            pieces += 1
            if pieces == at_most:
                break
    return pieces
