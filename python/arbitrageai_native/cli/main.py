"""The command line: finds the subcommands, parses, turns what goes wrong into one line and an exit status.

A subcommand is a module named in `COMMAND_MODULES`. It has `add_command(subcommands)`, which adds its parser
and sets its `run` default: a function that takes the parsed arguments and returns the exit status. These
modules are imported whichever command is called, so they import what is heavy only in `run`.
"""

from __future__ import annotations

import argparse
import importlib
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

Subcommands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

COMMAND_MODULES: Final = (
    "arbitrageai_native.cli.demo",
    "arbitrageai_native.cli.locks",
    "arbitrageai_native.cli.run",
    "arbitrageai_native.cli.audit",
    "arbitrageai_native.cli.doctor",
)

EXIT_BAD_INPUT: Final = 2
EXIT_OUTPUT_FAILED: Final = 74  # EX_IOERR of sysexits.h
EXIT_INTERRUPTED: Final = 130
EXIT_BROKEN_PIPE: Final = 141


class BadInputError(Exception):
    """Something the user gave is not usable; the message says what, in one line."""


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line, and does not hide that its help can't be written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def print_help(self, file: Any = None) -> None:
        (file or sys.stdout).write(self.format_help())

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_BAD_INPUT, f"{self.prog}: {message} (--help lists the options)\n")


class _ShowVersion(argparse.Action):
    """The option `--version`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from arbitrageai_native import __version__

        print(f"arbitrageai-native {__version__}")
        parser.exit()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    2: bad input. 74: the output can't be written. 130: Ctrl-C. 141: whoever read the output has gone.
    """
    _prepare_streams()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, since what fails at exit is reported as a traceback
    except BadInputError as error:
        return _complain(error, EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        # What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return EXIT_BROKEN_PIPE
        return _complain(error, EXIT_OUTPUT_FAILED)


def _prepare_streams() -> None:
    """Let what is printed to a closed stream vanish, and what a locale lacks appear as an escape."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: Sequence[str] | None) -> int:
    parser = _Parser(
        prog=_program_name(), description="LLM calls and database locks that never block the event loop."
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version and exit")
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in COMMAND_MODULES:
        importlib.import_module(module).add_command(subcommands)
    parsed = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    return run(parsed)


def _complain(error: Exception, status: int) -> int:
    from arbitrageai_native._safe_text import printable

    with suppress(OSError):  # nobody reads it
        print(f"{_program_name()}: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return status


def seconds(text: str) -> float:
    """Parse the value of an option that has to be a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _program_name() -> str:
    name = Path(sys.argv[0]).name
    return "python -m arbitrageai_native" if name in ("__main__.py", "-m", "") else name
