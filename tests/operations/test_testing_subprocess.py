"""The model server in a process of its own."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import openai
import pytest

from arbitrageai_native.testing import Answer, Failure, ModelServer, RecordedRequest

MESSAGES = [{"role": "user", "content": "hello"}]
REQUEST_BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(REQUEST_BODY), REQUEST_BODY)
)


def shout(request: RecordedRequest) -> str:
    print("what an answer function prints does not get between the frames")
    return request.prompt.upper()


def test_it_has_the_interface_of_the_server_in_the_loop() -> None:
    with ModelServer.in_subprocess(answer=shout, script=[Failure(400)]) as server:
        assert server.process_id != os.getpid()
        with openai.OpenAI(base_url=server.base_url, api_key="key") as client:
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model="m", messages=MESSAGES)
            server.script(Answer("scripted"))
            texts = [client.chat.completions.create(model="m", messages=MESSAGES) for _ in range(2)]
        assert [text.choices[0].message.content for text in texts] == ["scripted", "HELLO"]
        assert [request.prompt for request in server.requests] == ["hello"] * 3
        assert server.statistics.answered == 3


async def test_thousands_of_requests_in_flight() -> None:
    count = 2000

    async def call(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        answer = await reader.read()
        writer.close()
        return answer

    async with ModelServer.in_subprocess(delay=1.5, record=False) as server:
        answers = await asyncio.gather(*(call(server.port) for _ in range(count)))
        statistics = server.statistics
    assert all(answer.startswith(b"HTTP/1.1 200 OK\r\n") for answer in answers)
    assert statistics.peak_in_flight == statistics.answered == count
    assert statistics.in_flight == statistics.abandoned == 0


def test_a_function_that_cannot_be_imported_is_refused() -> None:
    with pytest.raises(ValueError, match=r"answer: .*<lambda> cannot be imported"):
        ModelServer.in_subprocess(answer=lambda request: "x")


def test_wrong_arguments_are_refused_here() -> None:
    with pytest.raises(TypeError, match="colour"):
        ModelServer.in_subprocess(colour="red")
    with pytest.raises(ValueError, match="delay"):
        ModelServer.in_subprocess(delay=-1)


def test_a_port_that_is_taken_is_told() -> None:
    with (
        ModelServer() as first,
        pytest.raises(RuntimeError, match="OSError"),
        ModelServer.in_subprocess(port=first.port),
    ):
        pass


def test_it_is_used_only_while_it_runs() -> None:
    server = ModelServer.in_subprocess()
    for attribute in ("base_url", "statistics", "requests", "process_id"):
        with pytest.raises(RuntimeError, match="not been started"):
            getattr(server, attribute)


def test_a_server_that_was_killed_is_told() -> None:
    with ModelServer.in_subprocess() as server:
        os.kill(server.process_id, signal.SIGKILL)
        _wait_until_ended(server.process_id)
        with pytest.raises(RuntimeError, match="has ended"):
            _ = server.statistics


def test_it_ends_when_its_parent_is_killed() -> None:
    program = (
        "import time\nfrom arbitrageai_native.testing import ModelServer\n"
        "with ModelServer.in_subprocess() as server:\n"
        "    print(server.process_id, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        server_process = int(parent.stdout.readline())
        parent.kill()
    _wait_until_ended(server_process)


def _wait_until_ended(process: int) -> None:
    deadline = time.monotonic() + 10
    while _is_running(process):
        assert time.monotonic() < deadline, "the process goes on"
        time.sleep(0.02)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:  # noqa: PTH123
        return file.read().rpartition(")")[2].split()[0] != "Z"
