"""The exceptions of this package.

Those of a model call have the names, the attributes and the hierarchy of OpenAI's Python SDK, so that
`except` clauses go on working when only the import changes:

    OpenAIError
        InvalidArgumentError (ValueError), InvalidArgumentTypeError (TypeError)
        ClientClosedError (RuntimeError)
        APIError
            APIResponseValidationError
            APIConnectionError
                APITimeoutError (TimeoutError)
            APIStatusError
                BadRequestError 400, AuthenticationError 401, PermissionDeniedError 403, NotFoundError 404,
                ConflictError 409, UnprocessableEntityError 422, RateLimitError 429, InternalServerError >=
                500
    CircuitBreakerError

Those of locks:

    LockError
        LockTimeoutError (TimeoutError), LockBackendError (TimeoutError)
        LockLostError
        LockStoreError
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "CircuitBreakerError",
    "ClientClosedError",
    "ConflictError",
    "ErrorResponse",
    "InternalServerError",
    "InvalidArgumentError",
    "InvalidArgumentTypeError",
    "LockBackendError",
    "LockError",
    "LockLostError",
    "LockStoreError",
    "LockTimeoutError",
    "NotFoundError",
    "OpenAIError",
    "PermissionDeniedError",
    "RateLimitError",
    "UnprocessableEntityError",
]


class CircuitBreakerError(Exception):
    """The endpoint's circuit is open: no request was made."""


class OpenAIError(Exception):
    """Anything that goes wrong in a model call."""


class InvalidArgumentError(OpenAIError, ValueError):
    """No request can be made of an argument's value. The message begins with the argument's name."""


class InvalidArgumentTypeError(OpenAIError, TypeError):
    """No request can be made of an argument of this type. The message begins with the argument's name."""


class ClientClosedError(OpenAIError, RuntimeError):
    """The client, the service or the stream was closed before."""


class ErrorResponse:
    """What is left of an error answer.

    Attributes:
        status_code: The HTTP status.
        headers: The header fields, their names in lower case.
        text: The body; of one of more than 1 MiB only the beginning.
    """

    __slots__ = ("headers", "status_code", "text")

    def __init__(self, status_code: int, headers: dict[str, str], text: str = "") -> None:
        self.status_code = status_code
        self.headers = headers
        self.text = text

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            ValueError: it is not JSON.
        """
        import json  # here, so that the package imports faster

        return json.loads(self.text)

    def __repr__(self) -> str:
        return f"<ErrorResponse [{self.status_code}]>"


def _optional_text(value: object) -> str | None:
    return None if value is None else str(value)


class APIError(OpenAIError):
    """The request was made and did not succeed.

    Attributes:
        message: The text.
        body: The server's `error` object, or the whole body, or None.
        code: The `code` in it.
        param: The `param` in it.
        type: The `type` in it.
        request: Always None: what was sent is not kept, since it holds the prompt and the key.
    """

    request: Any = None

    def __init__(self, message: str, request: object = None, *, body: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.body = body
        members = body if isinstance(body, dict) else {}
        self.code = _optional_text(members.get("code"))
        self.param = _optional_text(members.get("param"))
        self.type = _optional_text(members.get("type"))

    def __reduce__(self) -> tuple[Any, ...]:
        # The constructors take keywords: what `Exception` would pickle could not be made anew.
        return _restore, (type(self), self.message, dict(self.__dict__))


def _restore(cls: type[APIError], message: str, attributes: dict[str, Any]) -> APIError:
    error = cls.__new__(cls, message)
    Exception.__init__(error, message)
    error.__dict__.update(attributes)
    return error


class APIConnectionError(APIError):
    """The server could not be reached, or the connection broke before the answer was complete."""

    def __init__(self, *, message: str = "Connection error.", request: object = None) -> None:
        super().__init__(message, request, body=None)


class APITimeoutError(APIConnectionError, TimeoutError):
    """One of the call's limits ran out; the message says which."""

    def __init__(self, request: object = None, *, message: str = "Request timed out.") -> None:
        super().__init__(message=message, request=request)


class APIResponseValidationError(APIError):
    """The server answered, but not with a chat completion. `body` is the beginning of what it sent.

    Attributes:
        status_code: The HTTP status.
    """

    def __init__(self, message: str, *, status_code: int = 200, body: object = None) -> None:
        super().__init__(message, body=body)
        self.status_code = status_code


class APIStatusError(APIError):
    """The server answered with a status other than 2xx.

    Attributes:
        status_code: The HTTP status.
        response: What is left of the answer.
        request_id: What the server calls the request: its header `x-request-id`.
    """

    status_code: int = 0

    def __init__(self, message: str, *, response: ErrorResponse, body: object = None) -> None:
        super().__init__(message, body=body)
        self.response = response
        self.status_code = response.status_code
        self.request_id: str | None = response.headers.get("x-request-id")


class BadRequestError(APIStatusError):
    """400."""


class AuthenticationError(APIStatusError):
    """401."""


class PermissionDeniedError(APIStatusError):
    """403."""


class NotFoundError(APIStatusError):
    """404."""


class ConflictError(APIStatusError):
    """409."""


class UnprocessableEntityError(APIStatusError):
    """422."""


class RateLimitError(APIStatusError):
    """429."""


class InternalServerError(APIStatusError):
    """500 and above."""


_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def _status_error(
    message: str, status: int, headers: dict[str, str], body: object, text: str
) -> APIStatusError:
    default = InternalServerError if status >= 500 else APIStatusError
    return _BY_STATUS.get(status, default)(message, response=ErrorResponse(status, headers, text), body=body)


def _timeout_error(message: str) -> APITimeoutError:
    return APITimeoutError(message=message)


def _connection_error(message: str, os_error: int | None) -> APIConnectionError:
    error = APIConnectionError(message=message)
    if os_error is not None:
        error.__cause__ = OSError(os_error, message)
    return error


def _validation_error(message: str, status: int, body: str) -> APIResponseValidationError:
    return APIResponseValidationError(message, status_code=status, body=body)


def _reported_error(message: str, body: object) -> APIError:
    return APIError(message, body=body)


class LockError(Exception):
    """Anything that goes wrong with a lock."""


class LockTimeoutError(LockError, TimeoutError):
    """The lock was still held when the time was up.

    Attributes:
        holder_id: The name under which it was held then; None if the database did not say so in time.
        held_since: Since when, in Unix seconds by the database's clock; None if that is not known.
    """

    def __init__(
        self, message: str = "", holder_id: str | None = None, held_since: float | None = None
    ) -> None:
        super().__init__(message)
        self.holder_id = holder_id
        self.held_since = held_since


def lock_timeout_error(
    message: str, holder_id: str | None, held_since: float | None, shown_holder: str
) -> LockTimeoutError:
    """Return a `LockTimeoutError` whose message ends with who holds the lock, if that is known."""
    if holder_id is not None:
        message += f": it is held by '{shown_holder}'"
    if held_since is not None:
        import time  # here, so that the package imports faster

        message += f" since {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(held_since))} UTC"
    return LockTimeoutError(message, holder_id, held_since)


class LockBackendError(LockError, TimeoutError):
    """The database could not be reached within the time, or refused; the cause is what it said."""


class LockLostError(LockError):
    """A lease ended before its holder released it."""


class LockStoreError(LockError):
    """What the database said: the cause of a `LockBackendError`."""
