"""What is published: sources that build or say why not, licences of all inside, workflows without a fault.

The artifacts themselves are looked into by `distribution/check_artifacts.py`, whose verdicts are tested here.
"""

import io
import json
import os
import re
import stat
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DISTRIBUTION = ROOT / "distribution"
TARGET = re.compile(r"\b(?:x86_64|aarch64)-(?:unknown-linux-(?:gnu|musl)|apple-darwin|pc-windows-msvc)\b")


def run(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


# --- what is built with ---

# maturin itself is not asked: what comes before it is.
BACKEND = """
import sys, types
maturin = types.ModuleType("maturin")
for hook in ("build_", "get_requires_for_build_", "prepare_metadata_for_build_"):
    for kind in ("wheel", "sdist", "editable"):
        setattr(maturin, hook + kind, lambda *_: ["asked maturin"])
sys.modules["maturin"] = maturin
sys.path.insert(0, "distribution")
{pretence}
import build_backend
print(build_backend.get_requires_for_build_{kind}())
"""


def ask_backend(
    pretence: str = "", kind: str = "wheel", **environment: str
) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-c", BACKEND.format(pretence=pretence, kind=kind), **environment)


def compiler(folder: Path, says: str) -> str:
    """A `rustc` that says this of itself."""
    program = folder / "rustc"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


@pytest.mark.parametrize("kind", ["wheel", "editable"])
@pytest.mark.parametrize("version", ["1.63.0", "1.93.1"])
def test_a_rust_that_is_too_old_is_refused_in_one_line(tmp_path: Path, kind: str, version: str) -> None:
    ended = ask_backend(kind=kind, RUSTC=compiler(tmp_path, f"rustc {version} (abcdef 2024-01-01)"))

    (needed,) = re.findall(r'^rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"arbitrageai-native can't be built here: it needs Rust {needed} or newer, and this is"
        f" Rust {version}; `rustup update` brings a newer one\n"
    )


@pytest.mark.parametrize(
    "says", ["rustc 1.94.0", "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)", "rustc 2.0.0", "?"]
)
def test_a_rust_that_is_new_enough_or_unknown_is_maturins_business(tmp_path: Path, says: str) -> None:
    ended = ask_backend(RUSTC=compiler(tmp_path, says))

    assert (ended.stdout, ended.stderr) == ("['asked maturin']\n", "")


def test_a_missing_rust_is_maturins_business() -> None:
    assert ask_backend(RUSTC="/nonexistent/rustc").stdout == "['asked maturin']\n"


def test_a_python_that_is_too_old_is_refused_in_one_line() -> None:
    ended = ask_backend("sys.version_info = (3, 9, 18)")

    assert ended.stderr == (
        "arbitrageai-native can't be built here: it needs Python 3.10 or newer, and this is Python 3.9.18\n"
    )


def test_a_free_threaded_python_is_refused_in_one_line() -> None:
    ended = ask_backend("import sysconfig; sysconfig.get_config_var = {'Py_GIL_DISABLED': 1}.get")

    version = ".".join(map(str, sys.version_info[:3]))
    assert ended.stderr == (
        "arbitrageai-native can't be built here: it needs a Python with the GIL, and this is"
        f" free-threaded Python {version}\n"
    )


def test_the_extension_is_made_for_every_python_from_3_10_on() -> None:
    import arbitrageai_native._native as native

    assert native.__file__ is not None
    assert native.__file__.endswith((".abi3.so", ".pyd"))


# --- what is inside ---


def test_the_licences_are_those_of_the_crates_of_today() -> None:
    ended = run(sys.executable, DISTRIBUTION / "licences.py", "--check")

    assert ended.returncode == 0, ended.stderr


def test_every_crate_of_the_extension_is_named_with_its_licence() -> None:
    licences = (ROOT / "THIRD-PARTY-LICENSES").read_text("utf-8")
    known = json.loads(run("cargo", "metadata", "--format-version", "1", "--locked", "--no-deps").stdout)
    (crate,) = known["packages"]
    linked = {
        dependency["name"]
        for dependency in crate["dependencies"]
        if dependency["kind"] is None  # neither for tests nor for building
    }

    assert {"pyo3", "rusqlite", "rustix", "tokio"} <= linked
    assert [name for name in linked if not re.search(rf"^{name} [\d.]+: \S", licences, re.MULTILINE)] == []


def test_platforms_are_the_same_wherever_they_are_listed() -> None:
    licences = set(TARGET.findall((DISTRIBUTION / "licences.py").read_text()))

    assert len(licences) == 7
    assert set(TARGET.findall((ROOT / "deny.toml").read_text())) == licences
    assert set(TARGET.findall((ROOT / ".github/workflows/release.yml").read_text())) == licences


# --- how artifacts are judged ---

METADATA = "Requires-Python: >=3.10\nLicense-File: LICENSE\nLicense-File: THIRD-PARTY-LICENSES\n"
COMPONENT = {
    "name": "tokio",
    "version": "1.54.1",
    "licenses": [{"expression": "MIT"}],
    "purl": "pkg:cargo/tokio@1.54.1",
}
BILL = {"bomFormat": "CycloneDX", "components": [COMPONENT] * 100}
DIST_INFO = "arbitrageai_native-0.1.0.dist-info"
WHEEL = {
    "arbitrageai_native/__init__.py": "",
    "arbitrageai_native/_native.abi3.so": "",
    "arbitrageai_native/_native.pyi": "",
    "arbitrageai_native/py.typed": "",
    f"{DIST_INFO}/METADATA": METADATA,
    f"{DIST_INFO}/licenses/LICENSE": "",
    f"{DIST_INFO}/licenses/THIRD-PARTY-LICENSES": "",
    f"{DIST_INFO}/sboms/arbitrageai-native.cyclonedx.json": json.dumps(BILL),
}
WHEEL_NAME = "arbitrageai_native-0.1.0-cp310-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.whl"
SDIST = {
    "Cargo.lock": "",
    "Cargo.toml": "",
    "LICENSE": "",
    "PKG-INFO": METADATA,
    "README.md": "",
    "THIRD-PARTY-LICENSES": "",
    "distribution/build_backend.py": "",
    "pyproject.toml": "",
    "python/arbitrageai_native/__init__.py": "",
    "src/lib.rs": "",
}


def judge_wheel(
    folder: Path, files: dict[str, str], name: str = WHEEL_NAME
) -> subprocess.CompletedProcess[str]:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return run(sys.executable, DISTRIBUTION / "check_artifacts.py", folder / name)


def judge_sdist(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    with tarfile.open(folder / "arbitrageai_native-0.1.0.tar.gz", "w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(f"arbitrageai_native-0.1.0/{path}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return run(
        sys.executable, DISTRIBUTION / "check_artifacts.py", folder / "arbitrageai_native-0.1.0.tar.gz"
    )


def test_artifacts_as_they_should_be_pass(tmp_path: Path) -> None:
    assert judge_wheel(tmp_path, WHEEL).returncode == 0
    assert judge_sdist(tmp_path, SDIST).returncode == 0


@pytest.mark.parametrize("missing", [name for name in WHEEL if not name.endswith("METADATA")])
def test_a_wheel_that_lacks_something_is_refused(tmp_path: Path, missing: str) -> None:
    ended = judge_wheel(tmp_path, {name: content for name, content in WHEEL.items() if name != missing})

    assert ended.returncode == 1
    assert len(ended.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tests/test_bridge.py": ""}, "does not belong into it"),
        ({"arbitrageai_native/__pycache__/a.pyc": ""}, "does not belong into it"),
        ({f"{DIST_INFO}/METADATA": METADATA.replace(">=3.10", ">=3.8")}, "which Python it needs"),
        (
            {f"{DIST_INFO}/METADATA": METADATA.replace("THIRD", "FOURTH")},
            "does not name THIRD-PARTY-LICENSES",
        ),
        (
            {f"{DIST_INFO}/sboms/arbitrageai-native.cyclonedx.json": '{"bomFormat": "CycloneDX"}'},
            "0 components",
        ),
        (
            {
                f"{DIST_INFO}/sboms/arbitrageai-native.cyclonedx.json": json.dumps(
                    {**BILL, "components": [*BILL["components"], {"name": "bare"}]}
                )
            },
            "lacks version, licence or package URL of bare",
        ),
        ({"arbitrageai_native/large": "x" * 8_000_001}, "more than 8,000,000 bytes"),
    ],
)
def test_a_wheel_with_a_fault_is_refused_with_its_name(
    tmp_path: Path, changed: dict[str, str], said: str
) -> None:
    ended = judge_wheel(tmp_path, {**WHEEL, **changed})

    assert ended.returncode == 1
    assert said in ended.stdout


def test_a_wheel_for_an_unknown_platform_is_refused(tmp_path: Path) -> None:
    ended = judge_wheel(
        tmp_path, WHEEL, WHEEL_NAME.replace("manylinux2014_x86_64.manylinux_2_17_x86_64", "linux_x86_64")
    )

    assert "on a known platform" in ended.stdout


@pytest.mark.parametrize(
    "junk", ["tests/test_bridge.py", "benchmarks/results.json", ".github/workflows/ci.yml"]
)
def test_an_sdist_with_what_nobody_needs_is_refused(tmp_path: Path, junk: str) -> None:
    assert f"{junk} does not belong into it" in judge_sdist(tmp_path, {**SDIST, junk: ""}).stdout


# --- the workflows ---


def test_the_workflows_pass_a_linter() -> None:
    ended = run(
        Path(sysconfig.get_path("scripts")) / "zizmor", "--offline", "--pedantic", "--no-progress", ".github"
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_action_is_pinned_to_a_commit_and_says_its_version() -> None:
    workflows = "".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml"))
    uses = re.findall(r"uses: (.*)", workflows)

    assert len(uses) > 10
    assert [
        use for use in uses if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)
    ] == []
