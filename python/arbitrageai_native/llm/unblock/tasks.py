"""Gives every task a portal: those that event loops will make, and those that there are already.

`create_task` of the loops' classes is replaced, and not the loops' task factories: an application may set a
factory of its own at any time, and keeps it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from arbitrageai_native.llm.unblock.portal import Portal

_MARK = "_arbitrageai_native_original"
_logger = logging.getLogger("arbitrageai_native.llm")

Loops = type[asyncio.AbstractEventLoop]


def _with_portal(coroutine: Any) -> Any:
    return (
        coroutine
        if isinstance(coroutine, Portal) or not asyncio.iscoroutine(coroutine)
        else Portal(coroutine)
    )


def _patched(create_task: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(create_task)
    def creates_task_with_portal(self: Any, coro: Any, *arguments: Any, **keywords: Any) -> Any:
        return create_task(self, _with_portal(coro), *arguments, **keywords)

    setattr(creates_task_with_portal, _MARK, create_task)
    return creates_task_with_portal


def _patch(loops: Loops) -> None:
    # `BaseEventLoop` has it, and so have its subclasses; uvloop's class inherits it from one in C.
    create_task = getattr(loops, "create_task")  # noqa: B009, mypy would bind it
    if create_task is asyncio.AbstractEventLoop.create_task or hasattr(create_task, _MARK):
        return
    setattr(loops, "create_task", _patched(create_task))  # noqa: B010, as above
    _changed.append((loops, create_task))


def _all_below(loops: Loops) -> Iterator[Loops]:
    for below in loops.__subclasses__():
        yield below
        yield from _all_below(below)


def _patch_new(cls: Any, /, **keywords: Any) -> None:
    super(asyncio.AbstractEventLoop, cls).__init_subclass__(**keywords)
    _patch(cls)


_changed: list[tuple[Loops, Any]] = []


def install() -> None:
    """Let every task have a portal from now on."""
    for loops in _all_below(asyncio.AbstractEventLoop):  # type: ignore[type-abstract]
        _patch(loops)
    # For classes that are defined later: uvloop may not have been imported yet.
    asyncio.AbstractEventLoop.__init_subclass__ = classmethod(_patch_new)  # type: ignore[assignment]
    left = [task for task in _tasks() if not _give_portal(task)]
    if left:
        _logger.warning("%d tasks began before unblock, and have to do without it", len(left))


def uninstall() -> None:
    """Take `install` back. Tasks that have a portal keep it."""
    while _changed:
        loops, create_task = _changed.pop()
        if any(getattr(below, "create_task", None) is create_task for below in loops.__mro__[1:]):
            del loops.create_task
        else:
            setattr(loops, "create_task", create_task)  # noqa: B010, as above
    if "__init_subclass__" in vars(asyncio.AbstractEventLoop):
        del asyncio.AbstractEventLoop.__init_subclass__


def _tasks() -> list[asyncio.Task[Any]]:
    """Return the unfinished tasks of all loops; `asyncio.all_tasks` knows one loop at a time."""
    return [found for found in gc.get_objects() if issubclass(type(found), asyncio.Task) and not found.done()]


def _give_portal(task: asyncio.Task[Any]) -> bool:
    """Replace the coroutine of a task; one that runs at this moment has the portal from its next step on."""
    coroutine = task.get_coro()
    portal = _with_portal(coroutine)
    if portal is coroutine:
        return True
    try:
        task._coro = portal  # type: ignore[attr-defined]
    except AttributeError:
        return _replace_reference(task, coroutine, portal)
    return True


def _replace_reference(task: object, old: object, new: object) -> bool:
    """Replace the one reference that an object in C holds: there is no other way to it."""
    import ctypes

    words = task.__sizeof__() // ctypes.sizeof(ctypes.c_void_p)
    memory = (ctypes.c_size_t * words).from_address(id(task))
    places = [place for place, word in enumerate(memory) if word == id(old)]
    if len(places) != 1:
        return False
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(new))
    memory[places[0]] = id(new)
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(old))
    return True
