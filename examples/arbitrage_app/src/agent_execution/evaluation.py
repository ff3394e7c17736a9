"""Asks the model what a posting is worth, and for a proposal."""

import os
import re
from dataclasses import dataclass

from pydantic import BaseModel
from src.llm_service import LLMService

WORTH_A_BID = 60
STEALTH_MODE = os.getenv("STEALTH_MODE", "true") == "true"

SYSTEM_PROMPT = (
    "You are a freelancer. Say in the first line, as a number from 0 to 100, how well the posting suits you; "
    "then write a proposal."
)


class Posting(BaseModel):
    """A job posting at a marketplace."""

    marketplace: str
    id: str
    title: str
    description: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What the model said."""

    score: int
    proposal: str

    @property
    def should_bid(self) -> bool:
        """Whether the posting is worth a bid."""
        return self.score >= WORTH_A_BID


_service: LLMService | None = None


def service() -> LLMService:
    """The process's service, made when it is first needed."""
    global _service
    if _service is None:
        _service = LLMService.with_cloud()
    return _service


async def evaluate(posting: Posting) -> Evaluation:
    """Ask the model about a posting, as slowly as a human would."""
    result = await service().complete_async(
        f"{posting.title}\n\n{posting.description}",
        system_prompt=SYSTEM_PROMPT,
        stealth_mode=STEALTH_MODE,
    )
    return of_answer(result["content"] or "")


def of_answer(answer: str) -> Evaluation:
    """Read what the model said."""
    first_line, _, proposal = answer.partition("\n")
    number = re.search(r"\d+", first_line)
    return Evaluation(int(number.group()) if number else 0, proposal.strip())
