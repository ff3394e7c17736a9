"""Writes THIRD-PARTY-LICENSES: whose work is compiled into the wheels, and under which licences.

    python distribution/licences.py [--check]

`--check` writes nothing, and fails where the file is not what would be written. The texts come from the
crates themselves; nothing but cargo is needed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FILE = ROOT / "THIRD-PARTY-LICENSES"

# What wheels are made for: the same as in .github/workflows/release.yml.
TARGETS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-musl",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-msvc",
)

LICENCE_FILE = re.compile(
    r"(licen[cs]e|copying|notice|unlicense|copyright)\b.*|licen[cs]e[-_].*", re.IGNORECASE
)
SHARED_LICENCE = "Apache-2.0"

HEAD = f"""\
The wheels of arbitrageai-native contain compiled code of the crates below, for one platform or another.
Besides:

- SQLite (in libsqlite3-sys), which is in the public domain;
- the Rust standard library, under MIT OR Apache-2.0, and what it is linked with: LLVM's libunwind and
  compiler-rt, under Apache-2.0 WITH LLVM-exception.

Where a crate may be had under one licence OR another, it is used under either. A crate that brings no text
of its own is under {SHARED_LICENCE}.
"""

Package = dict[str, Any]


def main() -> int:
    """Write or check the file; the exit status."""
    parser = argparse.ArgumentParser(description="Whose work is compiled into the wheels.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is out of date")
    arguments = parser.parse_args()
    current = document(packages())
    if not arguments.check:
        FILE.write_text(current, "utf-8")
    elif not FILE.exists() or FILE.read_text("utf-8") != current:
        print(f"{FILE.name} is out of date: run python distribution/licences.py", file=sys.stderr)
        return 1
    return 0


def packages() -> list[Package]:
    """Every crate that is linked into the extension on any platform, by name and version."""
    found: dict[str, Package] = {}
    for target in TARGETS:
        found.update(linked(metadata(target)))
    return sorted(found.values(), key=lambda package: (package["name"], package["version"]))


def metadata(target: str) -> dict[str, Any]:
    """What cargo knows of the crates for one platform."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    known: dict[str, Any] = json.loads(output)
    return known


def linked(known: dict[str, Any]) -> dict[str, Package]:
    """The crates that the extension is linked with: not those that only build it or only test it."""
    by_id: dict[str, Package] = {package["id"]: package for package in known["packages"]}
    uses = {
        node["id"]: [
            dependency["pkg"]
            for dependency in node["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
        ]
        for node in known["resolve"]["nodes"]
    }
    reached: dict[str, Package] = {}
    waiting = list(uses[known["resolve"]["root"]])
    while waiting:
        name = waiting.pop()
        if name in reached or runs_in_the_compiler(by_id[name]):
            continue
        reached[name] = by_id[name]
        waiting.extend(uses[name])
    return reached


def runs_in_the_compiler(package: Package) -> bool:
    return any("proc-macro" in target["kind"] for target in package["targets"])


def texts(package: Package) -> Iterator[str]:
    """The licences that a crate brings, those of what it contains among them."""
    folder = Path(package["manifest_path"]).parent
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and LICENCE_FILE.fullmatch(path.name) and "tests" not in inside.parts:
            yield path.read_text("utf-8", errors="replace").strip()


def document(crates: list[Package]) -> str:
    """The whole file: the crates, then each text with those that it is the licence of."""
    owners: dict[str, list[str]] = defaultdict(list)
    wordings: dict[str, str] = {}
    for crate in crates:
        for text in own_texts(crate):
            wording = " ".join(text.split())  # the same text is broken into lines in many ways
            wordings.setdefault(wording, text)
            if title(crate) not in owners[wording]:
                owners[wording].append(title(crate))
    listing = "".join(f"{title(crate)}: {crate['license']}, {source(crate)}\n" for crate in crates)
    return "\n".join([HEAD, listing, *sections(owners, wordings)])


def own_texts(crate: Package) -> list[str]:
    found = list(texts(crate))
    if not found and SHARED_LICENCE not in crate["license"]:
        raise SystemExit(f"{title(crate)} is under {crate['license']}, but brings no text of it")
    return found


def sections(owners: Mapping[str, list[str]], wordings: Mapping[str, str]) -> Iterator[str]:
    for wording, names in owners.items():
        yield f"{'=' * 100}\n{', '.join(names)}\n{'-' * 100}\n{wordings[wording]}\n"


def title(package: Package) -> str:
    return f"{package['name']} {package['version']}"


def source(package: Package) -> str:
    return package["repository"] or f"https://crates.io/crates/{package['name']}"


if __name__ == "__main__":
    sys.exit(main())
