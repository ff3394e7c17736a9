"""What a call costs: this package beside OpenAI's own, against the same server.

    python benchmarks/llm.py [--calls 5000] [--in-flight 100]

CPU time is the process's, native threads included, per call. The server is a process of its own, as small as
can be: it sends a fixed answer for each request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from arbitrageai_native import AsyncOpenAI, LLMService

MESSAGES = [{"role": "user", "content": "Write a proposal. " * 20}]
ANSWER = json.dumps(
    {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 100}}
        ],
        "usage": {"prompt_tokens": 60, "completion_tokens": 100, "total_tokens": 160},
    }
).encode()


class Server(asyncio.Protocol):
    """Answers as soon as a request's length of body is there; knows no more of HTTP than that."""

    _reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = self._received[:end].lower()
            start = head.index(b"content-length:") + 15
            length = int(head[start : (head + b"\r\n").index(b"\r\n", start)])
            if len(self._received) < end + 4 + length:
                return
            self._received = self._received[end + 4 + length :]
            self._transport.write(self._reply + ANSWER)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def measure(call: Callable[[], Awaitable[Any]], calls: int, in_flight: int) -> tuple[float, float]:
    """CPU and wall time per call in microseconds."""
    left = calls

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    await asyncio.gather(*(call() for _ in range(in_flight)))
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return (time.process_time() - cpu) / calls * 1e6, (time.perf_counter() - wall) / calls * 1e6


async def compare(base_url: str, calls: int, in_flight: int) -> list[tuple[str, float, float]]:
    import openai

    service = LLMService(base_url=base_url, api_key="key", enable_circuit_breaker=False)
    guarded = LLMService(base_url=base_url, api_key="key", enable_circuit_breaker="always")
    native = AsyncOpenAI(base_url=base_url, api_key="key")
    reference = openai.AsyncOpenAI(base_url=base_url, api_key="key")
    arguments: Any = {"model": "m", "messages": MESSAGES, "temperature": 0.7, "max_tokens": 1000}
    contenders: dict[str, Callable[[], Awaitable[Any]]] = {
        "LLMService.complete_async": lambda: service.complete_async(MESSAGES[0]["content"]),
        "the same with a circuit breaker": lambda: guarded.complete_async(MESSAGES[0]["content"]),
        "AsyncOpenAI (native)": lambda: native.chat.completions.create(**arguments),
        "openai.AsyncOpenAI": lambda: reference.chat.completions.create(**arguments),
    }
    rows = []
    for name, call in contenders.items():
        share = 10 if name.startswith("openai") else 1
        rows.append((name, *await measure(call, calls // share, in_flight)))
    await reference.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, default=100)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve())
        return
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            base_url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            rows = asyncio.run(compare(base_url, options.calls, options.in_flight))
        finally:
            server.terminate()
    table = Table("Client", "CPU µs per call", "Wall µs per call", title=f"{options.in_flight} in flight")
    for name, cpu, wall in rows:
        table.add_row(name, f"{cpu:.1f}", f"{wall:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
