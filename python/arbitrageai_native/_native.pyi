"""The native module: private to the package, whose public classes are thin Python classes over these."""

from asyncio import Future
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, final

__all__ = [
    "Awaitable",
    "CallCount",
    "CallMetrics",
    "CallOptions",
    "ChatClient",
    "ChatStream",
    "EndpointHealth",
    "Guard",
    "Inbox",
    "Iteration",
    "Lease",
    "LockGrant",
    "LockManager",
    "LoopWatch",
    "Probe",
    "ask_for_health",
    "ask_for_models",
    "check_lock_settings",
    "circuit_open",
    "deadline_passed",
    "inspect_database",
    "libraries",
    "printable",
    "process_metrics",
    "release_all_locks",
    "requests_under_way",
    "sleep",
    "trusted_certificates",
    "turn",
    "worker_threads",
]

_Result = TypeVar("_Result", covariant=True)

# --- the bridge ---

@final
class Awaitable(Generic[_Result]):
    """One native call, message or turn, awaited once. No work starts before it is awaited."""

    def __await__(self) -> Generator[Any, None, _Result]: ...
    def __iter__(self) -> Generator[Any, None, _Result]: ...
    def __next__(self) -> Future[None]: ...
    def throw(self, kind: object, value: object = None, _traceback: object = None) -> None: ...
    def close(self) -> None: ...

@final
class Inbox:
    """The completion inbox of an event loop."""

    def drain(self, _wakeup: Future[None] | None = None) -> None: ...
    def flush(self) -> None: ...

def turn() -> Awaitable[None]:
    """Await the caller's turn to start a call: at once, or a little later, in a crowd."""

@final
class LoopWatch:
    """The signs that the running loop gives, and the thread that notices when they stop."""

    def __new__(
        cls,
        select: Callable[[float | None], Any] | None,
        interval: float,
        threshold: float,
        stalled: Callable[[float, bool], bool | None],
        ended: Callable[[float], None],
    ) -> LoopWatch: ...
    def select(self, timeout: float | None = None) -> Any: ...
    def beat(self) -> None: ...
    def stop(self) -> None: ...
    def end(self, seconds: float) -> bool: ...
    def reading(self) -> dict[str, Any] | None: ...
    def recent(self) -> list[float]: ...

@final
class Guard:
    """What `Probe.guarded` gives: counted by `Probe.live_guards()` while it lives."""

@final
class Probe:
    """Futures of known behaviour, by which tests and benchmarks look into the bridge.

    A build in a checkout has it, a published wheel does not.
    """

    @staticmethod
    def noop() -> Awaitable[None]: ...
    @staticmethod
    def stock_noop() -> Future[tuple[()]]: ...
    @staticmethod
    def guarded(seconds: float) -> Awaitable[Guard]: ...
    @staticmethod
    def guarded_blocking(seconds: float) -> Guard: ...
    @staticmethod
    def panicking() -> Awaitable[None]: ...
    @staticmethod
    def live_guards() -> int: ...
    @staticmethod
    def live_calls() -> int: ...

# The client of model servers

@final
class CallOptions:
    """The limits of calls and how they are retried; unchangeable. `adjusted(...)` makes another."""

    def __new__(cls, **settings: Any) -> CallOptions: ...
    def adjusted(self, settings: dict[str, Any]) -> CallOptions:
        """These options with the given settings changed."""

    @property
    def timeout(self) -> float | None:
        """The limit of one try in seconds, or None."""

    @property
    def deadline(self) -> float | None:
        """The limit of the whole call in seconds, or None."""

@final
class CallMetrics:
    """The counters of one service's calls."""

    def __new__(cls) -> CallMetrics: ...
    def begin(self, model: str) -> CallCount:
        """A call of a model through a foreign client begins."""

    def blocked_a_loop(self) -> None:
        """A blocking method was called from a running event loop."""

    def snapshot(self) -> dict[str, Any]:
        """The figures now."""

@final
class CallCount:
    """A call through a foreign client. Forgotten before it was told how the call ended: cancelled."""

    def succeeded(self, seconds: float, prompt_tokens: int, completion_tokens: int) -> None:
        """It brought an answer after so many seconds."""

    def failed(self, kind: str) -> None:
        """It failed."""

    def cancelled(self) -> None:
        """It was given up."""

