"""A `ModelServer` in a process of its own.

Parent and child (`subprocess_child`) speak in pickles over the child's standard input and output: first the
arguments go down and the port comes up, then commands and their results. Each message is pickled twice: the
outer pickle, of bytes, can always be read, and so tells where the next message begins. The child ends when
its input does, so it cannot outlive its parent, however that ends; Ctrl-C in the terminal is the parent's
affair.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from arbitrageai_native.testing.answers import Answerer, AnyAnswer
from arbitrageai_native.testing.application import ModelApplication
from arbitrageai_native.testing.interface import _ServerInterface
from arbitrageai_native.testing.requests import RecordedRequest, Statistics

CHILD: Final = "arbitrageai_native.testing.subprocess_child"
SECONDS_TO_END: Final = 5.0


class SubprocessModelServer(_ServerInterface):
    """A model server in a process of its own, with the interface of `ModelServer`.

    `requests`, `statistics` and `script` ask the other process and wait for its reply, about a millisecond.
    """

    def __init__(self, *, port: int = 0, **arguments: Any) -> None:
        _refuse_unimportable(arguments)
        # Made here too, so that a wrong argument is an error here and now.
        ModelApplication(**arguments)
        self._arguments = {"port": port, **arguments}
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    @property
    def process_id(self) -> int:
        """The id of the server's process."""
        if self._process is None:
            raise RuntimeError("the model server has not been started")
        return self._process.pid

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests that arrived so far, in order."""
        requests: list[RecordedRequest] = self._ask("requests")
        return requests

    @property
    def statistics(self) -> Statistics:
        """Connections and requests, counted."""
        statistics: Statistics = self._ask("statistics")
        return statistics

    def script(self, *answers: AnyAnswer | Answerer) -> None:
        """Add answers to be given next, in order, before `answer` has its say again."""
        self._ask("script", *answers)

    def start(self) -> None:
        """Start the process and wait until it listens; `with` does it.

        Raises:
            RuntimeError: it could not be started; the message says why.
        """
        if self._process is not None:
            raise RuntimeError("the model server is running already")
        process = subprocess.Popen(
            [sys.executable, "-m", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
        )
        self._process = process
        try:
            self._port = self._ask_raw(self._arguments)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process; `with` does it."""
        if self._process is None:
            return
        process, self._process, self._port = self._process, None, None
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdout:
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> SubprocessModelServer:
        """Start the process."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.stop()

    async def __aenter__(self) -> SubprocessModelServer:
        """Start the process."""
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the process."""
        await asyncio.to_thread(self.stop)

    def _ask(self, command: str, *arguments: Any) -> Any:
        _ = self.port  # raises unless the server has been started
        return self._ask_raw((command, arguments))

    def _ask_raw(self, message: object) -> Any:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        pickled = pickle.dumps(message)
        with self._lock:
            try:
                pickle.dump(pickled, process.stdin)
                process.stdin.flush()
                reply = pickle.load(process.stdout)
            except (BrokenPipeError, EOFError, pickle.UnpicklingError):
                why = "the model server's process has ended; its standard error says why"
                raise RuntimeError(why) from None
        succeeded, value = pickle.loads(reply)
        if not succeeded:
            raise RuntimeError(f"the model server's process: {value}")
        return value


def _refuse_unimportable(arguments: dict[str, Any]) -> None:
    for name, value in arguments.items():
        for function in value if isinstance(value, (list, tuple)) else (value,):
            if not callable(function):
                continue
            module, qualified = getattr(function, "__module__", None), getattr(function, "__qualname__", "<")
            if module in (None, "__main__") or "<" in qualified:
                raise ValueError(
                    f"{name}: {qualified} cannot be imported by the server's process; "
                    "define it at the top level of a module"
                )


def _import_path() -> list[str]:
    # An empty entry means the working directory, and would be lost as such in PYTHONPATH.
    return [entry or str(Path.cwd()) for entry in sys.path]
