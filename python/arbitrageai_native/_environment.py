"""What the environment says, and the `.env` file that adds to it."""

from __future__ import annotations

import os

from arbitrageai_native._observation import logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["cloud_api_key", "cloud_base_url", "json_object", "load_dotenv_file", "revenue_threshold"]

_DEFAULT_BASE_URL = "https://api.openai.com/v1"
_DEFAULT_API_KEY = "dummy-key-for-local"


def load_dotenv_file() -> None:
    """Load the nearest `.env` file, from the working directory upwards."""
    # python-dotenv, and pathlib, take longer to import than this package: only if there is a file to load.
    directory = os.getcwd()  # noqa: PTH109
    while not os.path.exists(f"{directory}/.env"):  # noqa: PTH110
        parent = os.path.dirname(directory)  # noqa: PTH120
        if parent == directory:
            return
        directory = parent
    from dotenv import find_dotenv, load_dotenv

    found = find_dotenv(usecwd=True)
    if found:
        load_dotenv(found)


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
