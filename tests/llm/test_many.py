"""Many prompts, a few at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from arbitrageai_native import LLMService, _native, exceptions
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import Connection, FaultyServer

Serve = Callable[..., FaultyServer]


def service(server: FaultyServer) -> LLMService:
    return LLMService(base_url=server.base_url, api_key=KEY, max_retries=0, enable_circuit_breaker=False)


class Counting:
    """Answers after a moment, and counts how many it answers at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, connection: Connection) -> bool:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        connection.pause(0.03)
        with self._lock:
            self._now -= 1
        return faulty.answer()(connection)


async def test_results_come_in_order_and_no_more_are_under_way_than_allowed(serve: Serve) -> None:
    counting = Counting()
    server = serve(counting)
    prompts = [f"prompt {number}" for number in range(30)]
    results = await service(server).complete_many_async(prompts, concurrency=5, temperature=0)
    assert [result["content"] for result in results] == ["hello"] * 30  # type: ignore[index]
    assert counting.most == 5
    sent = [request.json for request in server.requests]
    assert {body["messages"][0]["content"] for body in sent} == set(prompts)
    assert {body["temperature"] for body in sent} == {0}


def test_each_prompt_has_its_result_or_its_exception(serve: Serve) -> None:
    server = serve(faulty.answer(), faulty.answer(status=400), faulty.answer())
    prompts: list[Any] = ["a", "b", {"prompt": "c", "max_tokens": 5}, 7]
    first, second, third, fourth = service(server).complete_many(prompts, concurrency=1)
    assert first["content"] == third["content"] == "hello"  # type: ignore[index]
    assert isinstance(second, exceptions.BadRequestError)
    assert isinstance(fourth, TypeError)
    assert server.requests[2].json["max_tokens"] == 5
    assert service(server).complete_many([]) == []


async def test_the_blocking_form_works_under_a_running_loop(serve: Serve) -> None:
    client = service(serve(faulty.answer()))
    results = client.complete_many(["a", "b"])
    assert [result["content"] for result in results] == ["hello"] * 2  # type: ignore[index]
    assert client.metrics()["blocking_calls_in_loop"] == 1


@pytest.mark.parametrize("prompts", ["abc", b"abc", bytearray(b"abc"), {"prompt": "a"}, 5, None], ids=repr)
async def test_one_prompt_is_no_list_of_prompts(prompts: Any, serve: Serve) -> None:
    server = serve(faulty.answer())
    with pytest.raises(exceptions.InvalidArgumentTypeError, match="prompts has to be a list of prompts, not"):
        await service(server).complete_many_async(prompts)
    with pytest.raises(TypeError, match="prompts has to be a list of prompts, not"):
        service(server).complete_many(prompts)
    assert server.requests == []


@pytest.mark.parametrize(("concurrency", "kind"), [(0, ValueError), (1.5, TypeError)])
async def test_a_bad_concurrency_is_named(concurrency: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="concurrency"):
        await LLMService(base_url="http://x/v1").complete_many_async(["a"], concurrency=concurrency)


async def test_cancelling_stops_what_is_under_way(serve: Serve) -> None:
    server = serve(faulty.hang)
    task = asyncio.create_task(service(server).complete_many_async(["a"] * 50, concurrency=4))
    for _ in range(500):
        if len(server.requests) == 4:
            break
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(500):
        if _native.requests_under_way() == 0:
            break
        await asyncio.sleep(0.01)
    assert _native.requests_under_way() == 0
    assert len(server.requests) == 4


PROGRAM = f"""
import sys
from arbitrageai_native import LLMService
service = LLMService(base_url=sys.argv[1], api_key={KEY!r}, enable_circuit_breaker=False)
try:
    service.complete_many(["a"] * 20, concurrency=3, progress=True)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_stops_it_cleanly(serve: Serve) -> None:
    server = serve(faulty.hang)
    command = [sys.executable, "-c", PROGRAM, server.base_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while len(server.requests) < 3:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=10)
    assert (output, errors, process.returncode) == ("interrupted\n", "", 0)


def test_a_terminal_gets_a_progress_bar(serve: Serve) -> None:
    server = serve(faulty.answer())
    terminal, other_end = os.openpty()
    command = [sys.executable, "-c", PROGRAM, server.base_url]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=other_end, env=environment) as process:
        os.close(other_end)
        shown = b""
        with contextlib.suppress(OSError), open(terminal, "rb", buffering=0) as screen:  # noqa: PTH123
            while part := screen.read(4096):
                shown += part
        assert process.communicate()[0] == b""
    assert b"completions" in shown
    assert b"20/20" in shown
