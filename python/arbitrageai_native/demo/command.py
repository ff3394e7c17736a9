"""What the command `demo` does: its options, checked, and the run they ask for."""

from __future__ import annotations

import argparse
import asyncio
import math
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

from arbitrageai_native.cli.display import can_draw
from arbitrageai_native.cli.main import BadInputError
from arbitrageai_native.demo.bids import bids_path_for, database_path
from arbitrageai_native.demo.display import Display, JsonDisplay, PlainDisplay
from arbitrageai_native.demo.messages import ScannerSettings
from arbitrageai_native.demo.postings import load_postings, sample_postings
from arbitrageai_native.demo.progress import Outcome
from arbitrageai_native.demo.run import run_demo

MOST_SCANNERS: Final = 64
LONGEST_STEALTH_SECONDS: Final = 3600.0
EXIT_WRONG: Final = 1


def run(arguments: argparse.Namespace, display: Display | None = None) -> int:
    """Run the demo and return the exit status. Without a display, the one that fits standard output is used.

    Raises:
        BadInputError: an option's value cannot be used.
    """
    with TemporaryDirectory(prefix="arbitrageai-demo-", ignore_cleanup_errors=True) as folder:
        settings = _settings(arguments, Path(folder))
        display = display or _display(as_json=arguments.json)
        outcome, signal_number = asyncio.run(_run_until_signalled(arguments.scanners, settings, display))
    if outcome is None:
        return 128 + signal_number
    display.show_outcome(outcome)
    return 0 if outcome.is_right else EXIT_WRONG


async def _run_until_signalled(
    scanners: int, each: ScannerSettings, display: Display
) -> tuple[Outcome | None, int]:
    """Run the demo; on Ctrl-C and its like, wind it up in order and tell which signal it was."""
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(run_demo(scanners, each, display))
    received: list[int] = []

    def stop(number: int) -> None:
        # Once only: winding up is bounded, and is not to be cut short by an impatient second Ctrl-C.
        if not received:
            received.append(number)
            work.cancel()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None:
            try:
                loop.add_signal_handler(number, stop, number)
            except NotImplementedError:  # Windows, where asyncio.run itself answers Ctrl-C
                break
    try:
        return await work, 0
    except asyncio.CancelledError:
        if not received:
            raise
        return None, received[0]


def _settings(arguments: argparse.Namespace, folder: Path) -> ScannerSettings:
    if not 1 <= arguments.scanners <= MOST_SCANNERS:
        raise BadInputError(f"--scanners: {arguments.scanners} is not a number from 1 to {MOST_SCANNERS}")
    if not (math.isfinite(arguments.lock_ttl) and arguments.lock_ttl > 0):
        raise BadInputError(f"--lock-ttl: {arguments.lock_ttl} is not a positive number of seconds")
    if arguments.base_url is not None:
        _check_base_url(arguments.base_url)
    if not arguments.model.strip():
        raise BadInputError("--model: the name is empty")
    if arguments.api_key is not None and not _fits_header(arguments.api_key):
        raise BadInputError(
            "--api-key: the key is empty or has characters in it that no HTTP header can carry"
        )
    postings = sample_postings() if arguments.postings is None else load_postings(arguments.postings)
    temporary = folder / "demo.db"
    database_url = f"sqlite:///{temporary}" if arguments.database_url is None else arguments.database_url
    return ScannerSettings(
        run_id=secrets.token_hex(8),
        postings=postings,
        database_url=database_url,
        bids_path=str(bids_path_for(database_path(database_url), temporary)),
        base_url=arguments.base_url,
        api_key=arguments.api_key,
        model=arguments.model,
        stealth_range=_stealth_range(arguments.stealth_range),
        lock_ttl=arguments.lock_ttl,
    )


def _stealth_range(values: Sequence[float]) -> tuple[float, float]:
    shortest, longest = values
    for value in values:
        if not 0 <= value <= LONGEST_STEALTH_SECONDS:
            raise BadInputError(
                f"--stealth-range: {value} is not a number of seconds from 0 to {LONGEST_STEALTH_SECONDS:g}"
            )
    if shortest > longest:
        raise BadInputError(f"--stealth-range: MIN ({shortest:g}) is greater than MAX ({longest:g})")
    return shortest, longest


def _check_base_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise BadInputError(f"--base-url: {url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable() or " " in url:
        raise BadInputError(f"--base-url: {url!r} is not a URL such as http://localhost:11434/v1")


def _fits_header(key: str) -> bool:
    return bool(key.strip()) and key.isascii() and key.isprintable()


def _display(*, as_json: bool) -> Display:
    if as_json:
        return JsonDisplay()
    if not can_draw():
        return PlainDisplay()
    from arbitrageai_native.demo.live_display import LiveDisplay

    return LiveDisplay()
