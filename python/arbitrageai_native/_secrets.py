"""Removes users and passwords from URLs in messages of other libraries."""

from __future__ import annotations

import re

__all__ = ["without_credentials"]

_CREDENTIALS = re.compile(r"(?<=://)[^\s'\"]*@")


def without_credentials(text: str) -> str:
    """Return the text with `***` in place of the users and passwords of its URLs."""
    return _CREDENTIALS.sub("***@", text) if "@" in text else text
