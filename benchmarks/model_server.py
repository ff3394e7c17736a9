"""The server that every peer calls, as a process that ends with this one."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.unmet import Unmet

MANIFEST = Path(__file__).parent / "server" / "Cargo.toml"
_BINARIES = MANIFEST.parent / "target" / "release"


def binary(name: str) -> Path:
    """The path of a compiled program.

    Raises `Unmet` if it has not been built, or has been from other sources.
    """
    path = _BINARIES / name
    sources = MANIFEST.parent.glob("src/**/*.rs")
    if not path.exists() or path.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        raise Unmet(
            "the server is not built: "
            "run `cargo build --release --manifest-path benchmarks/server/Cargo.toml`"
        )
    return path


@contextmanager
def running(port: int = 0) -> Iterator[str]:
    """Serve while the body runs; yields `http://127.0.0.1:PORT`.

    Raises `Unmet` if the port is taken.
    """
    with subprocess.Popen(
        [binary("model-server"), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        listening = re.fullmatch(r"listening on (\d+)\n", process.stdout.readline())
        if listening is None:
            raise Unmet(f"{process.stderr.read().strip()}; choose another with --port")
        try:
            yield f"http://127.0.0.1:{listening[1]}"
        finally:
            process.terminate()
