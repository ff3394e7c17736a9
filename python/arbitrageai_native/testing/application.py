"""The model server's behaviour: routes, scripted answers, recorded requests, counts.

It knows nothing of how it is run.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from arbitrageai_native.testing import answers
from arbitrageai_native.testing.answers import Answer, Answerer, AnyAnswer, Disconnect, Failure
from arbitrageai_native.testing.connection import ClientGoneError, HttpConnection, Responder
from arbitrageai_native.testing.exchange import Limits
from arbitrageai_native.testing.requests import RecordedRequest, Statistics

Delay = float | Callable[[RecordedRequest], float]
DEFAULT_MODELS: Final = ("gpt-4o-mini", "llama3.2")


def echo(request: RecordedRequest) -> str:
    """Answer with the prompt itself: whoever asks many things at once can tell the answers apart."""
    return request.prompt


class ModelApplication:
    """Answers requests; see `ModelServer` for the meaning of the arguments."""

    def __init__(
        self,
        *,
        answer: AnyAnswer | Answerer = echo,
        script: Iterable[AnyAnswer | Answerer] = (),
        delay: Delay = 0.0,
        api_key: str | None = None,
        models: Sequence[str] = DEFAULT_MODELS,
        record: bool = True,
        limits: Limits | None = None,
    ) -> None:
        if not callable(delay) and not 0 <= delay < float("inf"):
            raise ValueError(f"delay must be a number of seconds from 0 on, not {delay!r}")
        for name, given in (("script", script), ("models", models)):
            if isinstance(given, (str, bytes)):  # a string would be taken for a list of its letters
                raise TypeError(f"{name} has to be a list, not {type(given).__name__}")
        self.answer = answer
        self.delay = delay
        self.api_key = api_key
        self.models = tuple(models)
        self.record = record
        self.healthy = True
        self.limits = limits or Limits()
        self.requests: list[RecordedRequest] = []
        self._script: deque[AnyAnswer | Answerer] = deque(script)
        self._numbers = itertools.count(1)
        self._connections: set[HttpConnection] = set()
        self._counts: Counter[str] = Counter()

    def script(self, *further: AnyAnswer | Answerer) -> None:
        """Add answers to be given next, in order, before `answer` has its say again."""
        self._script.extend(further)

    @property
    def statistics(self) -> Statistics:
        """The counts at this moment."""
        counts = self._counts
        abandoned = counts["requests"] - counts["answered"] - counts["in_flight"]
        return Statistics(**counts, open_connections=len(self._connections), abandoned=abandoned)

    def _raise_peak(self, name: str, value: int) -> None:
        self._counts[name] = max(self._counts[name], value)

    def connection_opened(self, connection: HttpConnection) -> int:
        """Count a connection in, and return its number."""
        self._counts["connections"] += 1
        self._connections.add(connection)
        self._raise_peak("peak_connections", len(self._connections))
        return self._counts["connections"]

    def connection_closed(self, connection: HttpConnection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)

    def new_connection(self) -> HttpConnection:
        """Make the protocol object of an accepted connection."""
        return HttpConnection(self, self.limits)

    def end_connections(self) -> None:
        """Close every open connection at once, answers under way included."""
        for connection in list(self._connections):
            connection.end(reset=True)

    async def serve(self, request: RecordedRequest, responder: Responder) -> None:
        """Record a request and answer it."""
        self._counts.update(("requests", "in_flight"))
        self._raise_peak("peak_in_flight", self._counts["in_flight"])
        try:
            if self.record:
                self.requests.append(request)
            await self._route(request, responder)
            self._counts["answered"] += 1
        except ClientGoneError:
            raise
        except (Exception, SystemExit) as error:  # an answerer that exits must not end the server
            traceback.print_exc()
            if responder.started:
                responder.break_off()
            else:
                await self._fail(responder, Failure(500, f"{type(error).__name__}: {error}"))
            self._counts["answered"] += 1
        finally:
            self._counts["in_flight"] -= 1

    async def _route(self, request: RecordedRequest, responder: Responder) -> None:
        method = "GET" if request.method == "HEAD" else request.method
        path = request.path.rstrip("/")
        allowed = {"/v1/chat/completions": "POST", "/v1/models": "GET", "/api/health": "GET"}.get(path)
        if allowed is None:
            await self._fail(responder, Failure(404, f"unknown path {request.path}"))
        elif method != allowed:
            message = f"{request.path} understands {allowed} only"
            await self._fail(responder, Failure(405, message, headers={"Allow": allowed}))
        elif path == "/api/health":
            status = "ok" if self.healthy else "unhealthy"
            await responder.send_json(200 if self.healthy else 503, {"status": status})
        elif self.api_key is not None and request.api_key != self.api_key:
            await self._fail(responder, Failure(401, "Incorrect API key provided", code="invalid_api_key"))
        elif path == "/v1/models":
            models = [
                {"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in self.models
            ]
            await responder.send_json(200, {"object": "list", "data": models})
        else:
            await self._complete_chat(request, responder)

    async def _complete_chat(self, request: RecordedRequest, responder: Responder) -> None:
        try:
            body = request.json
        except (ValueError, RecursionError) as error:
            await self._fail(responder, Failure(400, f"the body is not JSON: {error}"))
            return
        complaint = _complaint(body)
        if complaint is not None:
            await self._fail(responder, Failure(400, complaint))
            return
        answer = await self._choose_answer(request)
        delay = answer.delay if answer.delay is not None else self._default_delay(request)
        if delay > 0:
            await asyncio.sleep(delay)
        if isinstance(answer, Disconnect):
            responder.cut_after(answer.after, reset=answer.reset)
            answer = answer.answer
        if isinstance(answer, Failure):
            await self._fail(responder, answer)
        elif body.get("stream"):
            await self._stream(answer, body, responder)
        else:
            await responder.send_json(
                200, answers.completion_body(answer, body), self._headers(answer.headers)
            )

    async def _choose_answer(self, request: RecordedRequest) -> Answer | Failure | Disconnect:
        chosen: Any = self._script.popleft() if self._script else self.answer
        if callable(chosen):
            chosen = chosen(request)
            if inspect.isawaitable(chosen):
                chosen = await chosen
        if isinstance(chosen, str):
            return Answer(chosen)
        if isinstance(chosen, (Answer, Failure, Disconnect)):
            return chosen
        raise TypeError(
            f"an answer is text, an Answer, a Failure or a Disconnect, not {type(chosen).__name__}"
        )

    def _default_delay(self, request: RecordedRequest) -> float:
        return self.delay(request) if callable(self.delay) else self.delay

    async def _stream(self, answer: Answer, body: Mapping[str, Any], responder: Responder) -> None:
        await responder.start(200, self._headers({"Content-Type": "text/event-stream", **answer.headers}))
        for event, is_piece in answers.stream_events(answer, body):
            if is_piece and answer.piece_delay > 0:
                await asyncio.sleep(answer.piece_delay)
            await responder.write_piece(event)
        await responder.finish()

    async def _fail(self, responder: Responder, failure: Failure) -> None:
        headers = {"Content-Type": "application/json", **failure.headers}
        await responder.send(failure.status, answers.failure_body(failure), self._headers(headers))

    def _headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {"x-request-id": f"req-{next(self._numbers)}", **headers}


def _complaint(body: object) -> str | None:
    """Say what is wrong with a chat request, if anything."""
    if not isinstance(body, dict):
        return "the body is not a JSON object"
    if not isinstance(body.get("model"), str):
        return "'model' must be a string"
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        return "'messages' must be a list that is not empty"
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return f"'messages[{index}]' must be an object with a role"
    return None
