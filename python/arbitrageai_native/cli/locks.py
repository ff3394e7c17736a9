"""The subcommand `locks`: lists the locks of a database, and releases them.

The lock manager is imported only when the command runs: see `cli/main.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from arbitrageai_native import defaults
from arbitrageai_native._safe_text import printable
from arbitrageai_native.cli import display
from arbitrageai_native.cli.main import BadInputError, Subcommands, seconds
from arbitrageai_native.locks import keys
from arbitrageai_native.locks.overview import HeldLock

if TYPE_CHECKING:
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager

DESCRIPTION: Final = """\
Shows the locks of a database, or releases them. `list` and `watch` change
nothing, and no action creates a SQLite file. `cleanup` deletes only expired
rows; `cleanup --all` lists the locks, asks, and then deletes every row."""

EXAMPLES: Final = """\
examples:
  %(prog)s                        list the locks
  %(prog)s --json --database-url sqlite:///locks.db
  %(prog)s release upwork:job-17  of any holder
  %(prog)s cleanup --all --yes    without a question

exit status: 0; 1 if there is no such lock, or the question was answered with
no; 2 for bad input, or if the database can't be used; 130 after Ctrl-C"""

_UNKNOWN: Final = "unknown"
# A longer value overflows its column, and does not widen the column for the other rows.
_WIDEST_COLUMN: Final = 60
_MOST_HOLDERS_NAMED: Final = 3
# Some 3,000 years in seconds. A program that writes a longer time does not mean a time.
_LONGEST: Final = 1e11
_ESCAPE: Final = re.compile(r"\\(?:\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4})")
_PLAIN: Final = {"\\\\": "\\", "\\n": "\n", "\\r": "\r", "\\t": "\t"}


