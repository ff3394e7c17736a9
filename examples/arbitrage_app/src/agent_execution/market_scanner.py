"""Evaluates postings as the newest scanner does: in a coroutine, but by plain functions.

`complete()`, three functions below `evaluate_posting`, waits for the model, and the event loop with it.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import Literal

from sqlalchemy import func, select
from src.agent_execution.evaluation import STEALTH_MODE, SYSTEM_PROMPT, Evaluation, Posting, of_answer
from src.api.database import SessionLocal
from src.api.models import Bid
from src.llm_service import LLMService

Holding = Literal["nothing", "lock", "session", "generator"]


class MarketScanner:
    """Evaluates postings. What it holds meanwhile was harmless as long as nothing else ran."""

    def __init__(self, llm: LLMService) -> None:
        self.llm = llm
        self._lock = threading.Lock()

    async def evaluate_posting(self, posting: Posting, holding: Holding = "nothing") -> Evaluation:
        """Ask the model about a posting."""
        if holding == "lock":
            with self._lock:
                return self._evaluation(posting)
        if holding == "session":
            with SessionLocal() as session:
                session.scalar(select(func.count(Bid.id)))
                return self._evaluation(posting)
        if holding == "generator":
            return next(self._evaluations([posting]))
        return self._evaluation(posting)

    def _evaluations(self, postings: Iterable[Posting]) -> Iterator[Evaluation]:
        for posting in postings:
            yield self._evaluation(posting)

    def _evaluation(self, posting: Posting) -> Evaluation:
        return of_answer(self._answer(f"{posting.title}\n\n{posting.description}"))

    def _answer(self, prompt: str) -> str:
        result = self.llm.complete(prompt, system_prompt=SYSTEM_PROMPT, stealth_mode=STEALTH_MODE)
        return result["content"] or ""
