"""Clients with the shape of OpenAI's Python SDK: `client.chat.completions.create(...)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from arbitrageai_native import _late, _native, defaults, environment
from arbitrageai_native import _late_typing as typing
from arbitrageai_native._safe_text import check_text, without_secrets
from arbitrageai_native.exceptions import InvalidArgumentTypeError, OpenAIError
from arbitrageai_native.llm.settings import CALL_SETTINGS, default_max_connections

__all__ = ["AsyncOpenAI", "ChatObject", "OpenAI"]

# What the API documents as optional: absent, it reads as None, as in the SDK's models.
_OPTIONAL = frozenset(
    [
        "annotations",
        "audio",
        "choices",
        "content",
        "finish_reason",
        "function_call",
        "id",
        "logprobs",
        "model",
        "name",
        "reasoning",
        "reasoning_content",
        "refusal",
        "role",
        "service_tier",
        "system_fingerprint",
        "tool_calls",
        "usage",
        "completion_tokens_details",
        "prompt_tokens_details",
    ]
)


class ChatObject:
    """What the server sent, with attribute access all the way down; `model_dump()` gives plain dicts."""

    def __init__(self, members: dict[str, typing.Any]) -> None:
        self.__dict__.update({name: _wrapped(value) for name, value in members.items()})

    def __getattr__(self, name: str) -> typing.Any:
        if name in _OPTIONAL:
            return None
        raise AttributeError(f"the answer has no member {name!r}")

    def __getitem__(self, name: str) -> typing.Any:
        return self.__dict__[name]

    def __iter__(self) -> Iterator[tuple[str, typing.Any]]:
        return iter(self.__dict__.items())

    def model_dump(self, *, exclude_none: bool = False, **_: typing.Any) -> dict[str, typing.Any]:
        """What the server sent, as a dict."""
        plain = {name: _plain(value, exclude_none) for name, value in self.__dict__.items()}
        return {name: value for name, value in plain.items() if not (exclude_none and value is None)}

    to_dict = model_dump

    def model_dump_json(self, *, indent: int | None = None, **_: typing.Any) -> str:
        """What the server sent, as JSON."""
        import json  # nothing else here needs it

        return json.dumps(self.model_dump(), indent=indent, ensure_ascii=False)

    to_json = model_dump_json

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if isinstance(other, ChatObject) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ChatObject({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


def _wrapped(value: typing.Any) -> typing.Any:
    if isinstance(value, dict):
        return ChatObject(value)
    if isinstance(value, list):
        return [_wrapped(item) for item in value]
    return value


def _plain(value: typing.Any, exclude_none: bool) -> typing.Any:
    if isinstance(value, ChatObject):
        return value.model_dump(exclude_none=exclude_none)
    if isinstance(value, list):
        return [_plain(item, exclude_none) for item in value]
    return value


class _Completions:
    def __init__(self, client: _Client) -> None:
        self._client = client

    def _prepare(
        self, arguments: dict[str, typing.Any]
    ) -> tuple[dict[str, typing.Any], _native.CallOptions, _native.CallMetrics, typing.Any, typing.Any]:
        for name in ("model", "messages"):
            if name not in arguments:
                raise InvalidArgumentTypeError(f"{name} is missing")
        extra_headers = arguments.pop("extra_headers", None)
        extra_query = arguments.pop("extra_query", None)
        extra_body = arguments.pop("extra_body", None)
        changed = {name: arguments.pop(name) for name in CALL_SETTINGS & arguments.keys()}
        client = self._client
        options = client._options.adjusted(changed) if changed else client._options
        return {**arguments, **(extra_body or {})}, options, client._metrics, extra_headers, extra_query


class Completions(_Completions):
    """`client.chat.completions`, synchronous."""

    def create(self, **arguments: typing.Any) -> typing.Any:
        """Make the call and wait for its answer; with `stream=True` an iterator of chunks.

        Keywords are members of the request, except `extra_headers`, `extra_query`, `extra_body` and the
        call's settings (`timeout`, `deadline`, `max_retries`, …).

        Raises:
            OpenAIError: any of its subclasses.
        """
        streaming = bool(arguments.get("stream"))
        body, options, metrics, headers, query = self._prepare(arguments)
        if streaming:
            return _late.Stream(
                self._client._native.stream(body, options, metrics, None, headers, query), ChatObject
            )
        return ChatObject(self._client._native.create(body, options, metrics, headers, query))


class AsyncCompletions(_Completions):
    """`client.chat.completions`, for coroutines."""

    async def create(self, **arguments: typing.Any) -> typing.Any:
        """Make the call, as `Completions.create`; with `stream=True` an asynchronous iterator of chunks."""
        streaming = bool(arguments.get("stream"))
        body, options, metrics, headers, query = self._prepare(arguments)
        if streaming:
            return _late.AsyncStream(
                self._client._native.stream(body, options, metrics, None, headers, query), ChatObject
            )
        return ChatObject(await self._client._native.create_async(body, options, metrics, headers, query))


class Chat:
    """`client.chat`."""

    def __init__(self, completions: _Completions) -> None:
        self.completions: typing.Any = completions


class _Client:
    _completions_class: type[_Completions] = Completions

    def __init__(
        self,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        timeout: float | None = defaults.CLIENT_TIMEOUT,
        max_retries: int = defaults.CALL_SETTINGS["max_retries"],
        default_headers: Mapping[str, str | None] | None = None,
        **settings: typing.Any,
    ) -> None:
        api_key = api_key if api_key is not None else environment.openai_api_key()
        if api_key is None:
            raise OpenAIError("api_key is missing: pass it, or set the environment variable OPENAI_API_KEY")
        if base_url is None:
            base_url = environment.openai_base_url()
        for name, value in (("base_url", base_url), ("api_key", api_key)):
            if not isinstance(value, str):
                raise InvalidArgumentTypeError(f"{name} has to be a string, not {type(value).__name__}")
            check_text(name, value)
        self.base_url = base_url
        """The endpoint."""
        self.api_key = api_key
        """Its key."""
        headers = {**organization_headers(organization, project), **(default_headers or {})}
        settings.setdefault("max_connections", default_max_connections())
        # The SDK sends no such header, and code that came from it may compare requests.
        settings.setdefault("idempotency_key", defaults.CLIENT_IDEMPOTENCY_KEY)
        settings.update(timeout=timeout, max_retries=max_retries, default_headers=headers)
        self._options = _native.CallOptions(**{**defaults.CALL_SETTINGS, **settings})
        self._metrics = _native.CallMetrics()
        self._native = _native.ChatClient(base_url, api_key)
        self._own_chat = Chat(self._completions_class(self))
        self._own_completions = self._own_chat.completions
        self.chat: typing.Any = self._own_chat
        """`chat.completions.create(...)` makes a call."""

    def _is_replaced(self) -> bool:
        """Whether a test (or an application) put something of its own in the place of our `create`."""
        chat = self.chat
        return (
            chat is not self._own_chat
            or chat.completions is not self._own_completions
            or "create" in self._own_completions.__dict__
        )

    def metrics(self) -> dict[str, typing.Any]:
        """Counters of this client's own `create` calls."""
        return self._metrics.snapshot()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={without_secrets(self.base_url)!r})"

    def __reduce__(self) -> typing.Any:
        raise TypeError(f"{type(self).__name__} holds an API key and is not pickled")


def organization_headers(organization: str | None, project: str | None) -> dict[str, str]:
    """The headers for `OPENAI_ORG_ID` and `OPENAI_PROJECT_ID`."""
    found = {
        "OpenAI-Organization": organization or environment.openai_organization(),
        "OpenAI-Project": project or environment.openai_project(),
    }
    return {name: value for name, value in found.items() if value}


class OpenAI(_Client):
    """A native client of an OpenAI-compatible server, with the SDK's shape.

    `OpenAI(base_url=…, api_key=…)`; without them the environment's `OPENAI_BASE_URL` and `OPENAI_API_KEY`.
    Further keywords are the call's settings. Connections are the process's: there is nothing that has to be
    closed, and a fork does no harm.
    """

    _completions_class = Completions

    def close(self) -> None:
        """Do nothing: for code that closes its client."""

    def __enter__(self) -> OpenAI:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncOpenAI(_Client):
    """As `OpenAI`, for coroutines. It belongs to no event loop."""

    _completions_class = AsyncCompletions

    async def close(self) -> None:
        """Do nothing: for code that closes its client."""

    aclose = close
    """The same, by its other name."""

    async def __aenter__(self) -> AsyncOpenAI:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
