"""Why targets are missed: prose that outlives a run. A report shows it beside the targets that it missed."""

from __future__ import annotations

from collections.abc import Iterator

# By the texts of targets. What needs a figure of its own says which and when; the tables have the others.
REASONS: dict[tuple[str, ...], str] = {
    (
        "CPU per call / pyreqwest",
        "calls/s / pyreqwest",
    ): (
        "what is left on the loop's thread is asyncio's own task and future, the conversion of "
        "arguments and result, and one wake-up for each batch of completions."
    ),
    (
        "worst stall, 1,000 in flight / pyreqwest",
        "worst stall, 1,000 in flight",
    ): (
        "a ticker beside a thousand tasks waits for those that are ready before it. How much of "
        "it is the machine's, a control in an idle process would tell (`benchmarks/in_flight.py` "
        "has one)."
    ),
    (
        "10,000 calls of 2 s: all done",
        "10,000 calls of 2 s: worst stall",
    ): (
        "some 200 µs of CPU time a call, on two cores which the server shares. More than half of it went "
        "into zeroing huge pages, for which the allocator asked then. It no longer does: in five runs of "
        "both builds in turn the burst took 0.78 of the time and 0.71 of the CPU time (medians, asyncio)."
    ),
    ("10,000 calls of 2 s: peak RSS growth per call",): (
        "hyper keeps three blocks of 8 KB for each HTTP/1 connection, two buffers and a channel's, for "
        "which reqwest has no setting; reqwest's futures take about 8 KB, and what is ours about 7 KB, "
        "asyncio's task and coroutines included. The rest, about 10 KB, were the unused parts of huge pages. "
        "The allocator no longer asks for them: in five runs of both builds in turn the growth was 0.83 of "
        "that, and a call at 100 in flight cost no more CPU time. "
        "`pyreqwest`, with the same HTTP client, grows by 49 KB."
    ),
    (
        "CPU per chunk / openai",
        "CPU per chunk / aiohttp",
    ): (
        "chunks 5 ms apart come one by one, and each wakes a worker, then the loop. Some 40 % of its "
        "CPU time is the kernel's (one `recv`, and a share of an `epoll_wait` in each thread and of the "
        "`eventfd` between them), a fifth to three tenths the loop's Python, the rest native and spread "
        "over hyper, tokio and the parser."
    ),
    ("import above bare Python",): (
        "this axis was measured when the machine took twice as long for everything as in the others' run "
        "(`openai` 1,387 ms, then 701): what is left is a dozen modules of the package, and the native one."
    ),
    ("CPU per await / stock bridge",): (
        "a worker that is woken for each call preempts the loop's thread as often as not; calls "
        "made together go together (`src/bridge/outbox.rs`)."
    ),
    (
        "PostgreSQL alone: pairs/s / pgbench with our statements, 1 client",
        "PostgreSQL alone: pairs/s / pgbench, 1 client",
    ): (
        "alone, a pair is two statements, a round trip each; what is above pgbench is the way "
        "from the loop's thread to the worker that has the connection and back, twice, and the "
        "fencing token in the statement."
    ),
    (
        "PostgreSQL: hand-off in one process",
        "PostgreSQL: hand-off between processes / pg_advisory_lock",
        "SQLite: hand-off in one process",
        "Redis: hand-off in one process",
        "PostgreSQL: 20 waiters of 5 ms / their holds",
    ): (
        "a lease is handed over in memory; `acquire_lock`, whose caller could not be told of a loss, waits "
        "for the database: one statement, which on PostgreSQL is on the disk when it is answered, and the "
        "way from the loop's thread to the connection and back. "
        "Between processes it is a deletion, its announcement and an insertion. An advisory lock is memory."
    ),
    (
        "SQLite alone: CPU per pair / the original",
        "PostgreSQL alone: CPU per pair / the original",
        "Redis alone: CPU per pair / the original",
        "Redis, 100 keys: CPU per pair / the original",
    ): (
        "alone, each statement has the wake-ups of a worker and of the loop for itself; a hundred "
        "keys at once share them. In Redis the original's way is a `SET` and a `DEL`: no SQL, and no "
        "SQLAlchemy to be quicker than."
    ),
}


def why(missed: set[str]) -> Iterator[tuple[list[str], str]]:
    """The texts of missed targets, and the reason; those without one at the end."""
    for texts, reason in REASONS.items():
        concerned = [text for text in texts if text in missed]
        if concerned:
            yield concerned, reason
    unexplained = missed.difference(*REASONS)
    if unexplained:
        yield sorted(unexplained), "not looked into yet."
