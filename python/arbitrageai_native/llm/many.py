"""Many calls, a few at a time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from arbitrageai_native.environment import has_rich
from arbitrageai_native.exceptions import InvalidArgumentError, InvalidArgumentTypeError
from arbitrageai_native.llm.results import Completion

Item = TypeVar("Item")
Result = TypeVar("Result")


def listed(name: str, items: Iterable[Item]) -> list[Item]:
    """Return the items of an argument; refuse a single prompt, which would iterate over letters or keys."""
    if isinstance(items, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(items, Iterable):
        raise InvalidArgumentTypeError(f"{name} has to be a list of prompts, not {type(items).__name__}")
    return list(items)


async def complete_all(
    complete: Callable[..., Awaitable[Completion]],
    prompts: Iterable[str | Mapping[str, Any]],
    keywords: dict[str, Any],
    concurrency: int,
    progress: bool,
) -> list[Completion | Exception]:
    """Call `complete` for every prompt; the keywords of a prompt that is a mapping go before `keywords`."""

    def one(prompt: str | Mapping[str, Any]) -> Awaitable[Completion]:
        if isinstance(prompt, Mapping):
            return complete(**{**keywords, **prompt})
        return complete(prompt, **keywords)

    return await fan_out(one, listed("prompts", prompts), concurrency, progress)


async def fan_out(
    call: Callable[[Item], Awaitable[Result]], items: Sequence[Item], concurrency: int, progress: bool
) -> list[Result | Exception]:
    """Call every item, `concurrency` at a time: for each, in order, its result or its exception."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int):
        raise InvalidArgumentTypeError(f"concurrency has to be an integer, not {type(concurrency).__name__}")
    if concurrency < 1:
        raise InvalidArgumentError(f"concurrency has to be an integer from 1 on, not {concurrency}")
    results: list[Any] = [None] * len(items)
    order = iter(range(len(items)))

    async def worker(advance: Callable[[], None]) -> None:
        for index in order:
            try:
                results[index] = await call(items[index])
            except Exception as error:
                results[index] = error
            advance()

    with _bar(len(items), progress) as advance:
        workers = [asyncio.ensure_future(worker(advance)) for _ in range(min(concurrency, len(items)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return results


@contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Callable[[], None]]:
    if not (wanted and sys.stderr.isatty() and has_rich()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("completions", total=total)
        yield lambda: bar.advance(task)


def run_in_private_loop(start: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine to its end, even where a loop is running, which then has to wait. Ctrl-C cancels it."""
    if asyncio._get_running_loop() is None:
        return _run(start)
    stop: list[Callable[[], object]] = []
    with ThreadPoolExecutor(1, "arbitrageai-complete-many") as thread:  # its exit waits for the calls
        pending = thread.submit(_run, start, stop)
        try:
            return pending.result()
        except BaseException:
            for cancel in () if pending.done() else stop:
                cancel()
            raise


def _run(
    start: Callable[[], Coroutine[Any, Any, Result]], stop: list[Callable[[], object]] | None = None
) -> Result:
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(start())
        if stop is not None:
            stop.append(partial(loop.call_soon_threadsafe, task.cancel))
        try:
            return loop.run_until_complete(task)
        except BaseException:
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            raise
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
