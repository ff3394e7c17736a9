"""Clients with the shape of OpenAI's Python SDK: `client.chat.completions.create(...)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast, overload

from arbitrageai_native import _native, defaults, environment
from arbitrageai_native._safe_text import check_text, without_secrets
from arbitrageai_native._typing import Self, Unpack
from arbitrageai_native.exceptions import InvalidArgumentTypeError, OpenAIError
from arbitrageai_native.llm import blocking, settings
from arbitrageai_native.llm.checks import check_kind, warn_if_patched, with_extra_body
from arbitrageai_native.llm.keys import ApiKey, check_key, client_of
from arbitrageai_native.llm.keywords import meant, warn_of_misspelt
from arbitrageai_native.llm.results import ServiceMetrics
from arbitrageai_native.llm.settings import Headers, Timeout
from arbitrageai_native.llm.signatures import lists_keywords
from arbitrageai_native.llm.streams import AsyncStream, Stream

__all__ = ["AsyncChat", "AsyncCompletions", "AsyncOpenAI", "Chat", "ChatObject", "Completions", "OpenAI"]


class ChatObject:
    """What the server sent, with attribute access all the way down; `model_dump()` gives plain dicts.

    Other members than these can be read, too, if the server sent them.

    Attributes:
        id: the answer's, a tool call's. model: the model that answered. usage: the tokens.
        choices: the answers. message: in one of them, what it says. delta: in one of a stream, a piece of it.
        finish_reason: why the model stopped. content: the text. role: whose. name: likewise.
        tool_calls: the calls of tools. function_call: an older form of one. refusal: why the model refused.
        reasoning: its thoughts. reasoning_content: the same, of other servers. logprobs: probabilities.
        annotations: sources. audio: sound. service_tier: how it was served. system_fingerprint: by what.
        completion_tokens_details: tokens of an answer by kind. prompt_tokens_details: of a request.
        _request_id: the server's name of the request, of a whole answer; None if it names none.
        _rate_limits: the headers about the server's limits, of a whole answer; None without them.
    """

    __slots__ = ("__dict__", "_hidden", "_rate_limits", "_request_id")

    # Absent, a member that the API documents as optional reads as None, as in the SDK's models.
    annotations: Any = None
    audio: Any = None
    choices: Any = None
    content: Any = None
    delta: Any = None
    finish_reason: Any = None
    function_call: Any = None
    id: Any = None
    logprobs: Any = None
    message: Any = None
    model: Any = None
    name: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    role: Any = None
    service_tier: Any = None
    system_fingerprint: Any = None
    tool_calls: Any = None
    usage: Any = None
    completion_tokens_details: Any = None
    prompt_tokens_details: Any = None

    def __init__(
        self,
        members: dict[str, Any],
        request_id: str | None = None,
        rate_limits: dict[str, str] | None = None,
    ) -> None:
        wrapped = {name: _wrapped(value) for name, value in members.items()}
        if not _METHODS.isdisjoint(wrapped):
            # As attributes they would hide the methods: they can be read by `[…]`.
            self._hidden = {name: wrapped.pop(name) for name in _METHODS & wrapped.keys()}
        self.__dict__.update(wrapped)
        if request_id is not None:
            self._request_id = request_id
        if rate_limits is not None:
            self._rate_limits = rate_limits

    def __getattr__(self, name: str) -> Any:
        if name in ("_request_id", "_rate_limits", "_hidden"):
            return None
        raise AttributeError(f"the answer has no member {name!r}")

    def __getitem__(self, name: str) -> Any:
        return self._members()[name]

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._members().items())

    def _members(self) -> dict[str, Any]:
        hidden = self._hidden
        return {**self.__dict__, **hidden} if hidden else self.__dict__

    def model_dump(self, *, exclude_none: bool = False, **_: Any) -> dict[str, Any]:
        """What the server sent, as a dict."""
        plain = {name: _plain(value, exclude_none) for name, value in self._members().items()}
        return {name: value for name, value in plain.items() if not (exclude_none and value is None)}

    to_dict = model_dump
    """The same, by its other name."""

    def model_dump_json(self, *, indent: int | None = None, **_: Any) -> str:
        """What the server sent, as JSON."""
        import json  # no call needs it, and it takes a tenth of the time that importing the package takes

        return json.dumps(self.model_dump(), indent=indent, ensure_ascii=False)

    to_json = model_dump_json
    """The same, by its other name."""

    def __eq__(self, other: object) -> bool:
        return self._members() == other._members() if isinstance(other, ChatObject) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ChatObject({', '.join(f'{name}={value!r}' for name, value in self._members().items())})"


_METHODS = frozenset(name for name, value in vars(ChatObject).items() if callable(value))


def _wrapped(value: Any) -> Any:
    if isinstance(value, dict):
        return ChatObject(value)
    if isinstance(value, list):
        return [_wrapped(item) for item in value]
    return value


def _plain(value: Any, exclude_none: bool) -> Any:
    if isinstance(value, ChatObject):
        return value.model_dump(exclude_none=exclude_none)
    if isinstance(value, list):
        return [_plain(item, exclude_none) for item in value]
    return value


class _Completions:
    def __init__(self, client: _Client) -> None:
        self._client = client

    def _prepare(
        self, stream: bool | None, keywords: dict[str, Any]
    ) -> tuple[dict[str, Any], _native.CallOptions, _native.CallMetrics, None, Any, Any]:
        arguments = settings.given(keywords if stream is None else {**keywords, "stream": stream})
        for name in ("model", "messages"):
            if name not in arguments:
                raise InvalidArgumentTypeError(f"{name} is missing")
        check_kind("model", arguments["model"], str, "a string")
        headers, query, extra = (
            arguments.pop(f"extra_{name}", None) for name in ("headers", "query", "body")
        )
        changed = {name: arguments.pop(name) for name in settings.CALL_SETTINGS & arguments.keys()}
        if not settings.KNOWN_TO_CLIENTS.issuperset(arguments):
            unknown = arguments.keys() - settings.KNOWN_TO_CLIENTS
            warn_of_misspelt(unknown, settings.KNOWN_TO_CLIENTS)
        client = self._client
        options = client._options.adjusted(changed) if changed else client._options
        return with_extra_body(arguments, extra), options, client._metrics, None, headers, query


class Completions(_Completions):
    """`client.chat.completions`, synchronous."""

    @overload
    def create(
        self, *, stream: Literal[False] | None = None, **keywords: Unpack[settings.CreateKeywords]
    ) -> ChatObject: ...
    @overload
    def create(
        self, *, stream: Literal[True], **keywords: Unpack[settings.CreateKeywords]
    ) -> Stream[ChatObject]: ...
    @overload
    def create(
        self, *, stream: bool | None, **keywords: Unpack[settings.CreateKeywords]
    ) -> ChatObject | Stream[ChatObject]: ...
    @lists_keywords(settings.CreateKeywords)
    def create(
        self, *, stream: bool | None = None, **keywords: Unpack[settings.CreateKeywords]
    ) -> ChatObject | Stream[ChatObject]:
        """Make the call and wait for its answer; with `stream=True` an iterator of chunks.

        Keywords are members of the request, except `extra_headers`, `extra_query`, `extra_body` and the
        call's settings (`timeout`, `deadline`, `max_retries`, …). Type checkers know those that
        `CreateKeywords` names; `extra_body` takes members of any name.

        Raises:
            OpenAIError: any of its subclasses.
        """
        prepared = self._prepare(stream, dict(keywords))
        if stream:
            return Stream(self._client._native.stream(prepared), ChatObject)
        resume = blocking.awaiter("create")
        if resume is not None:
            return ChatObject(*resume(self._client._native.create_async(prepared)))
        return ChatObject(*self._client._native.create(prepared))


class AsyncCompletions(_Completions):
    """`client.chat.completions`, for coroutines."""

    @overload
    async def create(
        self, *, stream: Literal[False] | None = None, **keywords: Unpack[settings.CreateKeywords]
    ) -> ChatObject: ...
    @overload
    async def create(
        self, *, stream: Literal[True], **keywords: Unpack[settings.CreateKeywords]
    ) -> AsyncStream[ChatObject]: ...
    @overload
    async def create(
        self, *, stream: bool | None, **keywords: Unpack[settings.CreateKeywords]
    ) -> ChatObject | AsyncStream[ChatObject]: ...
    @lists_keywords(settings.CreateKeywords)
    async def create(
        self, *, stream: bool | None = None, **keywords: Unpack[settings.CreateKeywords]
    ) -> ChatObject | AsyncStream[ChatObject]:
        """Make the call, as `Completions.create`; with `stream=True` an asynchronous iterator of chunks."""
        prepared = self._prepare(stream, dict(keywords))
        if stream:
            return AsyncStream(self._client._native.stream(prepared), ChatObject)
        return ChatObject(*await self._client._native.create_async(prepared))


class Chat:
    """`client.chat`, synchronous.

    Attributes:
        completions: What makes calls.
    """

    def __init__(self, client: OpenAI) -> None:
        self.completions = Completions(client)


class AsyncChat:
    """`client.chat`, for coroutines.

    Attributes:
        completions: What makes calls.
    """

    def __init__(self, client: AsyncOpenAI) -> None:
        self.completions = AsyncCompletions(client)


class _Client:
    # Each client declares its own class of it, and not by a type variable: editors do not resolve that.
    chat: Any
    """What makes calls."""
    _chat_class: type[Any]

    @lists_keywords(settings.ClientSettings)
    def __init__(
        self,
        *,
        api_key: ApiKey | None = None,
        base_url: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        timeout: float | Timeout | None = defaults.CLIENT_TIMEOUT,
        max_retries: int = defaults.CALL_SETTINGS["max_retries"],
        default_headers: Headers | None = None,
        **settings: Unpack[settings.ClientSettings],
    ) -> None:
        api_key = api_key if api_key is not None else environment.openai_api_key()
        if api_key is None:
            raise OpenAIError("api_key is missing: pass it, or set the environment variable OPENAI_API_KEY")
        if base_url is None:
            base_url = environment.openai_base_url()
        warn_if_patched()
        self._connect(base_url, api_key)
        own: dict[str, Any] = {"organization": organization, "project": project}
        own |= {"timeout": timeout, "max_retries": max_retries, "default_headers": default_headers}
        # The SDK sends no such header, and code that came from it may compare requests.
        self._options = call_options({"idempotency_key": defaults.CLIENT_IDEMPOTENCY_KEY, **settings, **own})
        self._metrics = _native.CallMetrics()
        self.chat = self._own_chat = self._chat_class(self)
        self._own_completions = self._own_chat.completions

    @property
    def base_url(self) -> str:
        """The endpoint. Another one holds for the calls to come."""
        return self._base_url

    @base_url.setter
    def base_url(self, base_url: str) -> None:
        self._connect(base_url, self._api_key)

    @property
    def api_key(self) -> ApiKey:
        """Its key, or a function that returns it. Another one holds for the calls to come."""
        return self._api_key

    @api_key.setter
    def api_key(self, api_key: ApiKey) -> None:
        self._connect(self._base_url, api_key)

    def _connect(self, base_url: str, api_key: ApiKey) -> None:
        if not isinstance(base_url, str):
            raise InvalidArgumentTypeError(f"base_url has to be a string, not {type(base_url).__name__}")
        check_text("base_url", base_url)
        check_key(api_key)
        self._native = client_of(base_url, api_key)
        self._base_url, self._api_key = base_url, api_key

    def _is_replaced(self) -> bool:
        """Whether a test or an application replaced our `create`."""
        chat = self.chat
        return (
            chat is not self._own_chat
            or chat.completions is not self._own_completions
            or "create" in self._own_completions.__dict__
        )

    def metrics(self) -> ServiceMetrics:
        """Return the counters of this client's own `create` calls."""
        return cast("ServiceMetrics", self._metrics.snapshot())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={without_secrets(self.base_url)!r})"

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} holds an API key and is not pickled")


