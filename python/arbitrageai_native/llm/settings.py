"""The keywords of services and calls: their names, their types, and which of them are settings of a call."""

# Annotations are evaluated here at once: as strings, each would be compiled when its class is made.
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from os import PathLike
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar

from arbitrageai_native.llm.keys import ApiKey
from arbitrageai_native.llm.model_config import ModelConfig

Headers: TypeAlias = Mapping[str, str | bytes | None]
"""Header fields; a value of None removes the field."""

Prompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or a list of content parts."""


class Timeout(Protocol):
    """The SDK's `httpx.Timeout`: `read` limits a try, `connect` making a connection."""

    @property
    def read(self) -> float | None:
        """Seconds, or None."""

    @property
    def connect(self) -> float | None:
        """Seconds, or None."""


class _CommonSettings(TypedDict, total=False):
    """Settings that clients, services and calls have. Times in seconds; None: no limit.

    deadline: the whole call with its retries and waits.
    connect_timeout: making a connection (5). first_byte_timeout: from sending the request to the
    answer's head. idle_timeout: between two parts of an answer's body.
    retry_base: the first wait before a retry (0.5).
    retry_cap: the longest (8). retry_jitter: the random part of a wait (0.25).
    retry_after_limit: the longest wait that a server may ask for (120).
    idempotency_key: whether each call has a header of its own (True; of a client False); or a string.
    max_body_bytes: the longest answer, and the longest event of a stream (64 MiB).
    """

    deadline: float | None
    connect_timeout: float | None
    first_byte_timeout: float | None
    idle_timeout: float | None
    retry_base: float
    retry_cap: float
    retry_jitter: float
    retry_after_limit: float
    idempotency_key: bool | str | None
    max_body_bytes: int


class CallSettings(_CommonSettings, total=False):
    """Settings of one call; a service may have them for all of its calls.

    timeout: limit of one try (30; of a client 600); for a stream, of the first event and of each gap.
    max_retries: tries after the first (2).
    """

    timeout: float | Timeout | None
    max_retries: int


# These keywords limit a call; they are not members of its request.
CALL_SETTINGS = frozenset(CallSettings.__optional_keys__)


class ClientSettings(_CommonSettings, total=False):
    """Further keywords of `OpenAI` and `AsyncOpenAI`.

    max_connections: requests under way at once; more wait in line, which counts against `deadline` only.
    http2: True uses HTTP/2 with servers that offer it (False). All calls to a server then share one
    connection and its limit on streams (often 100); waiting for a stream counts against `timeout`.
    ca_certs: a file with the certificates that are trusted instead of the system's.
    client_cert: a file with the client's certificate and key, or a pair of files.
    verify: False accepts any certificate of the server.
    proxy: the URL of an HTTP or SOCKS proxy for all requests, whatever the environment says.
    unix_socket: the path of a socket for all connections.
    """

    max_connections: int
    http2: bool
    ca_certs: str | PathLike[str] | None
    client_cert: str | PathLike[str] | tuple[str | PathLike[str], str | PathLike[str]] | None
    verify: bool
    proxy: str | None
    unix_socket: str | PathLike[str] | None


class ServiceSettings(CallSettings, ClientSettings, total=False):
    """Further keywords of `LLMService`.

    default_headers: sent with every request. organization: likewise (`OPENAI_ORG_ID`).
    project: likewise (`OPENAI_PROJECT_ID`).
    stealth_range: the least and the longest stealth wait (2, 5).
    fallback_timeouts: of the two tries and the local one (10, 20, 30).
    fallback_delays: before the second and third (2, 5).
    """

    default_headers: Headers | None
    organization: str | None
    project: str | None
    stealth_range: tuple[float, float]
    fallback_timeouts: tuple[float | None, float | None, float | None]
    fallback_delays: tuple[float, float]


class _Constructor(ServiceSettings, total=False):
    """What `LLMService` takes besides, and each of its class methods.

    base_url: api_key: default_temperature: default_max_tokens: enable_fallback: enable_circuit_breaker:
    as in `LLMService`.
    """

    base_url: str | None
    api_key: ApiKey | None
    default_temperature: float | None
    default_max_tokens: int | None
    enable_fallback: bool
    enable_circuit_breaker: bool | Literal["always"]


class ServerKeywords(_Constructor, total=False):
    """Keywords of `LLMService.with_local` and its like.

    model_config: as in `LLMService`.
    """

    model_config: ModelConfig | None


class TaskKeywords(_Constructor, total=False):
    """Keywords of `LLMService.for_task`.

    model: as in `LLMService`.
    """

    model: str


class ConstructorKeywords(ServerKeywords, TaskKeywords, total=False):
    """Keywords of `LLMService`'s other class methods."""


