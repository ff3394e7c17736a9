"""Proposals: how a model is asked for one, how its answer is read, what the demo's own server answers."""

from __future__ import annotations

import re
import zlib
from typing import Final

from arbitrageai_native.demo.postings import Posting
from arbitrageai_native.testing import RecordedRequest

SYSTEM_PROMPT: Final = (
    "You are a freelancer who bids on job postings. Answer with one line `PRICE: <whole US dollars>`, "
    "then a proposal of at most three sentences."
)
PRICE: Final = re.compile(
    r"^[^\w\n]{0,9}PRICE[^\w\n]{0,9}(\d{1,3}(?:,\d{3})+|\d{1,9})[^\n]*\n?", re.IGNORECASE | re.MULTILINE
)
TITLE: Final = re.compile(r"^Title: (.*)$", re.MULTILINE)

OPENINGS: Final = (
    "I have delivered three projects like this one in the past year",
    "This is what I do most days, and I can start tomorrow",
    "Your posting names the right difficulties, and I have met each of them",
    "I would begin with a small part that you can judge within two days",
)
PROMISES: Final = (
    "you get a working first version by the end of the week, with tests",
    "the price includes a written hand-over and one round of changes",
    "I report every second day and show what runs",
    "nothing is billed before you have seen it work on your own data",
)
SHORTEST_ANSWER_SECONDS: Final = 0.6
LONGEST_ANSWER_SECONDS: Final = 1.8


def prompt_for(posting: Posting) -> str:
    """Write what the model is asked about a posting."""
    title = " ".join(posting.title.split())
    return f"Marketplace: {posting.marketplace}\nTitle: {title}\n\n{posting.description}"


def read_answer(content: str) -> tuple[int | None, str]:
    """Take a model's answer apart: (price in US dollars if it names one, proposal)."""
    match = PRICE.search(content)
    if match is None:
        return None, content.strip()
    price = int(match[1].replace(",", ""))
    return price, (content[: match.start()] + content[match.end() :]).strip()


def propose(request: RecordedRequest) -> str:
    """Answer as a model would; the same posting always gets the same answer."""
    title = TITLE.search(request.prompt)
    number = _number_of(request)
    price = 150 + number % 96 * 25
    opening = OPENINGS[number % len(OPENINGS)]
    promise = PROMISES[number // 7 % len(PROMISES)]
    subject = (
        f"About \N{LEFT DOUBLE QUOTATION MARK}{title[1]}\N{RIGHT DOUBLE QUOTATION MARK}: " if title else ""
    )
    return f"PRICE: {price}\n{subject}{opening}. For ${price}, {promise}."


def answer_seconds(request: RecordedRequest) -> float:
    """Say how long a model would think about it."""
    share = _number_of(request) % 1000 / 999
    return SHORTEST_ANSWER_SECONDS + share * (LONGEST_ANSWER_SECONDS - SHORTEST_ANSWER_SECONDS)


def _number_of(request: RecordedRequest) -> int:
    return zlib.crc32(request.prompt.encode("utf-8", "surrogatepass"))
