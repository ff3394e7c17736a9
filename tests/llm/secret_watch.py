"""Watches that no API key gets out: in no log, error, traceback, pickle or span, and nothing shown.

Every key that an LLM test uses holds `testing_support.keys.MARKER`, which is looked for wherever a test
leaves a text.
That every key does so is looked at where the keys arrive: at the test's servers.
"""

from __future__ import annotations

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

    def take(self) -> list[str]:
        taken = sorted(set(self))
        self.clear()
        return taken


_leaks = Leaks()


def is_watched(item: pytest.Item) -> bool:
    """Whether this is a test of the client."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and callspec.params.get("implementation") == "reference":
        return False  # that is OpenAI's client
    folder, name = item.path.parent.name, item.path.name
    return folder == "llm" or (folder == "drop_in" and name.startswith(("test_llm_", "test_health")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    if not is_watched(item):
        return (yield)
    with watched():
        result = yield
    leaks = _leaks.take()
    if leaks:
        pytest.fail(f"the API key is in: {', '.join(leaks)}", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if is_watched(item):
        for name, text in report.sections:
            _leaks.look_at(name, text)
        leaks = _leaks.take()
        if leaks:
            report.outcome = "failed"
            report.longrepr = f"the API key is in: {', '.join(leaks)}"
    return report


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Looks at all that the block logs, shows, raises and sends."""
    requests: list[Request] = []
    root = logging.getLogger()
    level = root.level
    handler = _Handler()
    provider = trace._TRACER_PROVIDER or TracerProvider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(_Spans())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "_TRACER_PROVIDER", provider)
        patch.setattr(pytest.RaisesExc, "__exit__", _looking_at_what_is_raised(pytest.RaisesExc.__exit__))
        for kind in _SHOWN:
            patch.setattr(kind, "__init__", _then(kind.__init__, _look_at_object))
        patch.setattr(FaultyServer, "_read", _noting(FaultyServer._read, requests))
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            root.setLevel(level)
            root.removeHandler(handler)
    for request in requests:
        _expect_recognisable_key(request)


class _Handler(logging.Handler):
    """Looks at every record of every logger."""

    def emit(self, record: logging.LogRecord) -> None:
        _leaks.look_at(f"the log {record.name}", self.format(record))
        _leaks.look_at(f"the log {record.name}", vars(record))


class _Spans(SpanProcessor):
    """Looks at every span."""

    def on_end(self, span: ReadableSpan) -> None:
        _leaks.look_at("a span", span.to_json())


# What may hold a key, or be made of something that does. Each is looked at as soon as it is made.
_SHOWN: list[Any] = [
    llm_service.LLMService,
    llm_service.ModelConfig,
    clients._Client,
    clients.ChatObject,
    streams._Streamed,
    exceptions.APIError,
]


def _look_at_object(shown: Any) -> None:
    held = [held for held in vars(shown).values() if type(held).__module__.startswith("arbitrageai_native")]
    for thing in (shown, *held):
        name = type(thing).__name__
        _leaks.look_at(f"the representation of {name}", f"{thing!r} {thing}")
        with contextlib.suppress(Exception):
            _leaks.look_at(f"a pickle of {name}", pickle.dumps(thing))


def _look_at_error(error: BaseException | None) -> None:
    while error is not None:
        name = type(error).__name__
        _leaks.look_at(f"the text of {name}", f"{error!r} {error} {vars(error)}")
        _leaks.look_at(f"a traceback of {name}", "".join(traceback.format_exception(error)))
        if not type(error).__module__.startswith(_KEEP_THE_REQUEST):
            with contextlib.suppress(Exception):
                _leaks.look_at(f"a pickle of {name}", pickle.dumps(error))
        error = error.__cause__ or error.__context__


def _looking_at_what_is_raised(leave: Callable[..., Any]) -> Callable[..., Any]:
    def leave_and_look(self: Any, kind: Any, error: BaseException | None, trace: Any) -> Any:
        _look_at_error(error)
        return leave(self, kind, error, trace)

    return leave_and_look


def _then(method: Callable[..., Any], look: Callable[[Any], None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def both(self: Any, *arguments: Any, **keywords: Any) -> None:
        method(self, *arguments, **keywords)
        look(self)

    return both


def _noting(read: Callable[..., Request | None], requests: list[Request]) -> Callable[..., Request | None]:
    def read_and_note(self: Any, connection: Any) -> Request | None:
        request = read(self, connection)
        if request is not None:
            requests.append(request)
        return request

    return read_and_note


def _expect_recognisable_key(request: Request) -> None:
    key = (request.header("authorization") or "").removeprefix("Bearer ")
    if key and MARKER not in key and key not in _NO_SECRETS:
        pytest.fail(f"{key!r} would not be recognised if it got out: use testing_support.keys.KEY")
