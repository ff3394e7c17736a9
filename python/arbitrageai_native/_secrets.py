"""Keeps user names, passwords and keys that are in URLs out of texts that people read."""

from __future__ import annotations

__all__ = ["check_text", "without_credentials", "without_secrets"]


def without_secrets(url: str) -> str:
    """Return the URL without user, password and query, which may contain keys."""
    scheme, separator, rest = url.partition("://")
    # A password may contain a character that ends the host, so everything before the last @ is cut.
    shown = rest.rpartition("@")[2]
    return f"{scheme}{separator}{shown.partition('?')[0].partition('#')[0]}"


def without_credentials(text: str) -> str:
    """Return a text of others, without the users and passwords of the URLs in it."""
    if "@" not in text:
        return text
    import re  # only errors need it

    return re.sub(r"(?<=://)[^\s'\"]*@", "***@", text)


def check_text(name: str, value: object) -> None:
    """Refuse a string that UTF-8 cannot express; Python's own error would quote the whole value.

    A byte of the environment that is not UTF-8 becomes half of a surrogate pair in `os.environ`.

    Raises:
        ValueError: `value` contains half of a surrogate pair. The message does not quote it.
    """
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            position = error.start
        else:
            return
        raise ValueError(f"{name} is not valid Unicode: half of a surrogate pair at character {position}")
