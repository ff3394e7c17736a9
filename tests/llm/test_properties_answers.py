"""Any JSON that Python's `json` reads, as an answer and as a request; any chunking, and any cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbitrageai_native import LLMService, OpenAI, exceptions
from testing_support.keys import KEY
from testing_support.servers import faulty_http as faulty
from testing_support.servers.faulty_http import Action, FaultyServer
from tests.properties import ANY_TEXT, JSON_TEXTS, JSON_VALUES, as_read, can_be_sent, examples

pytestmark = pytest.mark.holds_the_loop("examples are drawn between the calls")


class Server(FaultyServer):
    """Answers with what was set last."""

    def __init__(self) -> None:
        super().__init__(lambda connection: self.answer(connection))
        self.answer: Action = faulty.answer()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


@pytest.fixture(scope="module")
def service(server: Server) -> LLMService:
    return LLMService(base_url=server.base_url, api_key=KEY, enable_circuit_breaker=False, max_retries=0)


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key=KEY, max_retries=0)


@given(text=JSON_TEXTS, mark=st.booleans())
@examples(60)
def test_any_json_is_an_answer_or_an_error_that_says_what_is_wrong(
    server: Server, service: LLMService, client: OpenAI, text: str, mark: bool
) -> None:
    server.answer = faulty.answer((b"\xef\xbb\xbf" if mark else b"") + text.encode())
    refusals = []
    for call in (
        lambda: service.complete("hi"),
        lambda: service.complete("hi", raw=True),
        lambda: client.chat.completions.create(model="m", messages=[]),
    ):
        try:
            call()
        except exceptions.APIResponseValidationError as error:
            refusals.append(str(error))
    assert not any("not JSON" in refusal for refusal in refusals), refusals


# Names that mean nothing in an answer, so that they change nothing.
SIDE_MEMBERS = st.dictionaries(ANY_TEXT.map(lambda name: f"x_{name}"), JSON_TEXTS, max_size=3)


def with_members(text: str, members: dict[str, str]) -> str:
    """Return an object's JSON with further members, whose JSON is given."""
    further = "".join(f",{json.dumps(name)}:{member}" for name, member in members.items())
    return f"{text[:-1]}{further}}}"


@given(
    content=ANY_TEXT, around=SIDE_MEMBERS, within=SIDE_MEMBERS, beside=SIDE_MEMBERS, split=st.integers(0, 200)
)
@example("fine \ud83d", {"x_score": "NaN"}, {"x_logprob": "-Infinity"}, {"x": "1e999"}, 3)
@examples(60)
def test_odd_members_beside_the_text_change_nothing(
    server: Server,
    service: LLMService,
    client: OpenAI,
    content: str,
    around: dict[str, str],
    within: dict[str, str],
    beside: dict[str, str],
    split: int,
) -> None:
    message = with_members(json.dumps({"role": "assistant", "content": content}), beside)
    choice = with_members(f'{{"index":0,"finish_reason":"stop","message":{message}}}', within)
    usage = '{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}'
    text = with_members(f'{{"model":"m","usage":{usage},"choices":[{choice}]}}', around).encode()
    server.answer = faulty.stream(text[:split], text[split:], headers=["Content-Type: application/json"])
    expected = as_read(json.loads(text))
    result = service.complete("hi", raw=True)
    assert result["raw"] == expected
    assert service.complete("hi")["content"] == result["content"] == as_read(json.loads(json.dumps(content)))
    assert (result["model"], result["usage"]["total_tokens"]) == ("m", 7)
    assert client.chat.completions.create(model="m", messages=[]).model_dump() == expected


@given(
    name=st.sampled_from(["metadata", "stop", "x_other"]),
    value=JSON_VALUES,
    members=st.dictionaries(ANY_TEXT, JSON_VALUES, max_size=3),
)
@example("seed", 2**64, {})
@example("metadata", {"a": ["\udc80"]}, {})
@example("metadata", {"\udc80": 1}, {})
@example("stop", None, {"\ud800": 1})
@examples(60)
def test_a_member_is_sent_as_it_is_or_refused_by_name(
    server: Server, service: LLMService, name: str, value: Any, members: dict[str, Any]
) -> None:
    server.answer = faulty.answer()
    server.requests.clear()
    keywords = {name: value, "extra_body": members}
    if not can_be_sent(value) or not can_be_sent(members):
        wrong = [name] if not can_be_sent(value) else ["extra_body", *map(ascii, members)]
        with pytest.raises(ValueError) as caught:
            service.complete("hi", **keywords)
        assert isinstance(caught.value, exceptions.OpenAIError)
        assert any(text.strip("'\"") in ascii(str(caught.value)) for text in wrong), caught.value
        assert server.requests == []
        return
    service.complete("hi", **keywords)
    sent = server.requests[-1].json
    # A member that is None may be left out.
    assert {key: sent.get(key) for key in members} == members
    assert name in members or sent.get(name) == value


