"""What `python -m arbitrageai_native locks` does: look at the locks of a database, and mend them."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .agent_execution.bid_lock_manager import BidLockManager
from .exceptions import LockError
from .lock_overview import LockOverview

_WIDTH_OF_A_FILE = 200


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says.

    The exit status is 0, or 1 if there was no such lock, or 2 if the database can't be used.
    """
    try:
        return asyncio.run(_run(arguments))
    except KeyboardInterrupt:
        return 0
    except (LockError, ValueError) as error:
        print(f"locks: {error}", file=sys.stderr)
        return 2


async def _run(arguments: argparse.Namespace) -> int:
    async with BidLockManager(database_url=arguments.database_url) as manager:
        if arguments.action == "watch":
            await _watch(manager, max(arguments.every, 0.1))
        elif arguments.action == "release":
            return await _release(manager, arguments.key)
        elif arguments.action == "cleanup":
            await _cleanup(manager, only_expired=arguments.expired)
        else:
            console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_FILE)
            console.print(_table(await manager.locks()))
    return 0


async def _watch(manager: BidLockManager, seconds: float) -> None:
    console = Console()
    with Live(_table(await manager.locks()), console=console, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(seconds)
            live.update(_table(await manager.locks()), refresh=True)


async def _release(manager: BidLockManager, key: str) -> int:
    for name in (key, f"bid:lock:{key}"):
        if await manager.break_lock(name):
            print(f"released {name}")
            return 0
    print(f"locks: nobody holds {key}", file=sys.stderr)
    return 1


async def _cleanup(manager: BidLockManager, *, only_expired: bool) -> None:
    held = (await manager.locks()).held
    if not only_expired:
        await manager.cleanup_all()
        print(f"released {len(held)} locks")
        return
    expired = [lock for lock in held if lock.is_expired]
    for lock in expired:
        # Taken over first, and released then: it may be somebody's again by now.
        marketplace, _, posting = lock.key.removeprefix("bid:lock:").partition(":")
        lease = await manager.try_lock(marketplace, posting) if marketplace and posting else None
        if lease is not None:
            await lease.release()
    print(f"deleted {len(expired)} expired rows")


def _table(overview: LockOverview) -> Table:
    table = Table(title=f"{len(overview.held)} locks at {datetime.now():%H:%M:%S}", title_justify="left")
    for heading in ("key", "holder", "since", "held for"):
        table.add_column(heading, overflow="fold")
    table.add_column("expires in", justify="right")
    now = time.time()
    for lock in overview.held:
        since = datetime.fromtimestamp(lock.acquired_at)
        expires = "[red]expired[/red]" if lock.is_expired else f"{lock.remaining:.1f}s"
        held_for = f"{max(now - lock.acquired_at, 0):.0f}s"
        table.add_row(Text(lock.key), Text(lock.holder_id), f"{since:%Y-%m-%d %H:%M:%S}", held_for, expires)
    return table