@final
class EndpointHealth:
    """What is known of an endpoint. Times are microseconds since the Unix epoch, or None."""

    def __new__(
        cls, endpoint: str, failure_threshold: int, recovery_timeout_seconds: float
    ) -> EndpointHealth: ...
    endpoint: str
    state: str
    last_health_check_at: int | None
    last_healthy_at: int | None
    consecutive_failures: int
    total_requests: int
    total_failures: int
    opened_at: int | None
    failure_threshold: int
    recovery_timeout_seconds: float
    response_times_kept: int
    def take_response_times(self) -> list[float]:
        """The latest response times in milliseconds, at most `response_times_kept`, that nobody has taken."""

    def admit(self) -> bool:
        """Asks to make a call; in a half-open circuit this takes the probe's place."""

    def would_refuse(self) -> bool:
        """Whether `admit` would refuse."""

    def abandon(self) -> None:
        """Gives a probe's place back: its call was cancelled."""

    def record_success(self, milliseconds: float) -> None:
        """A call answered, within so many milliseconds; 0 keeps no response time."""

    def record_failure(self, error: str) -> None:
        """A call failed."""

@final
class ChatStream:
    """The stream of one call: requested at the first `next`, closed when it is closed or dropped."""

    def iterate(self, stream: Any) -> Iteration[Any]:
        """Return the iterator of an `async for`, which detects that an exception leaves the loop."""

    def wait_was_given_up(self) -> None:
        """Start the grace period after a cancelled wait, unless another loop still iterates."""

    def next_async(self, texts: bool) -> Awaitable[list[Any] | None]:
        """Awaits the next items (pieces of text, or chunks as dicts): a list, or None after the last."""

    def next(self, texts: bool) -> list[Any] | None:
        """Waits for the next items in this thread."""

    def close(self) -> None:
        """Closes the request, at once."""

    def summary(self) -> dict[str, Any]:
        """`model`, `usage`, `finish_reason`, `request_id`, `rate_limits`, as far as they have come."""

    def asides(self) -> dict[str, Any]:
        """`reasoning` and `tool_calls`, as far as they have come."""

@final
class Iteration(Generic[_Result]):
    """The iterator of one loop over a stream."""

    def __aiter__(self) -> Iteration[_Result]: ...
    def __anext__(self) -> Coroutine[Any, Any, _Result]: ...

_Arguments: TypeAlias = tuple[
    dict[str, Any],  # the body
    CallOptions,
    CallMetrics,
    EndpointHealth | None,
    Mapping[str, str | bytes | None] | None,  # extra_headers
    Mapping[str, Any] | None,  # extra_query
]
"""What describes a call."""

_Answer: TypeAlias = tuple[dict[str, Any], str | None, dict[str, str] | None]

@final
class ChatClient:
    """Calls of one endpoint."""

    def __new__(cls, base_url: str, api_key: str) -> ChatClient: ...
    def complete_async(
        self, arguments: _Arguments, delay: float | None, raw: bool
    ) -> Awaitable[dict[str, Any]]:
        """Makes the call, in stealth mode `delay` seconds later: the dict of `LLMService.complete`."""

    def complete(self, arguments: _Arguments, stealth_mode: bool, raw: bool) -> dict[str, Any]:
        """Makes the call and waits for it in this thread: the dict of `LLMService.complete`."""

    def create_async(self, arguments: _Arguments) -> Awaitable[_Answer]:
        """Makes the call: all that the server sent, the request's id, and the headers about limits."""

    def create(self, arguments: _Arguments) -> _Answer:
        """As `create_async`, and waits for it in this thread."""

    def stream(self, arguments: _Arguments) -> ChatStream:
        """A stream that makes its call when it is first asked for chunks."""

def circuit_open(endpoint: str) -> Exception:
    """The error of a call that an open circuit refuses."""

def deadline_passed(seconds: float) -> Exception:
    """The error of a call whose deadline of so many seconds has passed."""

def sleep(duration: float) -> Awaitable[None]:
    """Sleeps without blocking the event loop."""

def ask_for_health(endpoint: str, timeout: float) -> Awaitable[int]:
    """Asks the model server at `endpoint` whether it is alive: the status of its answer."""

def requests_under_way() -> int:
    """Requests under way in this process, for tests: a cancelled call has to leave none."""

# --- locks ---

@final
class LockGrant:
    """A lock that was won: released when dropped, unless it is kept."""

    def keep(self) -> None: ...

@final
class Lease:
    """A lock that is kept while this lives."""

    @property
    def key(self) -> str: ...
    @property
    def holder_id(self) -> str: ...
    @property
    def fencing_token(self) -> int: ...
    @property
    def acquired_at(self) -> float: ...
    @property
    def expires_at(self) -> float: ...
    @property
    def remaining(self) -> float: ...
    @property
    def is_held(self) -> bool: ...
    @property
    def loss(self) -> str | None: ...
    def renew(self, ttl: float | None = None) -> Awaitable[float]: ...
    def renew_blocking(self, ttl: float | None = None) -> float: ...
    def release(self) -> Awaitable[bool]: ...
    def release_blocking(self) -> bool: ...
    def lost(self) -> Awaitable[str | None]: ...
    def call_when_lost(self, function: Callable[[], object] | None) -> None: ...