def add_command(subcommands: Subcommands) -> None:
    """Add the subcommand's parser."""
    parser = subcommands.add_parser(
        "locks",
        help="show the locks of a database, or release them",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    _add_database(parser, default=None)
    _add_json(parser, default=False)
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    # The option of an action has no default, which would replace a value given before the action.
    database = argparse.ArgumentParser(add_help=False)
    _add_database(database, default=argparse.SUPPRESS)

    listing = actions.add_parser(
        "list", parents=[database], help="print the locks and their holders (the default)"
    )
    _add_json(listing, default=argparse.SUPPRESS)
    watch = actions.add_parser(
        "watch", parents=[database], help="print the list again and again, until Ctrl-C"
    )
    watch.add_argument(
        "--every",
        type=seconds,
        default=defaults.WATCH_SECONDS,
        metavar="SECONDS",
        help="the time between two lists (default: %(default)g)",
    )
    release = actions.add_parser("release", parents=[database], help="release one lock of any holder")
    release.add_argument("key", help="as listed: bid:lock:MARKETPLACE:POSTING, or just MARKETPLACE:POSTING")
    cleanup = actions.add_parser(
        "cleanup", parents=[database], help="delete expired rows; with --all release every lock"
    )
    which = cleanup.add_mutually_exclusive_group()
    which.add_argument("--expired", action="store_true", help="only rows that have expired (the default)")
    which.add_argument(
        "--all", action="store_true", help="every row, held locks included; asks first, on a terminal"
    )
    cleanup.add_argument("--yes", action="store_true", help="do not ask")


def _add_database(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--database-url",
        metavar="URL",
        default=default,
        help=f"the database (default: DATABASE_URL, then {defaults.LOCK_DATABASE_URL})",
    )


def _add_json(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        default=default,
        help='print the list as {"database": …, "locks": […]}, unknown times as null',
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says.

    The exit status is 0, or 1 if no such lock exists or the user answered no, or 2 if the database can't be
    used.

    Raises:
        BadInputError: `--json` with an action that prints no list.
    """
    if arguments.json and arguments.action not in (None, "list"):
        raise BadInputError(f"locks: --json is an option of list, not of {arguments.action}")
    from arbitrageai_native.agent_execution.bid_lock_manager import BidLockManager
    from arbitrageai_native.exceptions import LockError

    try:
        manager = BidLockManager(database_url=arguments.database_url)
        if arguments.action == "watch":
            asyncio.run(_watch(manager, arguments.every))
        elif arguments.action == "release":
            return asyncio.run(_release(manager, arguments.key))
        elif arguments.action == "cleanup":
            return _cleanup_all(manager, arguments.yes) if arguments.all else asyncio.run(_sweep(manager))
        else:
            held = asyncio.run(_look(manager))
            if arguments.json:
                print(_json(manager, held))
            else:
                display.print_lines(_lines(manager, held))
    except (LockError, ValueError) as error:
        print(f"locks: {printable(error)}", file=sys.stderr)
        return 2
    return 0


async def _look(manager: BidLockManager, key: str | None = None) -> list[HeldLock]:
    """Return every row, or the row of one key. Creates and changes nothing.

    Raises:
        LockBackendError: the SQLite file does not exist, or the database can't be used.
    """
    return [HeldLock(*row) for row in await manager._locks().look(key)]


# --- list and watch ---


async def _watch(manager: BidLockManager, seconds: float) -> None:
    async def lines() -> Iterable[display.Line]:
        return _lines(manager, await _look(manager))

    await display.print_again_and_again(lines, seconds)


def _lines(manager: BidLockManager, held: list[HeldLock]) -> Iterable[display.Line]:
    """Return the list, a line for each lock. If the terminal is narrow, leave out the prefix and `since`."""
    width = display.terminal_width()
    rows = [_row(lock) for lock in held]
    lines = _in_columns(["key", "holder", "since", "held for", "expires in"], rows)
    if width is not None and max(map(display.columns_of, lines)) > width:
        if all(lock.key.startswith(keys.PREFIX) for lock in held):
            rows = [[key.removeprefix(keys.PREFIX), *others] for key, *others in rows]
        rows = [[key, holder, *times] for key, holder, _since, *times in rows]
        lines = _in_columns(["key", "holder", "held for", "expires in"], rows)
    place = printable(manager._locks().place)
    yield [(f"{_count(len(held))} in {place} at {datetime.now():%H:%M:%S}", "bold")]
    if held:
        yield [(lines[0], "dim")]
    for lock, line in zip(held, lines[1:], strict=True):
        yield [(line, "red" if lock.is_expired else "")]


def _row(lock: HeldLock) -> list[str]:
    # The time by the clock of the database, unless the row has an odd expiry.
    now = lock.expires_at - lock.remaining
    held_for = (now if math.isfinite(now) else time.time()) - lock.acquired_at
    is_known = lock.acquired_at > 0 and abs(held_for) < _LONGEST
    return [
        _shown(lock.key),
        printable(lock.holder_id),
        _moment(lock.acquired_at),
        f"{max(held_for, 0):.0f}s" if is_known else _UNKNOWN,
        _expiry(lock),
    ]


def _shown(key: str) -> str:
    """Return the key for a terminal; no two keys look the same, and `release` takes this form."""
    return printable(key.replace("\\", "\\\\"))


def _meant(shown: str) -> str:
    """Return the key that `_shown` shows like this."""
    return _ESCAPE.sub(lambda found: _PLAIN.get(found[0]) or chr(int(found[0][2:], 16)), shown)


def _moment(unix_seconds: float) -> str:
    if unix_seconds <= 0:  # a row that says nothing that can be read
        return _UNKNOWN
    try:
        return f"{datetime.fromtimestamp(unix_seconds):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):  # the year is beyond the range of `datetime`
        return _UNKNOWN


def _expiry(lock: HeldLock) -> str:
    if lock.is_expired:
        return "expired"
    if math.isnan(lock.remaining):
        return _UNKNOWN
    return f"{lock.remaining:.1f}s" if lock.remaining < _LONGEST else "never"


def _in_columns(headings: list[str], rows: list[list[str]]) -> list[str]:
    table = [headings, *rows]
    widths = [
        min(max(map(display.columns_of, column)), _WIDEST_COLUMN) for column in zip(*table, strict=True)
    ]

    def padded(cell: str, width: int) -> str:
        return cell + " " * (width - display.columns_of(cell))

    return ["  ".join(map(padded, row, widths)).rstrip() for row in table]


def _count(locks: int) -> str:
    return "1 lock" if locks == 1 else f"{locks:,} locks"


def _json(manager: BidLockManager, held: list[HeldLock]) -> str:
    def known(value: str | float) -> str | float | None:
        return value if isinstance(value, str) or math.isfinite(value) else None

    locks = [
        {**{name: known(value) for name, value in lock._asdict().items()}, "is_expired": lock.is_expired}
        for lock in held
    ]
    return json.dumps({"database": manager._locks().place, "locks": locks}, indent=2)


# --- release and cleanup ---


async def _release(manager: BidLockManager, key: str) -> int:
    async with manager:
        meant = _meant(key)
        # A key that was copied from elsewhere may contain a backslash as it is.
        for name in dict.fromkeys((meant, f"{keys.PREFIX}{meant}", key, f"{keys.PREFIX}{key}")):
            for lock in await _look(manager, name):
                if await manager.break_lock(lock.key):
                    print(_released(lock))
                    return 0
    print(f"locks: nobody holds {_shown(meant)}", file=sys.stderr)
    return 1


def _released(lock: HeldLock) -> str:
    key, holder, _since, held_for, _expires = _row(lock)
    if lock.is_expired:
        return f"deleted {key}, which had expired; {holder} had held it"
    since = f" for {held_for}" if held_for != _UNKNOWN else ""
    return (
        f"released {key}, which {holder} had held{since}; "
        "its holder detects the loss within a second, by default"
    )


async def _sweep(manager: BidLockManager) -> int:
    async with manager:
        deleted = await manager._locks().sweep() if await _look(manager) else 0
    print(f"deleted {deleted:,} expired lock{'s' * (deleted != 1)}")
    return 0


def _cleanup_all(manager: BidLockManager, is_sure: bool) -> int:
    found = asyncio.run(_look(manager))
    if found and not is_sure and sys.stdin.isatty():
        display.print_lines(_lines(manager, found))
    # The question is asked outside a coroutine, so that Ctrl-C ends the wait for the answer.
    if (
        found
        and not is_sure
        and not _is_confirmed([lock for lock in found if not lock.is_expired], len(found))
    ):
        return 1

    async def clear() -> int:
        async with manager:
            return await manager._locks().clear()

    print(f"released {_count(asyncio.run(clear()) if found else 0)}")
    return 0


def _is_confirmed(held: list[HeldLock], rows: int) -> bool:
    """Ask the user whether to release the held locks and delete all rows.

    Raises:
        ValueError: standard input is no terminal.
    """
    what = f"release {_count(len(held))} that {'is' if len(held) == 1 else 'are'} held"
    if not held:
        what = f"delete {_count(rows)}, all expired"
    holders = sorted({printable(lock.holder_id) for lock in held})
    names = ", ".join(holders[:_MOST_HOLDERS_NAMED])
    if len(holders) > _MOST_HOLDERS_NAMED:
        names += f" and {len(holders) - _MOST_HOLDERS_NAMED} more"
    if not sys.stdin.isatty():
        by = f" ({names})" if names else ""
        raise ValueError(f"cleanup --all would {what}{by}; without a terminal for the question, give --yes")
    print(f"{what}? {names + '; ' if names else ''}y/N ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    print("nothing released", file=sys.stderr)
    return False
