"""The subcommand `locks`: its command line, without what is heavy to import."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from arbitrageai_native._command_line import seconds

if TYPE_CHECKING:
    from arbitrageai_native._command_line import Subcommands

DESCRIPTION: Final = """\
Shows the locks of a database, or releases them. `list` and `watch` change nothing, and no action makes a
SQLite file. `cleanup` deletes expired rows alone; `cleanup --all` asks before it releases what is held."""

EXAMPLES: Final = """\
examples:
  %(prog)s                                      who holds what
  %(prog)s list --json --database-url sqlite:///locks.db
  %(prog)s release upwork:job-17                whoever holds it
  %(prog)s cleanup --all --yes                  every lock, without a question

exit status: 0; 1 if there is no such lock, or the question was answered with no; 2 for bad input, or if the
database can't be used; 130 after Ctrl-C"""


def add_command(subcommands: Subcommands) -> None:
    """Add the subcommand's parser."""
    parser = subcommands.add_parser(
        "locks",
        help="show the locks of a database, or release them",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_database(parser, default=None)
    parser.set_defaults(run=run, json=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    # Without a default of its own, an action leaves alone what was given before it.
    database = argparse.ArgumentParser(add_help=False)
    _add_database(database, default=argparse.SUPPRESS)

    listing = actions.add_parser("list", parents=[database], help="print who holds what (the default)")
    listing.add_argument(
        "--json", action="store_true", help='print {"database": …, "locks": […]}, unknown times as null'
    )
    watch = actions.add_parser("watch", parents=[database], help="the same, live, until Ctrl-C")
    watch.add_argument(
        "--every", type=seconds, default=1.0, metavar="SECONDS", help="how often to look (default: 1)"
    )
    release = actions.add_parser("release", parents=[database], help="release one lock, whoever holds it")
    release.add_argument("key", help="as listed: bid:lock:MARKETPLACE:POSTING, or just MARKETPLACE:POSTING")
    cleanup = actions.add_parser(
        "cleanup", parents=[database], help="delete expired rows; with --all release every lock"
    )
    which = cleanup.add_mutually_exclusive_group()
    which.add_argument("--expired", action="store_true", help="only rows that have expired (the default)")
    which.add_argument(
        "--all", action="store_true", help="every row, whoever holds it; asks first, on a terminal"
    )
    cleanup.add_argument("--yes", action="store_true", help="do not ask")


def _add_database(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--database-url",
        metavar="URL",
        default=default,
        help="the database (default: DATABASE_URL, then sqlite:///data/tasks.db)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; the exit status is that of `_locks_report.run`."""
    from arbitrageai_native import _locks_report

    return _locks_report.run(arguments)