@final
class LockManager:
    """Locks on one database."""

    def __new__(
        cls,
        database_url: str | None = None,
        *,
        max_connections: int = 5,
        listen_url: str | None = None,
        statement_cache: bool = True,
    ) -> LockManager: ...
    @staticmethod
    def private_memory(number: int) -> LockManager: ...
    @staticmethod
    def forget_private_memory(number: int) -> None: ...
    def acquire(
        self,
        marketplace_id: str,
        posting_id: str,
        holder_id: str,
        ttl: float,
        timeout: float,
        names_holder: bool = False,
    ) -> Awaitable[LockGrant]: ...
    def lease(
        self,
        marketplace_id: str,
        posting_id: str,
        *,
        holder_id: str,
        ttl: float,
        timeout: float,
        names_holder: bool = False,
        auto_renew: bool,
        max_hold: float | None,
        margin: float | None,
        loss_check: float | None,
    ) -> Awaitable[Lease]: ...
    def lease_blocking(
        self,
        marketplace_id: str,
        posting_id: str,
        *,
        holder_id: str,
        ttl: float,
        timeout: float,
        names_holder: bool = False,
        auto_renew: bool,
        max_hold: float | None,
        margin: float | None,
        loss_check: float | None,
    ) -> Lease: ...
    def lease_many(
        self,
        names: Sequence[tuple[str, str]],
        *,
        holder_id: str,
        ttl: float,
        timeout: float,
        names_holder: bool = False,
        auto_renew: bool,
        max_hold: float | None,
        margin: float | None,
        loss_check: float | None,
    ) -> Awaitable[list[Lease]]: ...
    def release(self, marketplace_id: str, posting_id: str, holder_id: str) -> Awaitable[bool]: ...
    def release_own(self, marketplace_id: str, posting_id: str) -> Awaitable[bool]: ...
    def hear_from_database(self, seconds: float) -> Awaitable[bool]: ...
    def break_lock(self, key: str) -> Awaitable[bool]: ...
    def holder_of(self, marketplace_id: object, posting_id: object) -> Awaitable[str | None]: ...
    def clear(self) -> Awaitable[int]: ...
    def sweep(self) -> Awaitable[int]: ...
    @property
    def place(self) -> str: ...
    def look(self, key: str | None = None) -> Awaitable[list[tuple[str, str, float, float, float]]]: ...
    def rows(self, most: int | None = None) -> Awaitable[list[tuple[str, str, float, float, float]]]: ...
    def waiting(self, most: int | None = None) -> list[tuple[str, str, float]]: ...
    def active_locks(self, seconds: float) -> Awaitable[int]: ...
    def active_locks_blocking(self, seconds: float) -> int: ...
    def counters(self) -> dict[str, int]: ...
    def histograms(self) -> tuple[list[float], tuple[list[int], float], tuple[list[int], float]]: ...
    def close(self, seconds: float) -> Awaitable[bool]: ...
    def close_blocking(self, seconds: float) -> None: ...

def release_all_locks(seconds: float) -> None: ...
def check_lock_settings(
    *,
    ttl: float,
    auto_renew: bool,
    max_hold: float | None,
    margin: float | None,
    loss_check: float | None,
    max_connections: int,
    listen_url: str | None,
    statement_cache: bool,
) -> None: ...

# --- all that was counted ---

def process_metrics() -> dict[str, Any]:
    """All that this process has counted: `llm`, `locks`, `loop`, `bridge`."""

# --- what `doctor` asks ---

def printable(text: str) -> str:
    """Return the text with its control characters escaped."""

def inspect_database(database_url: str | None = None) -> Awaitable[dict[str, Any]]:
    """Looks at the locks' database without changing anything in it.

    `place`, `server`, `missing_tables` (None where none are needed), `difference` (of the locks' table; None
    if it serves), `clock_ahead` (seconds), `encrypted`, `obstacles` and `cautions`.
    """

def ask_for_models(base_url: str, api_key: str, seconds: float) -> Awaitable[int]:
    """Asks a model server for its list of models: the status of its answer. That costs no tokens."""

def trusted_certificates() -> Awaitable[int]:
    """How many certificates are trusted."""

def worker_threads() -> int:
    """How many threads the native runtime has, or will have when it is started."""

def libraries() -> list[tuple[str, str]]:
    """The libraries that are built in: (name, version)."""
