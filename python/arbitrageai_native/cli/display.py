"""What commands show: lines in colour on a terminal, if rich is installed, and plain lines elsewhere.

rich is the extra `cli`. It is imported late, here and where else something is drawn.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, Sequence

from arbitrageai_native.environment import has_rich, terminal_is_dumb

Line = Sequence[tuple[str, str]]
"""Parts of a line: (text, style of rich)."""


def can_draw() -> bool:
    """Whether standard output is a terminal, and rich can draw on it; without rich, say how to get it."""
    return sys.stdout.isatty() and not terminal_is_dumb() and has_rich()


def terminal_width() -> int | None:
    """How many columns the terminal has; None where standard output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def columns_of(text: str) -> int:
    """How many columns of a terminal the text takes."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) != 0 for character in text)


def print_lines(lines: Iterable[Line]) -> None:
    """Print the lines, each whole: where the terminal wraps one, it is copied as one."""
    if not can_draw():
        for line in lines:
            print("".join(text for text, _style in line))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        console.print(Text.assemble(*line), soft_wrap=True)


async def print_again_and_again(lines: Callable[[], Awaitable[Iterable[Line]]], seconds: float) -> None:
    """Show the lines as they are every so many seconds: drawn in place, or printed below the last ones."""
    if not can_draw():
        while True:
            print_lines(await lines())
            sys.stdout.flush()
            await asyncio.sleep(seconds)
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    async def drawn() -> Text:
        return Text("\n", overflow="fold").join(Text.assemble(*line) for line in await lines())

    with Live(await drawn(), console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            await asyncio.sleep(seconds)
            live.update(await drawn(), refresh=True)