# --- streams ---

PIECES = st.lists(ANY_TEXT, min_size=1, max_size=5)


def event(content: str, members: dict[str, str]) -> bytes:
    delta = with_members(json.dumps({"content": content}), members)
    choice = f'{{"index":0,"delta":{delta},"finish_reason":null}}'
    return b"data: " + with_members(f'{{"model":"m","choices":[{choice}]}}', members).encode() + b"\n\n"


def in_parts(whole: bytes, lengths: list[int]) -> list[bytes]:
    return [whole[start:end] for start, end in pairwise(accumulate([0, *lengths, len(whole)]))]


@given(pieces=PIECES, members=SIDE_MEMBERS, lengths=st.lists(st.integers(1, 80), max_size=6))
@example(["a\ud83d", "\ude00b"], {"x_score": "NaN"}, [7])
@examples(40)
def test_a_stream_is_read_however_its_bytes_are_divided(
    server: Server,
    service: LLMService,
    client: OpenAI,
    pieces: list[str],
    members: dict[str, str],
    lengths: list[int],
) -> None:
    # A number with a line feed in it can't stand in one line of an event.
    members = {name: " ".join(text.split()) for name, text in members.items()}
    whole = b"".join(event(piece, members) for piece in pieces) + faulty.DONE
    server.answer = faulty.stream(*in_parts(whole, lengths))
    expected = [as_read(json.loads(json.dumps(piece))) for piece in pieces if piece]
    stream = service.complete_streaming("hi")
    assert list(stream) == expected
    assert stream.model == "m"
    chunks = client.chat.completions.create(model="m", messages=[], stream=True)
    assert [chunk.choices[0].delta.content for chunk in chunks] == [as_read(piece) for piece in pieces]


@given(
    pieces=PIECES,
    finished=st.booleans(),
    cut=st.floats(0, 1, exclude_max=True),
    chunked=st.booleans(),
    ending=st.sampled_from(["close", "close", "reset"]),
)
@examples(40)
def test_a_stream_that_was_cut_never_ends_as_if_it_were_complete(
    server: Server,
    service: LLMService,
    pieces: list[str],
    finished: bool,
    cut: float,
    chunked: bool,
    ending: str,
) -> None:
    head = b"".join(event(piece, {}) for piece in pieces)
    finish = faulty.chunk(finish_reason="stop") if finished else b""
    whole = head + finish + faulty.DONE
    at = int(cut * len(whole))
    server.answer = faulty.stream(whole[:at], chunked=chunked, ending=ending)
    expected = [as_read(json.loads(json.dumps(piece))) for piece in pieces if piece]
    came = []
    try:
        for piece in service.complete_streaming("hi"):
            came.append(piece)
    except exceptions.APIConnectionError:
        pass
    else:
        said_done = whole[:at].rstrip().endswith(b"data: [DONE]")
        # An orderly close behind the `finish_reason`, between two events.
        closed_well = finished and ending == "close" and not chunked and at >= len(head + finish)
        between = whole[len(head + finish) : at].rstrip(b"\n") in (b"", b"d", b"da", b"dat", b"data")
        assert said_done or (closed_well and between), whole[:at]
        assert came == expected
    assert came == expected[: len(came)]


@given(content=ANY_TEXT, cut=st.floats(0, 1, exclude_max=True), ending=st.sampled_from(["close", "reset"]))
@examples(20)
def test_an_answer_that_was_cut_is_an_error(
    server: Server, service: LLMService, content: str, cut: float, ending: str
) -> None:
    body = faulty.completion(content)
    server.answer = faulty.cut(int(cut * len(json.dumps(body))), body, ending)
    with pytest.raises(exceptions.APIConnectionError):
        service.complete("hi")
