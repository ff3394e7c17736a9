"""Makes texts safe to show and to log: control characters are escaped, credentials and keys are left out.

Untrusted texts are posting ids, holders, file names, and messages of servers. `printable` escapes the
characters that control a terminal or end a line of a log. Attributes of exceptions and JSON keep the text
unchanged.
"""

from __future__ import annotations

import logging
import re

from arbitrageai_native import _native


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


def without_secrets(url: str) -> str:
    """Return the URL without user, password and query, which may contain keys."""
    scheme, separator, rest = url.partition("://")
    # A password may contain a character that ends the host, so everything before the last @ is cut.
    shown = rest.rpartition("@")[2]
    return f"{scheme}{separator}{shown.partition('?')[0].partition('#')[0]}"


def without_credentials(text: str) -> str:
    """Return a text of others, without the users and passwords of the URLs in it."""
    return re.sub(r"(?<=://)[^\s'\"]*@", "***@", text)


def check_text(name: str, value: object) -> None:
    """Refuse a string that UTF-8 cannot express; Python's own error would quote the whole value.

    A byte of the environment that is not UTF-8 becomes half of a surrogate pair in `os.environ`.

    Raises:
        ValueError: `value` contains half of a surrogate pair. The message does not quote it.
    """
    found = re.search(r"[\ud800-\udfff]", value) if isinstance(value, str) else None
    if found is not None:
        position = found.start()
        raise ValueError(f"{name} is not valid Unicode: half of a surrogate pair at character {position}")
