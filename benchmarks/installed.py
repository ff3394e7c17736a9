"""What is installed: asked for before a run begins, and said beside its figures."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from benchmarks.unmet import Unmet

OURS = "arbitrageai-native"


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The version of each distribution that is installed."""
    found = {}
    for distribution in sorted(set(distributions)):
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found


def require(distributions: Iterable[str]) -> None:
    """Raise `Unmet` unless all distributions are installed."""
    missing = set(distributions) - versions(distributions).keys()
    if OURS in missing:
        raise Unmet("this package is not installed: run `maturin develop --release`")
    if missing:
        raise Unmet(
            f"not installed: {' '.join(sorted(missing))}; "
            "run `pip install '.[bench]'`, or leave peers out with --without"
        )
