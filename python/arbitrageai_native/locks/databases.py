"""The native managers of one public manager: one for each database that its sessions have led to."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

from arbitrageai_native import _native, defaults
from arbitrageai_native._safe_text import in_one_line
from arbitrageai_native.locks.application import AnyPlace, Place

__all__ = ["Databases"]

logger = logging.getLogger(__name__)
logger.addFilter(in_one_line)

_RELEASE_AT_EXIT_SECONDS = 1.0
# How long an engine may take to report its database, if the caller gives no limit.
_ASKING_SECONDS = 5.0
_NEGLIGIBLE_SECONDS = 0.2
_COUNTERS = ("attempts", "successes", "conflicts", "timeouts", "renewals", "losses", "backend_errors")

# Engines of in-memory databases whose managers share a private one of ours, by number.
_memory_numbers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_next_memory_number = itertools.count(1)

# The default files that a warning has named already.
_named_files: set[str] = set()

atexit.register(_native.release_all_locks, _RELEASE_AT_EXIT_SECONDS)


class Databases:
    """Native managers by the place of their locks, each made when it is first needed."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._managers: dict[object, _native.LockManager] = {}
        # What tests have set the counters to, less what was counted then.
        self._set: Counter[str] = Counter()

    def check(self, **kept: Any) -> None:
        """Raise `ValueError` or `TypeError` for a setting that makes no sense; the error names it."""
        _native.check_lock_settings(**kept, **self._options)

    def __iter__(self) -> Iterator[_native.LockManager]:
        return iter(list(self._managers.values()))

    def at(self, place: Place) -> _native.LockManager:
        """Return the manager of a place.

        Raises:
            ValueError: the place's URL, or one of the options, is invalid.
            TypeError: one of them has a wrong type.
        """
        if place.memory_engine is not None:
            return self._in_memory_of(place.memory_engine)
        is_known = place.url is None or isinstance(place.url, str)  # what is no text may not be hashable
        manager = self._managers.get(place.url) if is_known else None
        if manager is None:
            manager = self._managers[place.url] = _native.LockManager(place.url, **self._options)
            if place.url is None:
                _warn_of_the_default_file()
        return manager

    def wait_for(self, place: AnyPlace, timeout: float | None = None) -> _native.LockManager:
        """As `at`, for a place that may not be known yet: waits in this thread for the engine's answer.

        Raises:
            LockBackendError: the engine could not report its database.
        """
        return self.at(place.wait(_ASKING_SECONDS if timeout is None else timeout))

    def known(self, place: AnyPlace) -> _native.LockManager | None:
        """As `at`; None for a place that is not known yet, which `answered` waits for."""
        return self.at(place) if isinstance(place, Place) else None

    async def answered(self, place: AnyPlace) -> _native.LockManager:
        """As `wait_for`, for coroutines."""
        return self.at(await place.answer(_ASKING_SECONDS))

    async def answered_within(self, place: AnyPlace, timeout: float) -> tuple[_native.LockManager, float]:
        """As `answered`; also returns the part of `timeout` that is left for the lock."""
        if isinstance(place, Place):
            return self.at(place), timeout
        started = time.monotonic()
        manager = self.at(await place.answer(timeout))
        spent = time.monotonic() - started
        # A shorter delay does not matter, and messages then show the timeout that the caller gave. The
        # acquisition refuses a timeout that is negative or no number.
        if spent < _NEGLIGIBLE_SECONDS or not isinstance(timeout, int | float) or timeout < 0:
            return manager, timeout
        return manager, max(timeout - spent, 0.0)

    def _in_memory_of(self, engine: Any) -> _native.LockManager:
        number = _memory_numbers.get(engine)
        if number is None:
            number = _memory_numbers[engine] = next(_next_memory_number)
            weakref.finalize(engine, _native.LockManager.forget_private_memory, number).atexit = False
        manager = self._managers.get(number)
        if manager is None:
            manager = self._managers[number] = _native.LockManager.private_memory(number)
        return manager

    def counters(self) -> Counter[str]:
        """Return the sums over all databases."""
        total: Counter[str] = Counter(dict.fromkeys(_COUNTERS, 0))
        for manager in self:
            total.update(manager.counters())
        total.update(self._set)
        return total

    def set_counter(self, name: str, count: int) -> None:
        """Let a counter go on from `count`."""
        self._set[name] += count - self.counters()[name]


def _warn_of_the_default_file() -> None:
    file = os.path.abspath(defaults.LOCK_DATABASE_FILE)  # noqa: PTH100
    if file not in _named_files:
        _named_files.add(file)
        logger.warning(
            "There is no module src.api.database, and DATABASE_URL is not set: locks are in %s. A process "
            "with another working directory uses another file.",
            file,
        )
