"""Text of strangers (posting ids, holders, file names, what servers said) in logs and on terminals.

`printable` writes out what a terminal obeys and what ends a line of a log. Attributes of exceptions and JSON
keep the text as it is.
"""

from __future__ import annotations

import logging

from arbitrageai_native import _native

__all__ = ["in_one_line", "printable"]


def printable(text: object) -> str:
    r"""The text with control characters written out (`\n`, `\x1b`, `\u202e`); letters stay as they are."""
    # Halves of surrogate pairs, as in file names that are no UTF-8, can't be printed either.
    return _native.printable(str(text).encode("utf-8", "backslashreplace").decode())


def in_one_line(record: logging.LogRecord) -> bool:
    """A filter of loggers: no argument of a line can end it, or begin another."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            printable(argument) if isinstance(argument, str | BaseException) else argument
            for argument in record.args
        )
    return True
