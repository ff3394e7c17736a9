"""The subcommand `locks`: its command line, without what is heavy to import."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arbitrageai_native._command_line import Subcommands


def add_command(subcommands: Subcommands) -> None:
    """Add the subcommand's parser."""
    parser = subcommands.add_parser("locks", help="show the locks of a database, or release them")
    parser.add_argument(
        "--database-url",
        metavar="URL",
        help="the database (default: DATABASE_URL, then sqlite:///data/tasks.db)",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="print who holds what (the default)")
    watch = actions.add_parser("watch", help="the same, live, until Ctrl-C")
    watch.add_argument(
        "--every", type=float, default=1.0, metavar="SECONDS", help="how often to look (default: 1)"
    )
    release = actions.add_parser("release", help="release one lock, whoever holds it")
    release.add_argument("key", help="as listed: bid:lock:MARKETPLACE:POSTING, or just MARKETPLACE:POSTING")
    cleanup = actions.add_parser("cleanup", help="release every lock, or only the expired ones' rows")
    cleanup.add_argument("--expired", action="store_true", help="only rows that have expired")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; the exit status is that of `_locks_report.run`."""
    from arbitrageai_native import _locks_report

    return _locks_report.run(arguments)
