"""A real headless Chromium from Debian's package, driven by the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from .system import from_package

Event = dict[str, Any]

SECONDS_TO_ANSWER: Final = 30.0
# The numbers that Chromium reads from and writes to.
_COMMANDS, _ANSWERS = 3, 4
_ABOVE_THESE: Final = 10

_OPTIONS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Chromium:
    """One browser with one page. What it reports meanwhile is kept in `events`."""

    def __init__(self, width: int = 1000, height: int = 800) -> None:
        program = from_package("chromium", "/usr/bin/chromium")
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        self._numbers = itertools.count(1)
        self._unread = b""
        self.events: list[Event] = []
        command = [str(program), *_OPTIONS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process, self._commands, self._answers = _spawn(command)
        try:
            self._attach(self._first_page(), width, height)
        except BaseException:
            self.close()
            raise

    def new_page(self, width: int = 1000, height: int = 800) -> None:
        """Replace the page by another, which shares nothing with it."""
        context = self._send("Target.createBrowserContext")["browserContextId"]
        page = self._send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._send("Target.closeTarget", targetId=self._page)
        self.events.clear()
        self._attach(page, width, height)

    def _attach(self, page: str, width: int, height: int) -> None:
        self._page = page
        self._session = self._send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command to the page, and its result."""
        return self._send(method, session=self._session, **parameters)

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """Give the page's window a size in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def open(self, url: str) -> None:
        """Load a page, until all of it is there."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait_for(self, expression: str, within: float = 10.0) -> Any:
        """Ask for an expression until its value is true, and return that.

        Raises:
            TimeoutError: it was not within so many seconds.
        """
        deadline = time.monotonic() + within
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not true within {within} s: {expression}\n{self.text()}")
            time.sleep(0.02)
        return value

    def text(self) -> str:
        """What a reader sees."""
        return str(self.evaluate("document.body.innerText"))

    def screenshot(self) -> bytes:
        """The whole page as a PNG."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(picture["data"])

    def reported(self, method: str) -> list[dict[str, Any]]:
        """The parameters of every event of this kind so far."""
        return [event["params"] for event in self.events if event["method"] == method]

    def close(self) -> None:
        """End it, and remove what it wrote."""
        for pipe in (self._commands, self._answers):
            os.close(pipe)
        # It ends when its pipe is closed; whatever of it does not, is made to.
        deadline = time.monotonic() + 5
        while os.waitpid(self._process, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.killpg(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)
                break
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process, signal.SIGKILL)
        shutil.rmtree(self._profile, ignore_errors=True)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _first_page(self) -> str:
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while time.monotonic() < deadline:
            for target in self._send("Target.getTargets")["targetInfos"]:
                if target["type"] == "page":
                    return str(target["targetId"])
            time.sleep(0.02)
        raise TimeoutError("Chromium opened no page")

    def _send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        return self._read(lambda answer: answer.get("id") == number)

    def _read(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS_TO_ANSWER
        while True:
            while b"\0" in self._unread:
                text, _, self._unread = self._unread.partition(b"\0")
                message = json.loads(text)
                if "method" in message:
                    self.events.append(message)
                elif is_wanted(message):
                    if "error" in message:
                        raise RuntimeError(message["error"])
                    result: dict[str, Any] = message["result"]
                    return result
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError("Chromium does not answer")
            received = os.read(self._answers, 1 << 20)
            if not received:
                raise RuntimeError("Chromium has ended")
            self._unread += received


def _spawn(command: list[str]) -> tuple[int, int, int]:
    """Starts it in a process group of its own; the process, the pipe to it and the pipe from it."""
    its_commands, our_commands = os.pipe()
    our_answers, its_answers = os.pipe()
    # Its ends must not have the numbers that they are copied to.
    copies = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _ABOVE_THESE) for end in (its_commands, its_answers)]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, copies[0], _COMMANDS),
        (os.POSIX_SPAWN_DUP2, copies[1], _ANSWERS),
    ]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setpgroup=0)
    for end in (its_commands, its_answers, *copies):
        os.close(end)
    return process, our_commands, our_answers
