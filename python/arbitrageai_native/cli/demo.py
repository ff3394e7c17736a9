"""The subcommand `demo`: its command line, without what is heavy to import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from arbitrageai_native import defaults
from arbitrageai_native.cli.main import Subcommands

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
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "--postings",
        metavar="FILE",
        type=Path,
        help="a JSON list of {marketplace, id, title, description}, all text (default: a sample)",
    )
    add(
        "--scanners",
        metavar="N",
        type=int,
        default=defaults.DEMO_SCANNERS,
        help="how many scanner processes (default: %(default)s)",
    )
    add("--base-url", metavar="URL", help="an OpenAI-compatible server to ask instead of the demo's own")
    add(
        "--api-key",
        metavar="KEY",
        help="its key (default: the environment's API_KEY, which shows in no process list)",
    )
    add(
        "--model",
        metavar="NAME",
        default=defaults.CLOUD_MODEL,
        help="the model's name (default: %(default)s)",
    )
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
        default=defaults.DEMO_STEALTH_RANGE,
        help="seconds to wait before each call, drawn at random (default: {} {})".format(
            *defaults.DEMO_STEALTH_RANGE
        ),
    )
    add(
        "--lock-ttl",
        metavar="SECONDS",
        type=float,
        default=defaults.DEMO_LOCK_TTL,
        help="after how long a dead scanner's locks are free again (default: %(default)g)",
    )
    add("--json", action="store_true", help="print nothing but the outcome, as a JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and return the exit status.

    Raises:
        BadInputError: an option's value cannot be used.
    """
    from arbitrageai_native.demo import command

    return command.run(arguments)
