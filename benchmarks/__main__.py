"""The command line.

python -m benchmarks list
python -m benchmarks run [NAME…] [--quick]
python -m benchmarks report [FILE] [--markdown [--into PAGE]]
python -m benchmarks charts [FILE] [--to DIRECTORY]
python -m benchmarks figures [FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import lock_peers, model_server, stores
from benchmarks.peers import PEERS
from benchmarks.unmet import Unmet

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.axes.axis import Axis, Settings
    from benchmarks.results import Results

RESULTS = Path(__file__).parent / "results.json"
CHARTS = Path(__file__).parent / "charts"
LOOPS = ("asyncio", "uvloop")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Comparisons with other packages."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="say what can be measured, and against whom")

    run = commands.add_parser("run", help="measure, print tables, write JSON and charts")
    run.add_argument(
        "names", nargs="*", metavar="NAME", help="axes, or how their names begin; all if none is named"
    )
    run.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    run.add_argument("--rounds", type=int, help="of each measurement (5; --quick: 1)")
    run.add_argument("--seconds", type=float, help="of a steady load, each round (0.5; --quick: 0.2)")
    run.add_argument("--peers", default="", help="only these, separated by commas")
    run.add_argument("--without", default="", help="all but these, separated by commas")
    run.add_argument("--loops", default="", help="event loops (asyncio,uvloop; --quick: asyncio)")
    run.add_argument("--stores", default=",".join(stores.TITLES), help="of locks (%(default)s)")
    run.add_argument("--port", type=int, default=0, help="for the model server (a free one)")
    run.add_argument("--json", type=Path, help=f"where the figures go ({RESULTS.name}; --quick: nowhere)")
    run.add_argument("--charts", type=Path, help="where the charts go (charts/; --quick: nowhere)")

    report = commands.add_parser("report", help="print the tables of a run again")
    report.add_argument("file", nargs="?", type=Path, default=RESULTS)
    report.add_argument("--markdown", action="store_true")
    report.add_argument("--into", type=Path, metavar="PAGE", help="put the Markdown in place of that page's")
    charts = commands.add_parser("charts", help="draw the charts of a run again")
    charts.add_argument("file", nargs="?", type=Path, default=RESULTS)
    charts.add_argument("--to", type=Path, default=CHARTS)
    figures = commands.add_parser("figures", help="write the figures of a run into README.md and docs/")
    figures.add_argument("file", nargs="?", type=Path, default=RESULTS)
    return parser.parse_args()


def _console() -> Console:
    """A pipe or a file gets tables as wide as they are."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=200)


def _run(arguments: argparse.Namespace) -> int:
    from benchmarks.axes.axis import Settings
    from benchmarks.axes.registry import AXES
    from benchmarks.report import show
    from benchmarks.results import Results, about
    from benchmarks.runner import measure

    quick = arguments.quick
    settings = Settings(
        rounds=arguments.rounds or (1 if quick else 5),
        seconds=arguments.seconds or (0.2 if quick else 0.5),
        loops=_listed(arguments.loops) or (LOOPS[:1] if quick else LOOPS),
        quick=quick,
        stores=_listed(arguments.stores),
        peers=_listed(arguments.peers),
        without=_listed(arguments.without),
    )
    charts = arguments.charts or (None if quick else CHARTS)
    _check_names(settings)
    axes = _axes(arguments.names, settings)
    _check_installed(settings, charts)
    for axis in axes:
        axis.check(settings)

    started = time.monotonic()
    results = Results(about(settings))
    console = _console()
    with ExitStack() as stack:
        if any(axis.needs_server for axis in axes):
            server = stack.enter_context(model_server.running(arguments.port))
            settings = dataclasses.replace(settings, server=server)
        if any(axis.needs_stores for axis in axes):
            databases = stack.enter_context(stores.running(settings.stores))
            settings = dataclasses.replace(settings, databases=databases)
        for axis in axes:
            results.axes.append(measure(axis, settings, console))
            results.about["minutes"] = round((time.monotonic() - started) / 60, 1)
            console.print(f"{axis.name}: measured, {results.about['minutes']} minutes since the start")
    show(results, console)

    file = arguments.json or (None if quick else RESULTS)
    if file is not None:
        kept = Results.read(file) if file.exists() else Results({})
        kept.merge(results, AXES)
        kept.write(file)
    if charts is not None:
        from benchmarks.charts import draw

        draw(results, charts)
    return 0


