"""A scanner process: it competes for every posting, and bids on those that nobody has bid on.

For each posting, many at a time: take the posting's lock, look whether it has a bid, ask the model for a
proposal, record the bid, release. Everything that waits is awaited; a monitor of the loop shows that nothing
blocks it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from arbitrageai_native import BidLockManager, LLMService, LoopMonitor
from arbitrageai_native.demo import messages
from arbitrageai_native.demo.bids import Bid, BidTable
from arbitrageai_native.demo.messages import CallEnded
from arbitrageai_native.demo.postings import Posting
from arbitrageai_native.demo.proposals import SYSTEM_PROMPT, prompt_for, read_answer
from arbitrageai_native.exceptions import LockError, LockTimeoutError
from arbitrageai_native.locks.leases import Lease

POSTINGS_AT_ONCE: Final = 12
SECONDS_BETWEEN_STATUSES: Final = 0.1
SECONDS_TO_WAIT_FOR_A_LOCK: Final = 10.0
MOST_WAITS_FOR_A_LOCK: Final = 30
SECONDS_TO_STOP: Final = 3.0
LONGEST_ERROR: Final = 300


class Scanner:
    """Bids on postings; see the module."""

    def __init__(self, settings: messages.ScannerSettings, reporter: Reporter) -> None:
        self._settings = settings
        self._reporter = reporter
        self._service = LLMService(
            base_url=settings.base_url,
            api_key=settings.api_key,
            model=settings.model,
            stealth_range=settings.stealth_range,
        )
        self._locks = BidLockManager(ttl=settings.lock_ttl, database_url=settings.database_url)
        self._bids = BidTable(Path(settings.bids_path), settings.run_id)
        self._monitor = LoopMonitor()
        self._placed = self._in_flight = 0

    async def run(self) -> None:
        """Compete for all postings, in an order of this scanner's own, until each has been dealt with."""
        reporting = asyncio.create_task(self._report_regularly())
        try:
            async with self._monitor, self._service, self._locks:
                order = list(enumerate(self._settings.postings))
                random.shuffle(order)
                remaining = iter(order)
                await asyncio.gather(*(self._work(remaining) for _ in range(POSTINGS_AT_ONCE)))
                await self._report(finished=True)
        finally:
            reporting.cancel()
            self._bids.close()

    async def _work(self, remaining: Iterator[tuple[int, Posting]]) -> None:
        for index, posting in remaining:
            await self._pursue(index, posting)

    async def _pursue(self, index: int, posting: Posting) -> None:
        """Wait for the posting's lock for as long as another scanner may need it, then see to the posting."""
        for _ in range(MOST_WAITS_FOR_A_LOCK):
            lock = self._locks.with_lock(
                posting.marketplace,
                posting.id,
                timeout=SECONDS_TO_WAIT_FOR_A_LOCK,
                holder_id=self._settings.name,
            )
            try:
                async with lock as lease:
                    return await self._bid_unless_bid_on(index, posting, lease)
            except LockTimeoutError:
                continue
            except LockError as error:
                return self._reporter.send(CallEnded(index, 0.0, error=self._describe(error)))
        return self._reporter.send(CallEnded(index, 0.0, error="another scanner kept its lock for too long"))

    async def _bid_unless_bid_on(self, index: int, posting: Posting, lease: Lease) -> None:
        if await asyncio.to_thread(self._bids.has_bid, posting):
            return
        self._in_flight += 1
        started = time.perf_counter()
        try:
            result = await self._service.complete_async(
                prompt_for(posting), system_prompt=SYSTEM_PROMPT, stealth_mode=True
            )
            seconds = time.perf_counter() - started
        except Exception as error:  # whatever it was, the other postings are to be seen to
            self._reporter.send(CallEnded(index, time.perf_counter() - started, error=self._describe(error)))
            return
        finally:
            self._in_flight -= 1
        price, proposal = read_answer(result["content"] or "")
        if not lease.is_held:
            # Another scanner may have the lock by now. It sees to the posting.
            self._reporter.send(CallEnded(index, seconds, error=f"the lock was lost: {lease.loss}"))
            return
        bid = Bid(posting, price, proposal, self._settings.name, lease.fencing_token)
        await asyncio.to_thread(self._bids.place, bid)
        self._placed += 1
        self._reporter.send(CallEnded(index, seconds, price_dollars=price))

    def _describe(self, error: Exception) -> str:
        # A server may repeat the key in what it says about it.
        text = f"{type(error).__name__}: {error}".replace(str(self._service.api_key), "***")
        return text[:LONGEST_ERROR]

    async def _report_regularly(self) -> None:
        while True:
            await self._report()
            await asyncio.sleep(SECONDS_BETWEEN_STATUSES)

    async def _report(self, *, finished: bool = False) -> None:
        metrics = await self._locks.get_metrics_async()
        self._reporter.send(
            messages.Status(
                bids=self._placed,
                conflicts=metrics["lock_conflicts"],
                in_flight=self._in_flight,
                lag_ms=self._monitor.current * 1000,
                worst_lag_ms=self._monitor.worst * 1000,
                finished=finished,
            )
        )


class Reporter:
    """Sends events up standard output from a thread, so that a slow reader does not block the loop."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="reporter", daemon=True)
        self._thread.start()

    def send(self, event: messages.Event) -> None:
        """Send an event."""
        self._lines.put(messages.encode_event(event))

    def send_ready(self) -> None:
        """Say that the scanner waits for `GO`."""
        self._lines.put(messages.READY.encode() + b"\n")

    def close(self) -> None:
        """Send what is left, and end."""
        self._lines.put(None)
        self._thread.join(SECONDS_TO_STOP)

    def _write(self) -> None:
        with suppress(OSError):  # the demo has gone: nobody is left to tell
            while (line := self._lines.get()) is not None:
                while line:
                    line = line[os.write(1, line) :]


class Orders:
    """Standard input, read without a buffer's lock, which a thread that waits in it would hold at exit."""

    def __init__(self) -> None:
        self._data = b""

    def next_line(self) -> bytes | None:
        """Wait for the next line; None at the end of the input."""
        while b"\n" not in self._data:
            piece = os.read(0, 1 << 16)
            if not piece:
                return None
            self._data += piece
        line, _, self._data = self._data.partition(b"\n")
        return line + b"\n"


async def _run(scanner: Scanner, orders: Orders) -> None:
    loop = asyncio.get_running_loop()
    work = asyncio.ensure_future(scanner.run())

    def stop_at_the_end() -> None:
        while orders.next_line() is not None:
            pass
        with suppress(RuntimeError):  # the loop is closed: all is done
            loop.call_soon_threadsafe(work.cancel)
        # Whatever keeps the process now, it must not outlive the demo.
        time.sleep(SECONDS_TO_STOP)
        os._exit(1)

    threading.Thread(target=stop_at_the_end, name="orders", daemon=True).start()
    with suppress(asyncio.CancelledError):
        await work


def main() -> int:
    """Run the process."""
    orders = Orders()
    line = orders.next_line()
    if line is None:
        return 1
    reporter = Reporter()
    scanner = Scanner(messages.ScannerSettings.decode(line), reporter)
    reporter.send_ready()
    if orders.next_line() != messages.GO:
        return 1
    asyncio.run(_run(scanner, orders))
    reporter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
