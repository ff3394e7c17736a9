"""Looks into wheels and sdists before anyone else does.

    python distribution/check_artifacts.py FILE...

Prints a line for each file, and another for each fault; with any, the exit status is 1.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MOST_BYTES = 8_000_000
PACKAGE = "arbitrageai_native"
LICENCES = ("LICENSE", "THIRD-PARTY-LICENSES")

# What an installation of the sdist reads, and no more.
SDIST_FILES = {
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "PKG-INFO",
    "README.md",
    "THIRD-PARTY-LICENSES",
    "distribution/build_backend.py",
    "pyproject.toml",
}
SDIST_FOLDERS = ("src/", f"python/{PACKAGE}/")


@dataclass(frozen=True)
class Artifact:
    """A file that is to be published, as far as it can be judged without installing it."""

    path: Path
    names: list[str]
    metadata: str
    bill: str | None
    """The software bill of materials, where the wheel has one."""


def main(arguments: list[str]) -> int:
    """Check every file; the exit status."""
    faulty = False
    for path in map(Path, arguments):
        artifact = read_wheel(path) if path.suffix == ".whl" else read_sdist(path)
        print(f"{path.name}: {path.stat().st_size:,} bytes, {len(artifact.names)} files")
        for fault in faults(artifact):
            print(f"  {fault}")
            faulty = True
    if not arguments:
        print("no files were given", file=sys.stderr)
    return int(faulty or not arguments)


def read_wheel(path: Path) -> Artifact:
    """What is in a wheel."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        bills = [name for name in names if "/sboms/" in name]
        bill = archive.read(bills[0]).decode() if bills else None
        return Artifact(path, names, archive.read(metadata).decode(), bill)


def read_sdist(path: Path) -> Artifact:
    """What is in an sdist, without the folder that all is in."""
    with tarfile.open(path) as archive:
        names = [str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()]
        information = archive.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert information is not None
        return Artifact(path, names, information.read().decode(), None)


def faults(artifact: Artifact) -> Iterator[str]:
    """What is wrong with a file."""
    if artifact.path.stat().st_size > MOST_BYTES:
        yield f"it has more than {MOST_BYTES:,} bytes"
    for name in LICENCES:
        if f"License-File: {name}" not in artifact.metadata:
            yield f"its metadata does not name {name}"
        if not any(PurePosixPath(path).name == name for path in artifact.names):
            yield f"{name} is not in it"
    if "Requires-Python: >=3.10" not in artifact.metadata:
        yield "it does not say which Python it needs"
    yield from (faults_of_wheel if artifact.path.suffix == ".whl" else faults_of_sdist)(artifact)


def faults_of_wheel(wheel: Artifact) -> Iterator[str]:
    """What is wrong with a wheel: its name, what is in it, what it says of that."""
    if not re.search(r"-cp310-abi3-((many|musl)linux_?\d|macosx_|win_)", wheel.path.name):
        yield "its name does not promise CPython 3.10 and newer on a known platform"
    extensions = [name for name in wheel.names if re.search(r"\.(so|pyd|dylib)$", name)]
    if len(extensions) != 1 or not extensions[0].startswith(f"{PACKAGE}/_native."):
        yield f"it should have one extension, and has {extensions}"
    for name in wheel.names:
        if not name.startswith((f"{PACKAGE}/", f"{PACKAGE}-")) or name.endswith((".pyc", ".db", ".rs")):
            yield f"{name} does not belong into it"
    for name in ("__init__.py", "_native.pyi", "py.typed"):
        if f"{PACKAGE}/{name}" not in wheel.names:
            yield f"{name} is not in it"
    yield from faults_of_bill(wheel.bill)


def faults_of_bill(bill: str | None) -> Iterator[str]:
    """What is wrong with the software bill of materials: each crate has a version, a licence and a URL."""
    if bill is None:
        yield "it has no software bill of materials"
        return
    content = json.loads(bill)
    if content.get("bomFormat") != "CycloneDX":
        yield "its software bill of materials is not CycloneDX"
    components = content.get("components", [])
    if len(components) < 100:
        yield f"its software bill of materials has {len(components)} components only"
    for component in components:
        if not (component.get("version") and component.get("licenses") and component.get("purl")):
            name = component.get("name")
            yield f"its software bill of materials lacks version, licence or package URL of {name}"


def faults_of_sdist(sdist: Artifact) -> Iterator[str]:
    """What is wrong with an sdist: what a build needs, and what nobody does."""
    for name in sorted(SDIST_FILES - set(sdist.names)):
        yield f"{name} is not in it"
    for name in sdist.names:
        if name not in SDIST_FILES and not name.startswith(SDIST_FOLDERS):
            yield f"{name} does not belong into it"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
