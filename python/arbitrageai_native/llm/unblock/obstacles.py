"""What stands in the way of other tasks that run in the midst of a plain function.

The functions between a blocking method and its task were written when nothing ran in between. Where that is
a condition, the call blocks as before, and the reason is logged: a lock of a thread that one of them holds
(another task that wants it would stop the loop for ever, or get it a second time), an import, `__del__`,
a signal handler, native code of ours below. A transaction that is open is only reported.
"""

from __future__ import annotations

import ast
import dis
import inspect
import linecache
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from types import CodeType, FrameType
from typing import Any, NamedTuple

# Without the enumerations that `signal` makes of its results.
_getsignal = sys.modules["_signal"].getsignal
_PACKAGE = str(PurePath(__file__).parent.parent.parent)
_logger = logging.getLogger("arbitrageai_native.llm")

_WITH = {dis.opmap[name] for name in ("SETUP_WITH", "BEFORE_WITH", "LOAD_SPECIAL") if name in dis.opmap}
_WORDS = ("lock", "mutex", "semaphore")


class Region(NamedTuple):
    """Lines of a function in which it holds what an expression stands for; and where it begins to."""

    first: int
    last: int
    held: ast.expr
    line: int


def reason_to_block(frames: Sequence[FrameType]) -> str | None:
    """Return why no other task may run now, if it is so. The innermost frame is the first."""
    handlers = _signal_handlers()
    inner: FrameType | None = None  # a frame of the application
    for frame in frames:
        code = frame.f_code
        if inner is not None and is_ours(frame) and _calls_native_code(frame):
            return f"native code called {_place(inner)}"
        inner = None if is_ours(frame) else frame
        if code.co_name == "__del__":
            return f"{_place(frame)} is a __del__, which may run in the midst of anything"
        if code.co_filename.startswith("<frozen importlib"):
            return "a module is being imported"
        if code in handlers:
            return f"{_place(frame)} is a signal handler, which may run in the midst of anything"
        shared = _shared_session(frame)
        if shared is not None:
            return f"{shared} has a transaction open, and every task of the thread has the same session"
        for region in regions(code):
            if region.first <= frame.f_lineno <= region.last and is_lock(region.held, frame):
                return (
                    f"{ast.unparse(region.held)} is held, since {code.co_filename}:{region.line} in "
                    f"{code.co_name}; let go of it before the call, or make it an asyncio lock"
                )
    return None


def is_ours(frame: FrameType) -> bool:
    """Whether a frame is of this package."""
    return frame.f_code.co_filename.startswith(_PACKAGE)


def _calls_native_code(frame: FrameType) -> bool:
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    return not line or "_native." in line


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _signal_handlers() -> set[CodeType]:
    if threading.current_thread() is not threading.main_thread():
        return set()
    found = set()
    for number in range(1, signal.NSIG):
        try:
            handler: Any = _getsignal(number)
        except ValueError:  # Windows has few of the numbers
            continue
        if handler is None or isinstance(handler, int):
            continue
        handler = getattr(handler, "func", handler)  # of a `partial`
        handler = getattr(handler, "__func__", handler)
        if not hasattr(handler, "__code__"):  # an object that can be called
            handler = getattr(type(handler), "__call__", None)  # noqa: B004
        code = getattr(handler, "__code__", None)
        if code is not None:
            found.add(code)
    return found


# --- locks ---

_regions: dict[CodeType, tuple[Region, ...]] = {}


def regions(code: CodeType) -> tuple[Region, ...]:
    """Return where a function holds something, by its source."""
    found = _regions.get(code)
    if found is None:
        found = _regions[code] = tuple(_regions_of(code)) if _may_hold(code) else ()
    return found


def _may_hold(code: CodeType) -> bool:
    return "release" in code.co_names or not _WITH.isdisjoint(code.co_code[::2])


def _regions_of(code: CodeType) -> Iterator[Region]:
    for node in ast.walk(_tree(code)):
        if isinstance(node, ast.With):
            for item in node.items:
                held = item.optional_vars if isinstance(item.context_expr, ast.Call) else None
                yield _region(
                    node.body, held if isinstance(held, ast.Name) else item.context_expr, node.lineno
                )
                if held is not None:
                    yield _region(node.body, item.context_expr, node.lineno)
        elif isinstance(node, ast.Try):
            for held in _released(node.finalbody):
                yield _region([*node.body, *node.handlers, *node.orelse], held, node.lineno)


def _region(body: Sequence[ast.stmt | ast.excepthandler], held: ast.expr, line: int) -> Region:
    return Region(body[0].lineno, body[-1].end_lineno or body[-1].lineno, held, line)


