"""The subcommand `run`: starts a command in which the drop-in modules are installed.

The command takes this process's place, so that signals and its exit status are its own. The drop-in modules
are passed on in `PYTHONPATH`, and so reach every Python process below it: server workers, pools, scripts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

from arbitrageai_native.cli.main import BadInputError, Subcommands
from arbitrageai_native.environment import with_python_path
from arbitrageai_native.llm.unblock import check_extra

SITE_FOLDER: Final = Path(__file__).parent / "run_site"
UNBLOCK: Final = SITE_FOLDER / "unblock"
"""No folder: in `PYTHONPATH` it tells `sitecustomize` to unblock."""

DESCRIPTION: Final = """\
Run COMMAND with this package's modules in the place of the originals (src.llm_service, ...), in COMMAND
and in every Python process that it starts. It is passed on in PYTHONPATH, which `python -I` and `python -E`
do not read."""


def add_command(subcommands: Subcommands) -> None:
    """Add the subcommand's parser."""
    parser = subcommands.add_parser(
        "run",
        help="run a command with this package's modules in the place of the originals",
        description=DESCRIPTION,
        usage="%(prog)s [-h] [--unblock] -- COMMAND ...",
    )
    parser.add_argument(
        "--unblock",
        action="store_true",
        help="let complete() and the like, called in a task, suspend it: the event loop goes on",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Become the command.

    Raises:
        BadInputError: there is no command, or it can't be run.
    """
    command: list[str] = arguments.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise BadInputError("run: COMMAND is missing, as in: run -- uvicorn app:app")
    folders = [SITE_FOLDER]
    if arguments.unblock:
        try:
            check_extra()
        except ImportError as error:
            raise BadInputError(f"run: {error}") from None
        folders.append(UNBLOCK)
    try:
        os.execvpe(command[0], command, with_python_path(*map(str, folders)))
    except OSError as error:
        raise BadInputError(f"run: {command[0]!r} can't be run: {error.strerror}") from None
