"""Ports that no two processes of a test run get, although nobody listens on them yet."""

from __future__ import annotations

import fcntl
import os
import random
import socket
from pathlib import Path

# Below the ports that the systems give to outgoing connections.
_PORTS = range(20_000, 32_000)

# Not in the folder for temporary files, which is another one in some processes.
_SHARED = Path(f"/tmp/arbitrageai-test-ports-{os.getuid()}")

_given: set[int] = set()


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on, and that is kept for this process.

    Raises:
        RuntimeError: all ports are taken.
    """
    first = random.randrange(len(_PORTS))
    for port in (*_PORTS[first:], *_PORTS[:first]):
        if port not in _given and _is_free(port) and _keep(port):
            _given.add(port)
            return port
    raise RuntimeError(f"all ports from {_PORTS.start} to {_PORTS.stop - 1} are taken")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _keep(port: int) -> bool:
    """Lock the port's byte of a file that all processes share; the lock ends with this process."""
    global _locks, _locks_of
    if _locks_of != os.getpid():
        _locks = os.open(_SHARED, os.O_RDWR | os.O_CREAT, 0o666)
        _locks_of = os.getpid()
    try:
        fcntl.lockf(_locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


_locks = -1
_locks_of = 0