def _released(statements: Sequence[ast.stmt]) -> Iterator[ast.expr]:
    for statement in statements:
        call = statement.value if isinstance(statement, ast.Expr) else None
        function = call.func if isinstance(call, ast.Call) else None
        if isinstance(function, ast.Attribute) and function.attr == "release":
            yield function.value


def _tree(code: CodeType) -> ast.AST:
    lines = linecache.getlines(code.co_filename)
    if code.co_name != "<module>":
        first = code.co_firstlineno
        lines = inspect.getblock(lines[first - 1 :])
        # It may be indented. Its lines keep their numbers.
        lines = ["\n"] * (first - 2) + ["if 1:\n" if first > 1 else ""] + [*lines]
        if lines and first > 1 and not lines[first - 1][:1].isspace():
            lines[first - 2] = "\n"
    try:
        return ast.parse("".join(lines))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def is_lock(held: ast.expr, frame: FrameType) -> bool:
    """Whether an expression of a function stands for a lock that is none of asyncio's."""
    try:
        value = _value(held, frame)
    except LookupError:
        # A call can't be made again, to see what it returns. Its name has to do.
        return isinstance(held, ast.Call) and any(word in ast.unparse(held).lower() for word in _WORDS)
    names = ("acquire", "release")  # some kinds have them in each object
    is_lock = all(callable(inspect.getattr_static(value, name, None)) for name in names)
    return is_lock and not hasattr(type(value), "__aenter__")


def _value(expression: ast.expr, frame: FrameType) -> Any:
    """Return what names and attributes stand for, without running any code of the application.

    Raises:
        LookupError: it is something else, or not there.
    """
    if isinstance(expression, ast.Name):
        for names in (frame.f_locals, frame.f_globals):
            if expression.id in names:
                return names[expression.id]
    elif isinstance(expression, ast.Attribute):
        owner = _value(expression.value, frame)
        try:
            found = inspect.getattr_static(owner, expression.attr)
        except AttributeError as error:
            raise LookupError from error
        return getattr(owner, expression.attr) if inspect.ismemberdescriptor(found) else found
    raise LookupError


# --- transactions ---

_reported: set[tuple[str, int]] = set()
_MOST_REPORTED = 1000


def report_transactions(frames: Sequence[FrameType]) -> None:
    """Log, once for each line, which function has a transaction open while others may run."""
    kinds = _kinds_with_transactions()
    if not kinds:
        return
    for frame in frames:
        if _is_of_a_library(frame):
            continue
        place = frame.f_code.co_filename, frame.f_lineno
        if place in _reported or len(_reported) >= _MOST_REPORTED:
            continue
        names = frame.f_locals
        own = names.get("self")
        attributes = getattr(own, "__dict__", None) or {}
        for name, value in [*names.items(), *((f"self.{name}", value) for name, value in attributes.items())]:
            if isinstance(value, kinds) and _is_in_transaction(value):
                _reported.add(place)
                _logger.warning(
                    "%s: %s has a transaction open while the service waits and other tasks run: they can't "
                    "use its connection, wait for what it has locked, and must not use %s themselves; end it "
                    "before the call",
                    *(_place(frame), name, name),
                )
                break


def _kinds_with_transactions() -> tuple[type[Any], ...]:
    # A program that has not imported them has none of them open.
    places = (("sqlalchemy.orm", "Session"), ("sqlalchemy", "Connection"), ("sqlite3", "Connection"))
    found = [getattr(sys.modules.get(module), name, None) for module, name in places]
    return tuple(kind for kind in found if isinstance(kind, type))


def _shared_session(frame: FrameType) -> str | None:
    """Return the name of a `scoped_session` that the function uses, if it has a transaction open."""
    kind = getattr(sys.modules.get("sqlalchemy.orm"), "scoped_session", None)
    if kind is None or _is_of_a_library(frame):
        return None
    code = frame.f_code
    found = [(name, frame.f_globals.get(name)) for name in code.co_names]
    if code.co_freevars:
        found += [(name, frame.f_locals.get(name)) for name in code.co_freevars]
    for name, value in found:
        if isinstance(value, kind) and value.registry.has() and _is_in_transaction(value.registry()):
            return name
    return None


def _is_of_a_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return "site-packages" in file or file.startswith(("<", _PACKAGE))


def _is_in_transaction(value: Any) -> bool:
    try:
        found = value.in_transaction
        return bool(found() if callable(found) else found)
    except Exception:  # whatever a connection does that was closed, or is another thread's
        return False
