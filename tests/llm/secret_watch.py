"""Watches that no API key gets out: in no log, error, traceback, pickle or span, and nothing shown.

Every key that an LLM test uses holds `testing_support.keys.MARKER`, which is looked for wherever a test
leaves a text.
That every key does so is looked at where the keys arrive: at the test's servers.

What may take long is only noted during the test, and looked at after it: nothing here holds up the loop that
`loop_watch` watches. Of errors and other plain objects a copy is noted, which keeps alive nothing else.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from arbitrageai_native import exceptions, llm_service
from arbitrageai_native.llm import clients, streams
from testing_support.keys import MARKER
from testing_support.servers.faulty_http import FaultyServer, Request

# Errors of an injected client of OpenAI's: in a pickle of them is the request, and with it the key.
_KEEP_THE_REQUEST = ("openai", "httpx")

# What stands in the place of a key where there is none is no secret.
_NO_SECRETS = ("dummy-key-for-local", "not-needed")


class Leaks(list[str]):
    """Where the marker was found."""

    def look_at(self, where: str, text: object) -> None:
        if MARKER in str(text):
            self.append(where)

    def message(self) -> str | None:
        """Return what is to be said about them, and forget them."""
        taken = sorted(set(self))
        self.clear()
        return f"the API key is in: {', '.join(taken)}" if taken else None


_leaks = Leaks()
_noted: list[Callable[[], None]] = []
_servers: list[FaultyServer] = []


def checked(report: Any) -> Any:
    """Return the report of a test's phase: failed, if the key is in what was printed."""
    for name, text in report.sections:
        _leaks.look_at(name, text)
    if message := _leaks.message():
        report.outcome = "failed"
        report.longrepr = message
    return report


def forget_servers() -> None:
    """Begin with a test: what servers of the tests before it were sent is none of its."""
    _servers.clear()


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Looks at all that the block logs, shows, raises and sends."""
    try:
        with _noting():
            yield
    finally:
        for look in _noted:
            look()
        _noted.clear()
        requests = [request for server in _servers for request in server.requests]
        _servers.clear()
    for request in requests:
        _expect_recognisable_key(request)
    if message := _leaks.message():
        pytest.fail(message, pytrace=False)


@contextlib.contextmanager
def _noting() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    handler = _Handler()
    provider = trace._TRACER_PROVIDER or TracerProvider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(_Spans())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        patch.setattr(pytest.RaisesExc, "__exit__", _noting_what_is_raised(pytest.RaisesExc.__exit__))
        for kind in _PLAIN:
            patch.setattr(kind, "__init__", _then(kind.__init__, _note_copy))
        for kind in _SHOWN:
            patch.setattr(kind, "__init__", _then(kind.__init__, _look_at_object))
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            root.setLevel(level)
            root.removeHandler(handler)


class _Handler(logging.Handler):
    """Notes every record of every logger."""

    def emit(self, record: logging.LogRecord) -> None:
        _noted.append(functools.partial(self._look_at, record))

    def _look_at(self, record: logging.LogRecord) -> None:
        _leaks.look_at(f"the log {record.name}", self.format(record))
        _leaks.look_at(f"the log {record.name}", vars(record))


class _Spans(SpanProcessor):
    """Notes every span."""

    def on_end(self, span: ReadableSpan) -> None:
        _noted.append(lambda: _leaks.look_at("a span", span.to_json()))


# What may hold a key, or be made of something that does. Plain objects are noted.
_PLAIN: list[Any] = [llm_service.ModelConfig, clients.ChatObject, exceptions.APIError]
# The others hold connections, which have to end with them: each is looked at as soon as it is made.
_SHOWN: list[Any] = [llm_service.LLMService, clients._Client, streams._Streamed]


def _note_copy(shown: Any) -> None:
    kind = type(shown)
    copy = kind.__new__(kind, *shown.args) if isinstance(shown, BaseException) else kind.__new__(kind)
    vars(copy).update(vars(shown))
    _noted.append(functools.partial(_look_at_object, copy))


def _look_at_object(shown: Any) -> None:
    held = [held for held in vars(shown).values() if type(held).__module__.startswith("arbitrageai_native")]
    for thing in (shown, *held):
        _look_at_text_and_pickle(thing)


def _look_at_text_and_pickle(thing: Any) -> None:
    name = type(thing).__name__
    _leaks.look_at(
        f"the text of {name}", f"{thing!r} {thing} {vars(thing) if isinstance(thing, BaseException) else ''}"
    )
    if not type(thing).__module__.startswith(_KEEP_THE_REQUEST):
        with contextlib.suppress(Exception):
            _leaks.look_at(f"a pickle of {name}", pickle.dumps(thing))


def _note_error(error: BaseException | None) -> None:
    while error is not None:
        name = type(error).__name__
        raised = traceback.TracebackException(type(error), error, error.__traceback__, lookup_lines=False)
        _noted.append(functools.partial(_look_at_traceback, name, raised))
        _note_copy(error)
        error = error.__cause__ or error.__context__


def _look_at_traceback(name: str, raised: traceback.TracebackException) -> None:
    _leaks.look_at(f"a traceback of {name}", "".join(raised.format()))


def _noting_what_is_raised(leave: Callable[..., Any]) -> Callable[..., Any]:
    def note_and_leave(self: Any, kind: Any, error: BaseException | None, trace: Any) -> Any:
        _note_error(error)
        return leave(self, kind, error, trace)

    return note_and_leave


def _then(method: Callable[..., Any], look: Callable[[Any], None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def both(self: Any, *arguments: Any, **keywords: Any) -> None:
        method(self, *arguments, **keywords)
        look(self)

    return both


# Servers that a fixture starts are there before the test: all are noted from here on.
FaultyServer.__init__ = _then(FaultyServer.__init__, _servers.append)  # type: ignore[method-assign]


def _expect_recognisable_key(request: Request) -> None:
    scheme, _, key = (request.header("authorization") or "").partition(" ")
    if scheme == "Basic":
        key = base64.b64decode(key).decode()
    if key and MARKER not in key and key not in _NO_SECRETS:
        pytest.fail(f"{key!r} would not be recognised if it got out: use testing_support.keys.KEY")
