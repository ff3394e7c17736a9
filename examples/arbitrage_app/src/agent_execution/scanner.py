"""Considers all postings of a list, some at a time, in the background."""

import asyncio
import json
from collections import Counter
from pathlib import Path

from src.agent_execution.bidding import consider
from src.agent_execution.evaluation import Posting

AT_A_TIME = 10


class Scanner:
    """One pass over the postings. Every worker has its own scanner, and all of them see the same postings."""

    def __init__(self, postings: list[Posting]) -> None:
        self._postings = postings
        self.outcomes: Counter[str] = Counter()

    @classmethod
    def of_file(cls, file: Path) -> "Scanner":
        """A scanner of a JSON list of postings."""
        return cls([Posting(**posting) for posting in json.loads(file.read_text())])

    async def run(self) -> None:
        """Consider each of them."""
        slots = asyncio.Semaphore(AT_A_TIME)

        async def one(posting: Posting) -> None:
            async with slots:
                try:
                    self.outcomes[await consider(posting)] += 1
                except Exception as error:
                    self.outcomes[type(error).__name__] += 1

        await asyncio.gather(*(one(posting) for posting in self._postings))
