"""A run of the demo: starts the processes, listens to them, and draws the sum from the table of bids."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from arbitrageai_native import BidLockManager
from arbitrageai_native.cli.main import BadInputError
from arbitrageai_native.demo import messages
from arbitrageai_native.demo.bids import BidTable, prepare_database
from arbitrageai_native.demo.display import Display
from arbitrageai_native.demo.messages import CallEnded, ScannerSettings
from arbitrageai_native.demo.progress import Outcome, Progress, ScannerProgress
from arbitrageai_native.demo.proposals import answer_seconds, propose
from arbitrageai_native.exceptions import LockError
from arbitrageai_native.testing import ModelServer

SCANNER: Final = "arbitrageai_native.demo.scanner"
SECONDS_TO_GET_READY: Final = 30.0
SECONDS_TO_STOP: Final = 4.0
SECONDS_BETWEEN_REFRESHES: Final = 0.1
LONGEST_LINE: Final = 1 << 20


async def run_demo(scanner_count: int, each: ScannerSettings, display: Display) -> Outcome:
    """Let the scanners compete for the postings, and count what they did.

    Without a `base_url` they ask a model server of the demo's own.

    Raises:
        BadInputError: the database cannot be used.
    """
    bids = prepare_database(Path(each.bids_path), each.run_id)
    try:
        await _check_locks(each.database_url)
        own_key = secrets.token_hex(16)
        own_server = ModelServer.in_subprocess(
            answer=propose, delay=answer_seconds, api_key=own_key, models=(each.model,), record=False
        )
        with own_server if each.base_url is None else nullcontext():
            if each.base_url is None:
                each = replace(each, base_url=own_server.base_url, api_key=own_key)
            names = (f"scanner-{number}" for number in range(1, scanner_count + 1))
            scanners = [ScannerProcess(replace(each, name=name)) for name in names]
            return await _compete(scanners, each, bids, display)
    finally:
        bids.close()


async def _check_locks(database_url: str) -> None:
    """Find out here, rather than in every scanner, that the database is no place for locks."""
    try:
        async with BidLockManager(database_url=database_url) as locks:
            await locks.locks()
    except (ValueError, LockError) as error:
        raise BadInputError(f"--database-url: {error}") from error


async def _compete(
    scanners: Sequence[ScannerProcess], each: ScannerSettings, bids: BidTable, display: Display
) -> Outcome:
    async with AsyncExitStack() as processes:
        for scanner in scanners:
            await processes.enter_async_context(scanner.running())
        for scanner in scanners:  # all are told before the first is waited for
            processes.callback(scanner.tell_to_stop)
        await asyncio.gather(*(scanner.wait_until_ready() for scanner in scanners))
        progress = Progress(each.postings, [scanner.progress for scanner in scanners], str(each.base_url))
        display.begin(progress)
        refreshing = asyncio.create_task(_refresh_regularly(display))
        try:
            for scanner in scanners:
                scanner.go()
            await asyncio.gather(*(_follow(scanner, progress, display) for scanner in scanners))
            seconds = progress.seconds
        finally:
            refreshing.cancel()
            display.end()
    return Outcome.of(progress, await asyncio.to_thread(bids.count_by_posting, each.postings), seconds)


async def _follow(scanner: ScannerProcess, progress: Progress, display: Display) -> None:
    """Take in what a scanner reports until it has finished or its process ends."""
    async for event in scanner.events():
        if isinstance(event, CallEnded):
            progress.call_ended(scanner.progress, event)
            display.call_ended(scanner.progress, event)
        else:
            scanner.progress.status = event
            if event.finished:
                display.scanner_ended(scanner.progress)
                return
    scanner.progress.ended = await scanner.describe_end()
    display.scanner_ended(scanner.progress)


async def _refresh_regularly(display: Display) -> None:
    while True:
        display.refresh()
        await asyncio.sleep(SECONDS_BETWEEN_REFRESHES)


class ScannerProcess:
    """A scanner's process, seen from the demo."""

    def __init__(self, settings: ScannerSettings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._errors: asyncio.Task[bytes] | None = None
        self.progress = ScannerProgress(settings.name)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Start the process; at the end tell it to stop, and see that it does."""
        starting = asyncio.ensure_future(self._start())
        try:
            # A process that has been started must be known, so that it can be stopped: hence the shield.
            await asyncio.shield(starting)
            yield
        finally:
            await starting
            await self._stop()

    async def wait_until_ready(self) -> None:
        """Wait until the scanner has started up, or has failed to."""
        with suppress(TimeoutError, asyncio.TimeoutError):
            line = await asyncio.wait_for(self._stdout.readline(), SECONDS_TO_GET_READY)
            while line and line.strip() != messages.READY.encode():
                line = await self._stdout.readline()

    def go(self) -> None:
        """Let it begin."""
        self._stdin.write(messages.GO)

    def tell_to_stop(self) -> None:
        """Let it end; what it is in the midst of is called off."""
        self._stdin.close()

    async def events(self) -> AsyncIterator[messages.Event]:
        """Yield what it reports, until its output ends."""
        while line := await self._stdout.readline():
            event = messages.decode_event(line)
            if event is not None:
                yield event

    async def describe_end(self) -> str:
        """Wait for the process to end, and say how it did."""
        assert self._process is not None
        assert self._errors is not None
        status = await self._process.wait()
        if status < 0:
            return f"killed by signal {-status}"
        lines = (await self._errors).decode(errors="replace").strip().splitlines()
        reason = f": {lines[-1]}" if lines else ""
        return f"ended early with status {status}{self._without_key(reason)}"

    async def _start(self) -> None:
        # A session of its own: Ctrl-C in the terminal is for the demo, which then stops its scanners.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            SCANNER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=LONGEST_LINE,
            env=_environment(),
        )
        assert self._process.stderr is not None
        self._errors = asyncio.ensure_future(self._process.stderr.read())
        self._stdin.write(self._settings.encode())

    async def _stop(self) -> None:
        if self._process is None:
            return
        self._stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), SECONDS_TO_STOP)
        except (TimeoutError, asyncio.TimeoutError):
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._errors is not None:
            self._errors.cancel()

    def _without_key(self, text: str) -> str:
        return text.replace(self._settings.api_key, "***") if self._settings.api_key else text

    @property
    def _stdin(self) -> asyncio.StreamWriter:
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> asyncio.StreamReader:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout


def _environment() -> dict[str, str]:
    """Return the children's environment: a proxy, if one is set, is not for the demo's own server."""
    environment = dict(os.environ)
    for name in ("NO_PROXY", "no_proxy"):
        exempt: Any = filter(None, [environment.get(name), "127.0.0.1", "localhost"])
        environment[name] = ",".join(exempt)
    return environment
