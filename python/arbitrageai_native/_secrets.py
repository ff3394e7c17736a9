"""Keeps what stands before an `@` of a URL out of messages that are not our own."""

from __future__ import annotations

import re

__all__ = ["without_credentials"]

_CREDENTIALS = re.compile(r"(?<=://)[^\s'\"]*@")


def without_credentials(text: str) -> str:
    """The text without the users and passwords of its URLs."""
    return _CREDENTIALS.sub("***@", text) if "@" in text else text
