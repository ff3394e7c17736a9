"""The subcommand `doctor`: whether everything that the package needs is there."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING, Final

from arbitrageai_native import defaults
from arbitrageai_native._safe_text import printable
from arbitrageai_native.cli.display import Line, print_lines
from arbitrageai_native.cli.main import BadInputError, Subcommands, seconds

if TYPE_CHECKING:
    from arbitrageai_native.doctor import Finding

DESCRIPTION: Final = """\
Checks the set-up: database, Redis, model servers, certificates, proxies,
limits. Prints a line for each finding, and the fix below each warning and
error. Changes nothing and uses no tokens."""

EXAMPLES: Final = """\
examples:
  %(prog)s
  %(prog)s --database-url postgresql://user@host/db --ttl 60
  %(prog)s --json

exit status: 0; 1 if anything is an error; 2 for bad input; 130 after Ctrl-C"""


def add_command(subcommands: Subcommands) -> None:
    """Add the subcommand's parser."""
    parser = subcommands.add_parser(
        "doctor",
        help="check the set-up: database, Redis, model servers, certificates, limits",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help=f"the locks' database (default: DATABASE_URL, then {defaults.LOCK_DATABASE_URL})",
    )
    parser.add_argument(
        "--ttl",
        type=seconds,
        default=defaults.LOCK_TTL,
        metavar="SECONDS",
        help="the locks' time to live, against which clocks are judged (default: %(default)s)",
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
        _print_findings(findings)
    return 1 if any(finding.level is Level.ERROR for finding in findings) else 0


def _print_findings(findings: list[Finding]) -> None:
    """Print a whole line for each finding, since the user may have to copy a path or a URL from it."""
    from arbitrageai_native.doctor import Level

    colours = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}
    width = max(len(finding.check) for finding in findings)
    indentation = " " * (width + 2 + len("warning") + 2)
    lines: list[Line] = []
    for finding in findings:
        level = (f"{finding.level.value:<7}", colours[finding.level])
        lines.append([(f"{finding.check:<{width}}  ", ""), level, (f"  {printable(finding.detail)}", "")])
        if finding.fix:
            lines.append([(indentation, ""), (printable(finding.fix), "italic")])
    counts = [
        f"{sum(finding.level is level for finding in findings)} {level.value}"
        for level in (Level.OK, Level.WARNING, Level.ERROR)
    ]
    print_lines([*lines, [(", ".join(counts), "")]])
