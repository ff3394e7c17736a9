"""Escapes untrusted text (posting ids, holders, file names, messages of servers) for logs and terminals.

`printable` escapes the characters that control a terminal or end a line of a log. Attributes of exceptions
and JSON keep the text unchanged.
"""

from __future__ import annotations

import logging

from arbitrageai_native import _native

__all__ = ["in_one_line", "printable"]


def printable(text: object) -> str:
    r"""Return the text with its control characters escaped (`\n`, `\x1b`, `\u202e`); letters stay as is."""
    # Lone surrogates, as in file names that are not UTF-8, can't be printed either.
    return _native.printable(str(text).encode("utf-8", "backslashreplace").decode())


def in_one_line(record: logging.LogRecord) -> bool:
    """Filter of a logger that escapes the arguments of a record, so that none can forge a further line."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            printable(argument) if isinstance(argument, str | BaseException) else argument
            for argument in record.args
        )
    return True
