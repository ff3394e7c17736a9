"""What the environment says: every variable that the package reads is read here, and so is the `.env` file.

Each function reads at its call. Three variables are read by the native side instead: `SSL_CERT_FILE`,
`NO_PROXY` and `ARBITRAGEAI_NATIVE_WORKER_THREADS`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from arbitrageai_native import defaults

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~"

_logger = logging.getLogger("arbitrageai_native.llm")

# --- model servers ---


def cloud_base_url() -> str:
    """`BASE_URL`, or OpenAI's."""
    return os.getenv("BASE_URL") or defaults.CLOUD_BASE_URL


def cloud_api_key() -> str:
    """`API_KEY`, or what stands in its place for servers that want none."""
    return os.getenv("API_KEY") or defaults.CLOUD_API_KEY


def cloud_model() -> str:
    """`CLOUD_MODEL`, or the default."""
    return os.getenv("CLOUD_MODEL", defaults.CLOUD_MODEL)


def local_base_url() -> str | None:
    """`LOCAL_BASE_URL`."""
    return os.getenv("LOCAL_BASE_URL")


def ollama_url() -> str:
    """`OLLAMA_URL`, or where Ollama listens on this machine."""
    return os.getenv("OLLAMA_URL") or defaults.LOCAL_BASE_URL


def local_api_key() -> str:
    """`LOCAL_API_KEY`, or what stands in its place for servers that want none."""
    return os.getenv("LOCAL_API_KEY", defaults.LOCAL_API_KEY)


def local_model() -> str:
    """`LOCAL_MODEL`, or the default."""
    return os.getenv("LOCAL_MODEL", defaults.LOCAL_MODEL)


def distilled_model() -> str:
    """`DISTILLED_MODEL_NAME`, or the default."""
    return os.getenv("DISTILLED_MODEL_NAME") or defaults.DISTILLED_MODEL


def use_local_by_default() -> bool:
    """Whether `USE_LOCAL_BY_DEFAULT` is "true"."""
    text = os.getenv("USE_LOCAL_BY_DEFAULT")
    return defaults.USE_LOCAL_BY_DEFAULT if text is None else text.lower() == "true"


def task_model_map() -> dict[str, Any]:
    """`TASK_MODEL_MAP`, a JSON object."""
    return _json_object("TASK_MODEL_MAP")


def task_use_local_map() -> dict[str, Any]:
    """`TASK_USE_LOCAL_MAP`, a JSON object."""
    return _json_object("TASK_USE_LOCAL_MAP")


def _json_object(variable: str) -> dict[str, Any]:
    text = os.getenv(variable)
    if not text:
        return {}
    import json  # few environments have such a variable

    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # of endless nesting
        value = None
    if not isinstance(value, dict):
        _logger.warning("%s is not a JSON object: it counts as empty", variable)
        return {}
    return value


def revenue_threshold() -> int:
    """`MIN_CLOUD_REVENUE`, in cents."""
    text = os.getenv("MIN_CLOUD_REVENUE")
    try:
        return defaults.MIN_CLOUD_REVENUE_CENTS if text is None else int(text)
    except ValueError:
        _logger.warning(
            "MIN_CLOUD_REVENUE is not a whole number of cents: %d is used", defaults.MIN_CLOUD_REVENUE_CENTS
        )
        return defaults.MIN_CLOUD_REVENUE_CENTS


def openai_api_key() -> str | None:
    """`OPENAI_API_KEY`."""
    return os.getenv("OPENAI_API_KEY")


def openai_base_url() -> str:
    """`OPENAI_BASE_URL`, or OpenAI's."""
    return os.getenv("OPENAI_BASE_URL") or defaults.CLOUD_BASE_URL


def openai_organization() -> str | None:
    """`OPENAI_ORG_ID`."""
    return os.getenv("OPENAI_ORG_ID")


def openai_project() -> str | None:
    """`OPENAI_PROJECT_ID`."""
    return os.getenv("OPENAI_PROJECT_ID")


# --- locks ---


def database_url() -> str | None:
    """`DATABASE_URL`; an empty one counts as unset."""
    return os.environ.get("DATABASE_URL") or None


def postgres_host() -> str | None:
    """`PGHOST`, libpq's default host."""
    return os.environ.get("PGHOST")


def postgres_port() -> str | None:
    """`PGPORT`, libpq's default port."""
    return os.environ.get("PGPORT")


def redis_url() -> str:
    """`REDIS_URL`; when that is unset, it is made of `REDIS_HOST`, `_PORT`, `_DB` and `_PASSWORD`."""
    url = os.environ.get("REDIS_URL")
    if url:
        return url
    host = os.environ.get("REDIS_HOST") or defaults.REDIS_HOST
    port = os.environ.get("REDIS_PORT") or defaults.REDIS_PORT
    database = os.environ.get("REDIS_DB") or defaults.REDIS_DB
    password = os.environ.get("REDIS_PASSWORD")
    user = f":{_percent_encoded(password)}@" if password else ""
    return f"redis://{user}{f'[{host}]' if ':' in host else host}:{port}/{database}"