def headers_of_calls(organization: str | None, project: str | None, default_headers: Any) -> Any:
    """Return what is sent with every call: the headers for `OPENAI_ORG_ID` and `OPENAI_PROJECT_ID`, too."""
    if not isinstance(default_headers or {}, Mapping):
        return default_headers  # native code refuses what is not a mapping
    found = {
        "OpenAI-Organization": organization or environment.openai_organization(),
        "OpenAI-Project": project or environment.openai_project(),
    }
    return {**{name: value for name, value in found.items() if value}, **(default_headers or {})}


def call_options(given: dict[str, Any]) -> _native.CallOptions:
    """Return the options of the calls of a service or a client, of its keyword settings."""
    of_calls = (given.pop(name, None) for name in ("organization", "project", "default_headers"))
    given["default_headers"] = headers_of_calls(*of_calls)
    for name in given.keys() - settings.KNOWN_SETTINGS:
        other = meant(name, settings.KNOWN_SETTINGS)
        if other is not None:
            raise InvalidArgumentTypeError(f"{name} is not a setting: did you mean {other}?")
    given.setdefault("max_connections", settings.default_max_connections())
    return _native.CallOptions(**{**defaults.CALL_SETTINGS, **given})


class OpenAI(_Client):
    """A native client of an OpenAI-compatible server, with the SDK's shape.

    `OpenAI(base_url=…, api_key=…)`; without them the environment's `OPENAI_BASE_URL` and `OPENAI_API_KEY`.
    Further keywords are the call's settings. Connections are the process's: there is nothing that has to be
    closed, and a fork does no harm.
    """

    chat: Chat
    """`chat.completions.create(...)` makes a call."""
    _chat_class = Chat

    def close(self) -> None:
        """Do nothing: for code that closes its client."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncOpenAI(_Client):
    """As `OpenAI`, for coroutines. It belongs to no event loop."""

    chat: AsyncChat
    """`await chat.completions.create(...)` makes a call."""
    _chat_class = AsyncChat

    async def close(self) -> None:
        """Do nothing: for code that closes its client."""

    aclose = close
    """The same, by its other name."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def is_native(client: Any) -> bool:
    """Whether a call may go through native code: the client is ours, and nothing of it was replaced."""
    return type(client) in (OpenAI, AsyncOpenAI) and not client._is_replaced()
