"""The subcommand `doctor`: whether everything that the package needs is there."""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from typing import TYPE_CHECKING

from arbitrageai_native._command_line import BadInputError

if TYPE_CHECKING:
    from arbitrageai_native._command_line import Subcommands
    from arbitrageai_native.doctor import Finding

_WIDTH_OF_A_FILE = 200


def add_command(subcommands: Subcommands) -> None:
    """Add the subcommand's parser."""
    parser = subcommands.add_parser(
        "doctor", help="check the set-up: database, Redis, model servers, certificates, limits"
    )
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help="the locks' database (default: DATABASE_URL, then sqlite:///data/tasks.db)",
    )
    parser.add_argument(
        "--ttl",
        type=_seconds,
        default=300.0,
        metavar="SECONDS",
        help="the locks' time to live, against which clocks are judged (default: 300)",
    )
    parser.add_argument("--json", action="store_true", help='print {"findings": […]}')
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look, and print what was found; 1 if anything is an error.

    Raises:
        BadInputError: `--database-url` names no database.
    """
    from arbitrageai_native import _native
    from arbitrageai_native.doctor import Level, diagnose

    try:
        _native.inspect_database(arguments.database_url)  # not awaited: only the URL is read
    except ValueError as error:
        raise BadInputError(f"doctor: {error}") from None
    findings = asyncio.run(diagnose(arguments.database_url, arguments.ttl))
    if arguments.json:
        import json

        print(json.dumps({"findings": [finding.as_dict() for finding in findings]}, indent=2))
    else:
        _print_table(findings)
    return 1 if any(finding.level is Level.ERROR for finding in findings) else 0


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from arbitrageai_native.doctor import Level

    colours = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_FILE)
    table = Table("check", "", "found")
    for finding in findings:
        found = Text(finding.detail)
        if finding.mend:
            found.append(f"\n{finding.mend}", "italic")
        table.add_row(finding.check, Text(finding.level.value, colours[finding.level]), found)
    console.print(table)
    counts = [
        f"{sum(finding.level is level for finding in findings)} {level.value}"
        for level in (Level.OK, Level.WARNING, Level.ERROR)
    ]
    print(", ".join(counts))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
