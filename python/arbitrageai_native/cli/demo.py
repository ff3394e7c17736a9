"""The subcommand `demo`: its options, checked, and the run they ask for."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from arbitrageai_native.cli.main import BadInputError

if TYPE_CHECKING:
    from arbitrageai_native.cli.main import Subcommands
    from arbitrageai_native.demo.display import Display
    from arbitrageai_native.demo.progress import Outcome
    from arbitrageai_native.demo.run import DemoSettings

DEFAULT_MODEL: Final = "gpt-4o-mini"
DEFAULT_STEALTH_RANGE: Final = (0.3, 0.9)
DEFAULT_LOCK_TTL: Final = 10.0
MOST_SCANNERS: Final = 64
LONGEST_STEALTH_SECONDS: Final = 3600.0
EXIT_WRONG: Final = 1

DESCRIPTION: Final = """\
Several scanner processes compete for all job postings over one SQLite file. For each posting: take its lock,
look whether it has a bid, ask the model for a proposal (in stealth mode), record the bid, release the lock.
Unless --base-url is given, the model is a server on loopback that the demo starts itself.
Exit status: 0 if every posting was bid on exactly once, 1 if not, 2 for bad input, 130 after Ctrl-C."""


def add_command(subcommands: Subcommands) -> None:
    """Add the subcommand's parser."""
    parser = subcommands.add_parser(
        "demo",
        help="scanner processes compete for job postings, and bid on each exactly once",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "--postings",
        metavar="FILE",
        type=Path,
        help="a JSON list of {marketplace, id, title, description}, all text (default: a sample)",
    )
    add("--scanners", metavar="N", type=int, default=3, help="how many scanner processes (default: 3)")
    add("--base-url", metavar="URL", help="an OpenAI-compatible server to ask instead of the demo's own")
    add(
        "--api-key",
        metavar="KEY",
        help="its key (default: the environment's API_KEY, which shows in no process list)",
    )
    add("--model", metavar="NAME", default=DEFAULT_MODEL, help=f"the model's name (default: {DEFAULT_MODEL})")
    add(
        "--database-url",
        metavar="URL",
        help="where the locks are: sqlite:///FILE, which gets the bids too, in a table demo_bids, "
        "or postgresql://..., beside which the bids go to a temporary file (default: a temporary file)",
    )
    add(
        "--stealth-range",
        nargs=2,
        metavar=("MIN", "MAX"),
        type=float,
        default=DEFAULT_STEALTH_RANGE,
        help="seconds to wait before each call, drawn at random (default: {} {})".format(
            *DEFAULT_STEALTH_RANGE
        ),
    )
    add(
        "--lock-ttl",
        metavar="SECONDS",
        type=float,
        default=DEFAULT_LOCK_TTL,
        help=f"after how long a dead scanner's locks are free again (default: {DEFAULT_LOCK_TTL:g})",
    )
    add("--json", action="store_true", help="print nothing but the outcome, as a JSON object")


def run(arguments: argparse.Namespace, display: Display | None = None) -> int:
    """Run the demo and return the exit status. Without a display, the one that fits standard output is used.

    Raises:
        BadInputError: an option's value cannot be used.
    """
    with TemporaryDirectory(prefix="arbitrageai-demo-", ignore_cleanup_errors=True) as folder:
        settings = _settings(arguments, Path(folder))
        display = display or _display(as_json=arguments.json)
        outcome, signal_number = asyncio.run(_run_until_signalled(settings, display))
    if outcome is None:
        return 128 + signal_number
    if arguments.json:
        print(json.dumps(outcome.as_dict()), flush=True)
    else:
        display.show_outcome(outcome)
    return 0 if outcome.is_right else EXIT_WRONG


async def _run_until_signalled(settings: DemoSettings, display: Display) -> tuple[Outcome | None, int]:
    """Run the demo; on Ctrl-C and its like, wind it up in order and tell which signal it was."""
    from arbitrageai_native.demo.run import run_demo

    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(run_demo(settings, display))
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


def _settings(arguments: argparse.Namespace, folder: Path) -> DemoSettings:
    from arbitrageai_native.demo.bids import bids_path_for, database_path
    from arbitrageai_native.demo.postings import load_postings, sample_postings
    from arbitrageai_native.demo.run import DemoSettings

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
    database_url = arguments.database_url
    if database_url is None:
        database_url = f"sqlite:///{temporary}"
    return DemoSettings(
        postings=postings,
        scanners=arguments.scanners,
        database_url=database_url,
        bids_path=bids_path_for(database_path(database_url), temporary),
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
    from arbitrageai_native.demo.display import LiveDisplay, OutputConsole, PlainDisplay, SilentDisplay

    if as_json:
        return SilentDisplay()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    # Asked here and not of rich, which takes FORCE_COLOR for a terminal.
    console = OutputConsole(force_terminal=sys.stdout.isatty())
    return (
        LiveDisplay(console)
        if console.is_terminal and not console.is_dumb_terminal
        else PlainDisplay(console)
    )
