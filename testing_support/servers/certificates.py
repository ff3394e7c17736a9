"""A private certificate authority, by the `openssl` command."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .system import from_package


class Authority:
    """Signs certificates for servers; its own is `certificate`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._program = from_package("openssl", "/usr/bin/openssl")
        self._folder = folder
        self.certificate = folder / f"{name}.crt"
        self._key = folder / f"{name}.key"
        self._run(
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
            *self._new_key(self._key),
            "-out",
            self.certificate,
        )

    def issue(self, host: str) -> tuple[Path, Path]:
        """A certificate for a host, and its key."""
        certificate, key, request = (self._folder / f"{host}.{kind}" for kind in ("crt", "key", "csr"))
        self._run("req", "-subj", f"/CN={host}", *self._new_key(key), "-out", request)
        names = self._folder / f"{host}.names"
        names.write_text(f"subjectAltName = DNS:{host}\n")
        self._run(
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            request,
            "-CA",
            self.certificate,
            "-CAkey",
            self._key,
            "-CAcreateserial",
            "-extfile",
            names,
            "-out",
            certificate,
        )
        return certificate, key

    @staticmethod
    def _new_key(path: Path) -> list[str | Path]:
        return ["-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", path]

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run([self._program, *arguments], check=True, capture_output=True)
