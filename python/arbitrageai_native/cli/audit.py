"""The subcommand `audit`: what blocks the event loop in a tree of sources."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from arbitrageai_native.cli.display import Line, print_lines
from arbitrageai_native.cli.main import BadInputError, Subcommands

if TYPE_CHECKING:
    from arbitrageai_native.audit import Report

DESCRIPTION: Final = """\
Finds calls that block the event loop in a source tree, without running it.
Prints a line for each: path:line:column: FUNCTION blocks in CALL: REPLACEMENT.
`# noqa` suppresses the findings of its line."""

EXAMPLES: Final = """\
examples:
  %(prog)s src
  %(prog)s --unblock src           before `run --unblock`
  %(prog)s --fail-on-findings src  in CI
  %(prog)s --sarif src > audit.sarif

exit status: 0; 1 for findings with --fail-on-findings; 2 for bad input, or
without ruff; 130 after Ctrl-C"""


def add_command(subcommands: Subcommands) -> None:
    """Add the subcommand's parser."""
    parser = subcommands.add_parser(
        "audit",
        help="find calls that block the event loop in a source tree",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file or a folder")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help='print {"findings": […], "errors": […]}')
    form.add_argument("--sarif", action="store_true", help="print SARIF 2.1.0")
    parser.add_argument(
        "--unblock",
        action="store_true",
        help="print what is held across a service call while other tasks run: locks of threads, sessions, "
        "generators",
    )
    parser.add_argument("--fail-on-findings", action="store_true", help="exit with 1 if anything is found")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Audit, and print what was found.

    Raises:
        BadInputError: a path does not exist, or ruff is missing.
    """
    from arbitrageai_native.audit import audit

    try:
        report = audit(arguments.paths, unblock=arguments.unblock)
    except (FileNotFoundError, RuntimeError) as error:
        raise BadInputError(f"audit: {error}") from None
    if arguments.json:
        print(report.as_json())
    elif arguments.sarif:
        print(report.as_sarif())
    else:
        _print_lines(report, arguments.unblock)
    return 1 if report.findings and arguments.fail_on_findings else 0


def _print_lines(report: Report, unblock: bool) -> None:
    """Print a whole line for each finding, since editors and terminals parse the place in it."""
    lines: list[Line] = [
        [(finding.place, "cyan"), (f": {finding.message}", "")] for finding in report.findings
    ]
    if unblock:
        held = len(report.findings)
        summary = f"{held} place{'s' * (held != 1)} in {report.files} files where tasks may interleave"
    else:
        blocking = len({(finding.file, finding.function) for finding in report.findings})
        summary = f"{blocking} of {report.coroutines} coroutines in {report.files} files block"
    print_lines([*lines, [(summary, "bold")]])
    for error in report.errors:
        print(f"audit: {error}", file=sys.stderr)
