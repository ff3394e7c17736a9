"""The web application."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

from fastapi import FastAPI
from sqlalchemy import func, select
from src.agent_execution.bid_lock_manager import get_bid_lock_manager
from src.agent_execution.bidding import consider
from src.agent_execution.evaluation import Posting, service
from src.agent_execution.market_scanner import Holding, MarketScanner
from src.agent_execution.scanner import Scanner
from src.api.database import SessionLocal, create_tables, in_thread
from src.api.models import Bid
from src.monitoring.loop_lag import LoopLag

lag = LoopLag()
scanner: Scanner | None = None


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Make the tables; measure and scan until the application ends."""
    global scanner
    await in_thread(create_tables)
    tasks = [asyncio.create_task(lag.run())]
    postings = os.getenv("POSTINGS_FILE")
    if postings:
        scanner = Scanner.of_file(Path(postings))
        tasks.append(asyncio.create_task(scanner.run()))
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


app = FastAPI(title="ArbitrageAI in small", lifespan=lifespan)


@app.post("/postings")
async def post_posting(posting: Posting) -> dict[str, str]:
    """Consider a posting now."""
    return {"outcome": await consider(posting)}


@app.post("/scans")
async def post_scan(posting: Posting, holding: Holding = "nothing") -> dict[str, str]:
    """Consider a posting now, as the newest scanner does."""
    scanner = market_scanner()
    return {"outcome": await consider(posting, lambda found: scanner.evaluate_posting(found, holding))}


@cache
def market_scanner() -> MarketScanner:
    """The process's scanner, made when it is first needed."""
    return MarketScanner(service())


@app.get("/bids")
async def get_bids() -> dict[str, int]:
    """How many bids there are for each posting, as `marketplace:id`."""
    return await in_thread(_count_bids)


def _count_bids() -> dict[str, int]:
    with SessionLocal() as session:
        counted = select(Bid.marketplace, Bid.posting_id, func.count()).group_by(
            Bid.marketplace, Bid.posting_id
        )
        return {f"{marketplace}:{posting}": count for marketplace, posting, count in session.execute(counted)}


@app.get("/health")
async def get_health(history: bool = False, reset: bool = False) -> dict[str, object]:
    """How this worker is, and how late its event loop was."""
    found: dict[str, object] = {
        "status": "ok",
        "worker": os.getpid(),
        "modules": get_bid_lock_manager.__module__,
        "loop_lag_ms": {"last": round(lag.last_ms, 2), "worst": round(lag.worst_ms, 2)},
        "scanner": dict(scanner.outcomes) if scanner else None,
    }
    if history:
        found["history"] = lag.history()
    if reset:
        lag.reset()
    return found
