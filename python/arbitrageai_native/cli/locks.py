"""The subcommand `locks`: its command line, without what is heavy to import."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from arbitrageai_native.cli.main import seconds

if TYPE_CHECKING:
    from arbitrageai_native.cli.main import Subcommands

DESCRIPTION: Final = """\
Shows the locks of a database, or releases them. `list` and `watch` change nothing, and no action creates a
SQLite file. `cleanup` deletes only expired rows; `cleanup --all` asks, and then deletes every row."""

EXAMPLES: Final = """\
examples:
  %(prog)s                                      list the locks and their holders
  %(prog)s list --json --database-url sqlite:///locks.db
  %(prog)s release upwork:job-17                release a lock of any holder
  %(prog)s cleanup --all --yes                  release every lock, without a question

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
    # The option of an action has no default, which would replace a value given before the action.
    database = argparse.ArgumentParser(add_help=False)
    _add_database(database, default=argparse.SUPPRESS)

    listing = actions.add_parser(
        "list", parents=[database], help="print the locks and their holders (the default)"
    )
    listing.add_argument(
        "--json", action="store_true", help='print {"database": …, "locks": […]}, unknown times as null'
    )
    watch = actions.add_parser(
        "watch", parents=[database], help="print the list again and again, until Ctrl-C"
    )
    watch.add_argument(
        "--every",
        type=seconds,
        default=1.0,
        metavar="SECONDS",
        help="the time between two lists (default: 1)",
    )
    release = actions.add_parser("release", parents=[database], help="release one lock of any holder")
    release.add_argument("key", help="as listed: bid:lock:MARKETPLACE:POSTING, or just MARKETPLACE:POSTING")
    cleanup = actions.add_parser(
        "cleanup", parents=[database], help="delete expired rows; with --all release every lock"
    )
    which = cleanup.add_mutually_exclusive_group()
    which.add_argument("--expired", action="store_true", help="only rows that have expired (the default)")
    which.add_argument(
        "--all", action="store_true", help="every row, held locks included; asks first, on a terminal"
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
    """Do what the command line says; the exit status is that of `locks_report.run`."""
    from arbitrageai_native.cli import locks_report

    return locks_report.run(arguments)
