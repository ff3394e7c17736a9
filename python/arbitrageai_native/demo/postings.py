"""Job postings, read from a file whose every fault is told by its place."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from arbitrageai_native.cli.main import BadInputError

FIELDS: Final = ("marketplace", "id", "title", "description")
MAY_BE_EMPTY: Final = frozenset({"description"})
LONGEST_KEY: Final = 1000
_KINDS: Final = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
SAMPLE: Final = "postings.json"


@dataclass(frozen=True)
class Posting:
    """A job offered at a marketplace."""

    marketplace: str
    id: str
    title: str
    description: str

    @property
    def key(self) -> str:
        """What tells this posting from every other."""
        return f"{self.marketplace}:{self.id}"

    def as_dict(self) -> dict[str, str]:
        """Return the posting as it stands in a postings file."""
        return asdict(self)


def sample_postings() -> list[Posting]:
    """Return the postings that come with the package."""
    text = resources.files(__package__).joinpath(SAMPLE).read_text(encoding="utf-8")
    return _parse(text, SAMPLE)


def load_postings(path: Path) -> list[Posting]:
    """Read a postings file: a JSON list of objects with the four fields, all of them text.

    Raises:
        BadInputError: the file is unreadable or ill-formed; the message names the posting's index and field.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInputError(f"--postings: cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"--postings: {path} is not UTF-8 text (byte {error.start})") from error
    except ValueError as error:  # a path with a NUL in it
        raise BadInputError(f"--postings: cannot read {str(path)!r}: {error}") from error
    return _parse(text, str(path))


def _parse(text: str, source: str) -> list[Posting]:
    try:
        items = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BadInputError(f"--postings: {source} is not JSON: {error.msg} at {place}") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"--postings: {source} is not JSON: {error}") from error
    if not isinstance(items, list):
        raise BadInputError(f"--postings: {source} is a JSON {_kind(items)}, not a list of postings")
    if not items:
        raise BadInputError(f"--postings: {source} has no postings in it")
    postings = [_posting(item, f"--postings: {source}: posting {index}") for index, item in enumerate(items)]
    _refuse_duplicates(postings, source)
    return postings


def _posting(item: object, where: str) -> Posting:
    if not isinstance(item, dict):
        raise BadInputError(f"{where} is a JSON {_kind(item)}, not an object")
    for field in FIELDS:
        _check_field(field, item, f"{where}: field {field!r}")
    return Posting(**{field: item[field] for field in FIELDS})


def _check_field(field: str, item: dict[str, object], where: str) -> None:
    if field not in item:
        raise BadInputError(f"{where} is missing")
    value = item[field]
    if not isinstance(value, str):
        raise BadInputError(f"{where} is a JSON {_kind(value)}, not a string")
    if not value.strip() and field not in MAY_BE_EMPTY:
        raise BadInputError(f"{where} is empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BadInputError(f"{where} has half of a surrogate pair at character {error.start}") from error
    if field in ("marketplace", "id"):
        if len(value) > LONGEST_KEY:
            raise BadInputError(f"{where} is longer than {LONGEST_KEY} characters")
        if not value.isprintable():
            raise BadInputError(f"{where} has a control character in it: {value!r}")


def _refuse_duplicates(postings: Iterable[Posting], source: str) -> None:
    seen: dict[tuple[str, str], int] = {}
    for index, posting in enumerate(postings):
        first = seen.setdefault((posting.marketplace, posting.id), index)
        if first != index:
            raise BadInputError(
                f"--postings: {source}: posting {index} is the same as posting {first}: "
                f"marketplace {posting.marketplace!r}, id {posting.id!r}"
            )


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "number")