def _axes(names: list[str], settings: Settings) -> list[Axis]:
    """Those that are asked for, as far as anybody takes part."""
    from benchmarks.axes.registry import AXES, named

    asked = {axis.name for name in names for axis in named(name)}
    unknown = [name for name in names if not named(name)]
    if unknown:
        raise Unmet(f"there is no axis {unknown[0]!r}; there are: {', '.join(AXES)}")
    axes = [axis for axis in AXES.values() if (axis.name in asked or not names) and axis.subjects(settings)]
    if not axes:
        raise Unmet("nobody is left to be measured: name others with --peers and --stores")
    return axes


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _check_names(settings: Settings) -> None:
    peers = (*PEERS, *(name for name in lock_peers.NAMES if name not in PEERS))
    for what, wanted, known in (
        ("event loop", settings.loops, LOOPS),
        ("store", settings.stores, tuple(stores.TITLES)),
        ("peer", (*settings.peers, *settings.without), peers),
    ):
        unknown = set(wanted) - set(known)
        if unknown:
            raise Unmet(f"there is no {what} {min(unknown)!r}; there are: {', '.join(known)}")


def _check_installed(settings: Settings, charts: Path | None) -> None:
    needed = {"uvloop": "uvloop" in settings.loops, "matplotlib": charts is not None}
    missing = [name for name, is_needed in needed.items() if is_needed and find_spec(name) is None]
    if missing:
        raise Unmet(f"not installed: {' '.join(missing)}; run `pip install '.[bench]'`")


def _list() -> int:
    from benchmarks.axes.registry import AXES

    for axis in AXES.values():
        print(f"{axis.name:14} {axis.title}")
    print(f"peers: {', '.join(PEERS)}")
    print(f"peers in locking: {', '.join(lock_peers.NAMES)}")
    print(f"stores: {', '.join(stores.TITLES)}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from benchmarks.report import markdown, replace_in, show

    results = _read(arguments.file)
    if arguments.into is not None:
        replace_in(arguments.into, markdown(results, CHARTS))
    elif arguments.markdown:
        print(markdown(results, CHARTS), end="")
    else:
        show(results, _console())
    return 0


def _charts(arguments: argparse.Namespace) -> int:
    if find_spec("matplotlib") is None:
        raise Unmet("not installed: matplotlib; run `pip install '.[bench]'`")
    from benchmarks.charts import draw

    draw(_read(arguments.file), arguments.to)
    return 0


def _figures(arguments: argparse.Namespace) -> int:
    from benchmarks.figures import StaleDirectiveError, copy_charts, pages, written

    results = _read(arguments.file)
    for page in pages():
        text = page.read_text(encoding="utf-8")
        try:
            page.write_text(written(text, results), encoding="utf-8")
        except StaleDirectiveError as error:
            raise Unmet(f"{page}: {error}") from None
    copy_charts()
    return 0


def _read(file: Path) -> Results:
    from benchmarks.results import Results

    if not file.exists():
        raise Unmet(f"there is no {file}: run `python -m benchmarks run` first")
    return Results.read(file)


def main() -> int:
    """Run one command; the exit status is 2 if something that it needs is missing."""
    arguments = _arguments()
    if find_spec("rich") is None:
        raise Unmet("not installed: rich; run `pip install '.[bench]'`")
    commands = {
        "list": lambda _: _list(),
        "run": _run,
        "report": _report,
        "charts": _charts,
        "figures": _figures,
    }
    return commands[arguments.command](arguments)


def _end(number: int, _: object) -> None:
    """Leave in good order, so that the servers that were started end as well."""
    sys.exit(128 + number)


if __name__ == "__main__":
    os.chdir(Path(__file__).parent.parent)  # the measured processes import `benchmarks` from here
    signal.signal(signal.SIGTERM, _end)
    try:
        sys.exit(main())
    except Unmet as unmet:
        print(unmet, file=sys.stderr)
        sys.exit(2)
