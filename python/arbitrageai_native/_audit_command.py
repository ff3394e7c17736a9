"""The subcommand `audit`: what blocks the event loop in a tree of sources."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from arbitrageai_native._command_line import BadInputError

if TYPE_CHECKING:
    from arbitrageai_native._command_line import Subcommands
    from arbitrageai_native.audit import Report

_WIDTH_OF_A_FILE = 200


def add_command(subcommands: Subcommands) -> None:
    """Add the subcommand's parser."""
    parser = subcommands.add_parser("audit", help="find what blocks the event loop in a tree of sources")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file or a folder")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help='print {"findings": […], "errors": […]}')
    form.add_argument("--sarif", action="store_true", help="print SARIF 2.1.0")
    parser.add_argument("--fail-on-findings", action="store_true", help="exit with 1 if anything is found")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Audit, and print what was found.

    Raises:
        BadInputError: a path does not exist, or ruff is missing.
    """
    from arbitrageai_native.audit import audit

    try:
        report = audit(arguments.paths)
    except (FileNotFoundError, RuntimeError) as error:
        raise BadInputError(f"audit: {error}") from None
    if arguments.json:
        print(report.as_json())
    elif arguments.sarif:
        print(report.as_sarif())
    else:
        _print_table(report)
    return 1 if report.findings and arguments.fail_on_findings else 0


def _print_table(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_FILE)
    if report.findings:
        table = Table("where", "in", "blocks", "instead")
        for finding in report.findings:
            where = f"{finding.file}:{finding.line}"
            table.add_row(*map(Text, (where, finding.function, finding.call, finding.instead)))
        console.print(table)
    blocking = len({(finding.file, finding.function) for finding in report.findings})
    print(f"{blocking} of {report.coroutines} coroutines in {report.files} files block")
    for error in report.errors:
        print(f"audit: {error.file}: {error.message}", file=sys.stderr)
