"""Suspends the task of a caller, where it has a portal and nothing stands in the way."""

from __future__ import annotations

import asyncio
import sys
from functools import partial

from arbitrageai_native.llm import blocking
from arbitrageai_native.llm.unblock import obstacles, portal, watch


class TaskSuspender:
    """What `llm.blocking` asks."""

    def in_task(self) -> blocking.Await | str:
        """Return how to await in the plain function that called, or why that is impossible."""
        task = asyncio.current_task()
        if task is None:
            return "this is a callback of the loop, not a task"
        worker = portal.worker_in_use()
        if worker is None:
            return "the task has no portal: something else than the loop's create_task made it"
        frames = portal.frames_of(worker, sys._getframe(1))
        coroutine = task.get_coro()
        if isinstance(coroutine, portal.Portal):
            is_own = coroutine.leads_to(worker)
        else:  # an application's task factory may have wrapped the portal in a coroutine of its own
            is_own = getattr(coroutine, "cr_frame", None) not in frames
        if not is_own:
            return "the task has no portal: it runs within a step of another task"
        reason = obstacles.reason_to_block(frames)
        if reason is not None:
            return reason
        obstacles.report_transactions(frames)
        watch.start()
        calling = next(frame for frame in frames if not obstacles.is_ours(frame))
        return partial(portal.await_, worker, calling)

    def in_other_library(self) -> str | None:
        """Return why the loop can't go on, if it is trio's."""
        trio = sys.modules.get("trio")
        try:
            runs = trio is not None and trio.lowlevel.current_task() is not None
        except RuntimeError:
            runs = False
        return "the loop is trio's, and only tasks of asyncio have portals" if runs else None
