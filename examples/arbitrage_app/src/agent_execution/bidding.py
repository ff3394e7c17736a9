"""Bids on a posting at most once, however many workers consider it at the same time."""

from collections.abc import Awaitable, Callable
from typing import Literal

from sqlalchemy import exists, select
from src.agent_execution.bid_lock_manager import get_bid_lock_manager
from src.agent_execution.evaluation import Evaluation, Posting, evaluate
from src.api.database import SessionLocal, in_thread
from src.api.models import Bid

LOCK_TIMEOUT_SECONDS = 20.0

Outcome = Literal["bid", "not worth it", "bid before", "busy"]


async def consider(
    posting: Posting, evaluate: Callable[[Posting], Awaitable[Evaluation]] = evaluate
) -> Outcome:
    """Evaluate a posting, and bid on it if it is worth it."""
    # The application's own statements must not hold up the event loop either.
    if await in_thread(_has_bid, posting):
        return "bid before"
    evaluation = await evaluate(posting)
    if not evaluation.should_bid:
        return "not worth it"
    try:
        async with get_bid_lock_manager().with_lock(
            posting.marketplace, posting.id, timeout=LOCK_TIMEOUT_SECONDS
        ):
            return await in_thread(_bid_once, posting, evaluation)
    except TimeoutError:
        return "busy"


def _has_bid(posting: Posting) -> bool:
    with SessionLocal() as session:
        return bool(session.scalar(select(_bid_exists(posting))))


def _bid_once(posting: Posting, evaluation: Evaluation) -> Outcome:
    with SessionLocal() as session:
        if session.scalar(select(_bid_exists(posting))):
            return "bid before"
        session.add(
            Bid(
                marketplace=posting.marketplace,
                posting_id=posting.id,
                score=evaluation.score,
                proposal=evaluation.proposal,
            )
        )
        session.commit()
        return "bid"


def _bid_exists(posting: Posting):
    return exists().where(Bid.marketplace == posting.marketplace, Bid.posting_id == posting.id)