class RequestMembers(CallSettings, total=False):
    """Members of a request as OpenAI's API documents them, a call's settings, and three `extra_…`.

    extra_headers: further header fields. extra_query: further parameters of the URL.
    extra_body: further members of the request, whatever their names.

    frequency_penalty: see OpenAI's API; so are function_call: functions: logit_bias: logprobs:
    max_completion_tokens: metadata: modalities: n: parallel_tool_calls: prediction: presence_penalty:
    reasoning_effort: response_format: seed: service_tier: stop: store: stream_options: tool_choice: tools:
    top_logprobs: top_p: user: verbosity: and audio:
    """

    extra_headers: Headers | None
    extra_query: Mapping[str, Any] | None
    extra_body: Mapping[str, Any] | None
    audio: Mapping[str, Any] | None
    frequency_penalty: float | None
    function_call: str | Mapping[str, Any] | None
    functions: Iterable[Mapping[str, Any]] | None
    logit_bias: Mapping[str, int] | Mapping[int, int] | None
    logprobs: bool | None
    max_completion_tokens: int | None
    metadata: Mapping[str, str] | None
    modalities: Sequence[str] | None
    n: int | None
    parallel_tool_calls: bool | None
    prediction: Mapping[str, Any] | None
    presence_penalty: float | None
    reasoning_effort: str | None
    response_format: Mapping[str, Any] | None
    seed: int | None
    service_tier: str | None
    stop: str | Sequence[str] | None
    store: bool | None
    stream_options: Mapping[str, Any] | None
    tool_choice: str | Mapping[str, Any] | None
    tools: Iterable[Mapping[str, Any]] | None
    top_logprobs: int | None
    top_p: float | None
    user: str | None
    verbosity: str | None


class CompleteKeywords(RequestMembers, total=False):
    """Keywords of every `complete…` of a service.

    messages: the chat so far, in the place of a prompt. model: the model of this call alone.
    raw: True adds all that the server sent, as `result["raw"]`.
    """

    messages: Sequence[Mapping[str, Any]] | None
    model: str
    raw: bool


class ManyKeywords(CompleteKeywords, total=False):
    """Keywords of `complete_many`: they hold for every prompt.

    temperature: as in `complete`; so are max_tokens: system_prompt: and stealth_mode:
    """

    temperature: float | None
    max_tokens: int | None
    system_prompt: str | None
    stealth_mode: bool


class _Chat(TypedDict):
    """What `create` has to be given.

    model: the name of the model. messages: the chat so far.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]


class CreateKeywords(_Chat, RequestMembers, total=False):
    """Keywords of a client's `create`, besides `stream`; `model` and `messages` are required.

    temperature: how random the answer is. max_tokens: its longest length.
    """

    temperature: float | None
    max_tokens: int | None


# What the parameters of a service's methods name besides.
SERVICE_PARAMETERS = frozenset(("prompt", "temperature", "max_tokens", "system_prompt", "stealth_mode"))

# What a service or a client may be given.
KNOWN_SETTINGS = frozenset(ServiceSettings.__optional_keys__ | ConstructorKeywords.__optional_keys__)

# The keywords that mean something: a name that is nearly one of them is probably misspelt.
KNOWN_TO_SERVICES = SERVICE_PARAMETERS | CompleteKeywords.__optional_keys__
KNOWN_TO_CLIENTS = CreateKeywords.__required_keys__ | CreateKeywords.__optional_keys__ | {"stream"}

T = TypeVar("T")

# OpenAI's SDK has two values that stand for a keyword that was not given: `NOT_GIVEN` and `omit`.
_TYPES_OF_NOTHING = frozenset(("NotGiven", "Omit"))


def given(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that were given, in a dict of the caller's own."""
    if "openai" not in sys.modules:
        return dict(keywords)
    return {name: value for name, value in keywords.items() if not _stands_for_nothing(value)}


def given_or(value: T, default: T) -> T:
    """Return the value of a parameter, or the default if it was not given."""
    if value is None:
        return default
    # No value can be the SDK's before somebody imported the SDK.
    return default if "openai" in sys.modules and _stands_for_nothing(value) else value


def max_tokens_of(value: int | None, default: int | None, keywords: Mapping[str, Any]) -> int | None:
    """Return the `max_tokens` of a request: the default only beside no `max_completion_tokens`."""
    own = given_or(value, None)
    if own is not None or not keywords:
        return default if own is None else own
    extra = keywords.get("extra_body")
    named = given_or(keywords.get("max_completion_tokens"), None) is not None or (
        isinstance(extra, Mapping) and extra.get("max_completion_tokens") is not None
    )
    return None if named else default


def _stands_for_nothing(value: object) -> bool:
    kind = type(value)
    return kind.__name__ in _TYPES_OF_NOTHING and kind.__module__.partition(".")[0] == "openai"


@cache
def default_max_connections() -> int:
    """What the limit of file descriptors leaves, some kept for the application; 10,000 at most."""
    try:
        import resource
    except ImportError:
        return 1000
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 10_000
    return max(16, min(soft - max(64, soft // 10), 10_000))
