"""Frames over a pipe: each is its length, then its bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

LENGTH: Final = struct.Struct("!Q")


def encode_frame(data: bytes) -> bytes:
    """Put the length before the bytes."""
    return LENGTH.pack(len(data)) + data


def read_frame(read: Callable[[int], bytes]) -> bytes | None:
    """Return the next frame, or None if the pipe ends first; `read` returns at most what it is asked for."""
    head = _read_exactly(read, LENGTH.size)
    return None if head is None else _read_exactly(read, LENGTH.unpack(head)[0])


def _read_exactly(read: Callable[[int], bytes], count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        piece = read(count - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)
