"""What the environment says, and the `.env` file that adds to it."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib.util import find_spec

from arbitrageai_native.llm.tracing import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = [
    "cloud_api_key",
    "cloud_base_url",
    "dotenv_file",
    "json_object",
    "load_dotenv_file",
    "load_dotenv_file_once",
    "revenue_threshold",
]

_DEFAULT_BASE_URL = "https://api.openai.com/v1"
_DEFAULT_API_KEY = "dummy-key-for-local"


_is_loaded = False


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
        # Importing dotenv takes longer than importing this package, so it waits for a file to load.
        from dotenv import load_dotenv

        try:
            load_dotenv(file)
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} can't be read: {error}") from error
    _is_loaded = True


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
    yield from _working_directory()
    yield from _folders_of_the_application()
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    if program is not None:
        yield os.path.dirname(os.path.abspath(program))  # noqa: PTH100, PTH120


def _working_directory() -> list[str]:
    try:
        return [os.getcwd()]  # noqa: PTH109
    except OSError:  # the directory has been deleted
        return []


def _folders_of_the_application() -> list[str]:
    """Return the folders of the package `src`, without importing it."""
    package = sys.modules.get("src")
    if package is not None:
        folders = getattr(package, "__path__", ())
    else:
        # As `importlib.util.find_spec` does it, without importing that module and what it needs.
        specs = (finder.find_spec("src", None) for finder in sys.meta_path)
        spec = next((spec for spec in specs if spec is not None), None)
        folders = (spec.submodule_search_locations if spec is not None else None) or ()
    return [os.path.abspath(folder) for folder in folders]  # noqa: PTH100


def cloud_base_url() -> str:
    """`BASE_URL`, or OpenAI's."""
    return os.getenv("BASE_URL") or _DEFAULT_BASE_URL


def cloud_api_key() -> str:
    """`API_KEY`, or what stands in its place for servers that want none."""
    return os.getenv("API_KEY") or _DEFAULT_API_KEY


def json_object(variable: str) -> dict[str, Any]:
    """The JSON object in a variable; what is none counts as empty."""
    text = os.getenv(variable)
    if not text:
        return {}
    import json  # nothing else here needs it

    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        logger().warning("%s is not a JSON object: it counts as empty", variable)
        return {}
    return value


def revenue_threshold() -> int:
    """`MIN_CLOUD_REVENUE`, in cents."""
    text = os.getenv("MIN_CLOUD_REVENUE", "3000")
    try:
        return int(text)
    except ValueError:
        logger().warning("MIN_CLOUD_REVENUE is not a whole number of cents: 3000 is used")
        return 3000


def terminal_is_dumb() -> bool:
    """Whether `TERM` names a terminal on which nothing can be drawn."""
    return os.getenv("TERM", "").lower() in ("dumb", "unknown")


@cache  # so that it is said once
def has_rich() -> bool:
    """Whether rich, the extra `cli`, can draw; if it is not installed, say how to get it."""
    if find_spec("rich") is not None:
        return True
    print("for the display: pip install 'arbitrageai-native[cli]'", file=sys.stderr)
    return False