def _percent_encoded(text: str) -> str:
    # As `urllib.parse.quote(text, safe="")`; importing that takes longer than importing this package.
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in text.encode())


def names_redis() -> bool:
    """Whether a variable says where Redis is."""
    return any(os.environ.get(name) for name in ("REDIS_URL", "REDIS_HOST", "REDIS_PORT"))


def wants_redis() -> bool:
    """Whether locks belong in Redis: by `USE_REDIS_LOCKS`, else by Redis' address, else by `ENV`."""
    switch = os.environ.get("USE_REDIS_LOCKS")
    # The original decides by the same rule, an empty value included. An old process and a new one
    # must never decide differently.
    if switch is not None:
        return switch.lower() in ("true", "1", "yes")
    return names_redis() or os.environ.get("ENV", "development").lower() != "development"


# --- what `doctor` reports ---


def is_set(variable: str) -> bool:
    """Whether a variable has a value that is not empty."""
    return bool(os.environ.get(variable))


def certificate_file() -> str | None:
    """`SSL_CERT_FILE`, which the native side reads."""
    return os.environ.get("SSL_CERT_FILE")


def secret_keys() -> list[str]:
    """The values of all variables that are secrets as a whole."""
    return _values("API_KEY", "LOCAL_API_KEY", "OPENAI_API_KEY", "REDIS_PASSWORD")


def urls_with_secrets() -> list[str]:
    """The values of all variables that are URLs, in which there may be passwords."""
    return _values(
        *("DATABASE_URL", "REDIS_URL", "BASE_URL", "LOCAL_BASE_URL", "OLLAMA_URL"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    )


def _values(*variables: str) -> list[str]:
    return [value for value in map(os.environ.get, variables) if value]


def terminal_is_dumb() -> bool:
    """Whether `TERM` names a terminal on which nothing can be drawn."""
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")


@cache  # so that the hint is printed once
def has_rich() -> bool:
    """Whether rich, the extra `cli`, can draw; if it is not installed, print how to get it."""
    from importlib.util import find_spec

    if find_spec("rich") is not None:
        return True
    print("for the display: pip install 'arbitrageai-native[cli]'", file=sys.stderr)
    return False


def with_python_path(*folders: str) -> dict[str, str]:
    """All variables, for a child process whose Python also imports from these folders."""
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, *([path] if path else [])])}


# --- the `.env` file ---

_is_loaded = False
_from_dotenv_file: set[str] = set()


def load_dotenv_file_once() -> None:
    """Load the `.env` file, unless this process has loaded it already."""
    if not _is_loaded:
        load_dotenv_file()


def load_dotenv_file() -> None:
    """Load the `.env` file; variables that are set already win.

    Raises:
        ValueError: the file can't be read.
    """
    global _is_loaded
    file = dotenv_file()
    if file is not None:
        from dotenv import load_dotenv  # programs without a `.env` file need no dotenv

        before = set(os.environ)
        try:
            load_dotenv(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} can't be read: {error}") from error
        _from_dotenv_file.update(os.environ.keys() - before)
    _is_loaded = True


def comes_from_dotenv_file(variable: str) -> bool:
    """Whether the `.env` file set a variable in this process."""
    return variable in _from_dotenv_file


def dotenv_file() -> str | None:
    """Return the path of the `.env` file to load, or None.

    The search goes from the working directory upwards, then from the folder of the application's package
    `src` upwards, then from the folder of the program upwards. The first file found is the one to load.
    """
    for directory in _starting_points():
        while True:
            file = os.path.join(directory, ".env")  # noqa: PTH118
            if os.path.exists(file) and not os.path.isdir(file):  # noqa: PTH110, PTH112
                return file
            parent = os.path.dirname(directory)  # noqa: PTH120
            if parent == directory:
                break
            directory = parent
    return None


def _starting_points() -> Iterator[str]:
    with suppress(OSError):  # the directory has been deleted
        yield os.getcwd()  # noqa: PTH109
    yield from _folders_of_the_application()
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    if program is not None:
        yield os.path.dirname(os.path.abspath(program))  # noqa: PTH100, PTH120


def _folders_of_the_application() -> list[str]:
    """Return the folders of the package `src`, without importing it."""
    package = sys.modules.get("src")
    if package is not None:
        folders = getattr(package, "__path__", ())
    else:
        # As `importlib.util.find_spec`, whose import takes a third of a millisecond in every program.
        found = (finder.find_spec("src", None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((spec for spec in found if spec is not None), None)
        folders = (spec.submodule_search_locations if spec is not None else None) or ()
    return [os.path.abspath(folder) for folder in folders]  # noqa: PTH100
