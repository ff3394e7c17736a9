"""The portal of a task: through it, a plain function that the task has called awaits.

A task that has a portal makes each of its steps in a greenlet, a `Worker`, and not on the stack of the event
loop. A plain function that awaits leaves the worker as it is, with all frames on it, and gives what the task
waits for to the greenlet in which the loop runs, the hub. When the task is to go on, the hub goes back to
the worker.

A worker serves one step after another, of any task of its thread; only a task that is suspended in a plain
function keeps one. So an idle task costs no greenlet, which would keep 16 KB (greenback's portals do: one
greenlet for each task). And the hub is noted anew at each step, since an eager task makes its first step in
the worker of another task, and its later ones on the loop.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from types import FrameType
from typing import Any

from greenlet import GreenletExit, error, getcurrent, greenlet

_RAISED = object()

Step = Callable[[Any], Any]

suspended: dict[int, tuple[int, FrameType]] = {}
"""The calls that are suspended at this moment: the thread of each, and the frame that waits."""


class Worker(greenlet):
    """A greenlet in which tasks make their steps.

    Attributes:
        hub: From where the step that it makes was begun; None: it makes none.
        coroutine: Whose step it makes.
        waiting: The greenlet to go back to, if the step is suspended in a plain function.
        failure: What the step raised.
    """

    __slots__ = ("coroutine", "failure", "hub", "waiting")

    def __init__(self) -> None:
        super().__init__(_serve)
        self.hub: greenlet | None = None
        self.coroutine: Any = None
        self.waiting: greenlet | None = None
        self.failure: BaseException | None = None

    def take_failure(self) -> BaseException:
        """Return what the step raised, without the frame of `_serve`."""
        failure: BaseException = self.failure  # type: ignore[assignment]
        self.failure = self.coroutine = None
        trace = failure.__traceback__
        return failure.with_traceback(trace and trace.tb_next)


class _Here(threading.local):
    worker: Worker | None = None


_here = _Here()


def _serve(step: Step) -> None:
    # No variable here refers to the worker: its own stack would keep it for ever.
    while True:
        try:
            outcome = step(None)
        except GreenletExit:  # nobody refers to the worker any more
            return
        except BaseException as failure:
            getcurrent().failure = failure  # type: ignore[attr-defined]
            outcome = _RAISED
        del step
        step = getcurrent().hub.switch(outcome)  # type: ignore[attr-defined]
        outcome = None


def _send(coroutine: Any, value: Any, _: None) -> Any:
    return coroutine.send(value)


def _throw(coroutine: Any, raised: BaseException, _: None) -> Any:
    return coroutine.throw(raised)


class Portal(Coroutine[Any, Any, Any]):
    """A coroutine whose steps are made in workers. It looks like the one that it is made of."""

    __slots__ = ("_coroutine", "_worker")

    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine
        self._worker: Worker | None = None

    def send(self, value: Any, step: Step | None = None) -> Any:
        """Make a step: `step`, if the coroutine is not simply to go on."""
        if self._worker is not None:
            return self._go_on("switch", value)
        hub = getcurrent()
        worker = _here.worker
        if worker is None or worker.hub is not None:  # it is suspended, or an eager task runs in it
            _here.worker = worker = Worker()
        worker.hub = hub
        worker.gr_context = hub.gr_context
        worker.coroutine = coroutine = self._coroutine
        if step is None:
            step = coroutine.send if value is None else partial(_send, coroutine, value)
        outcome = worker.switch(step)
        if worker.waiting is not None:
            self._worker = worker
            return outcome
        worker.hub = None
        if outcome is not _RAISED:
            return outcome
        failure = worker.take_failure()
        del hub, worker, step  # the traceback will hold this frame
        try:
            raise failure
        finally:
            del failure

    def throw(self, kind: Any, value: Any = None, trace: Any = None) -> Any:
        """Make a step that begins with an exception."""
        raised = kind if isinstance(kind, BaseException) else value if value is not None else kind()
        if trace is not None:
            raised = raised.with_traceback(trace)
        if self._worker is not None:
            return self._go_on("throw", raised)
        return self.send(None, partial(_throw, self._coroutine, raised))

    def _go_on(self, how: str, argument: Any) -> Any:
        worker: Worker = self._worker  # type: ignore[assignment]
        worker.hub = getcurrent()
        waiting, worker.waiting = worker.waiting, None
        outcome = getattr(waiting, how)(argument)
        del waiting, argument
        if worker.waiting is not None:
            return outcome
        worker.hub = self._worker = None
        if outcome is not _RAISED:
            return outcome
        failure = worker.take_failure()
        del worker
        try:
            raise failure
        finally:
            del failure

    def close(self) -> None:
        """End the coroutine, wherever it is."""
        if self._worker is None:
            self._coroutine.close()
            return
        try:
            self.throw(GeneratorExit())
        except (GeneratorExit, StopIteration):
            return
        raise RuntimeError("coroutine ignored GeneratorExit")

    def __del__(self) -> None:
        if self._worker is not None:
            try:
                self.close()
            except error:  # in another thread; the worker's own thread ends it
                self._worker = None

    def __await__(self) -> Generator[Any, Any, Any]:
        step = partial(self.send, None)
        while True:
            try:
                yielded = step()
            except StopIteration as stop:
                return stop.value
            finally:
                del step
            try:
                step = partial(self.send, (yield yielded))
            except BaseException as raised:
                step = partial(self.throw, raised)

    def __getattr__(self, name: str) -> Any:
        # `cr_frame` and the like, for reprs, stacks and `inspect.getcoroutinestate`.
        return getattr(self._coroutine, name)

    def __repr__(self) -> str:
        return f"<Portal of {self._coroutine!r}>"

    def leads_to(self, worker: Worker) -> bool:
        """Whether the worker makes a step of this coroutine."""
        return worker.coroutine is self._coroutine


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def await_(worker: Worker, frame: FrameType, awaitable: Awaitable[Any]) -> Any:
    """Await in a plain function; `frame` is the caller's."""
    coroutine = awaitable if isinstance(awaitable, Coroutine) else _awaited(awaitable)
    step: Callable[[], Any] = partial(coroutine.send, None)
    key = id(coroutine)
    while True:
        try:
            yielded = step()
        except StopIteration as stop:
            return stop.value
        finally:
            del step  # it may hold an exception, whose traceback holds this frame
        worker.waiting = getcurrent()
        suspended[key] = threading.get_ident(), frame
        try:
            step = partial(coroutine.send, worker.hub.switch(yielded))  # type: ignore[union-attr]
        except BaseException as raised:  # a cancellation; GreenletExit, if the task was forgotten
            step = partial(coroutine.throw, raised)
        finally:
            del suspended[key]


def worker_in_use() -> Worker | None:
    """Return the worker that the caller runs in, if any: perhaps in a greenlet that began in it."""
    current: greenlet | None = getcurrent()
    while current is not None and not isinstance(current, Worker):
        current = current.parent
    return current


def frames_of(worker: Worker, innermost: FrameType) -> list[FrameType]:
    """Return the frames from the innermost one to the beginning of the worker's step."""
    frames: list[FrameType] = []
    frame: FrameType | None = innermost
    current: greenlet | None = getcurrent()
    while True:
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        if current is worker or current is None:
            return frames
        current = current.parent
        frame = current.gr_frame if current is not None else None
