"""Seeded fuzz: replies, responses, rubrics and settings of labelling end in an answer or in a message that helps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, seed, settings
from hypothesis import strategies as st

from facetrm.core.config import apply_sets, parse_config
from facetrm.core.errors import ConfigError, FacetrmError, LabelError
from facetrm.core.web.wire import WireError, read_reply
from facetrm.data.rubric import read_rubric
from facetrm.label.client import Fault, OpenAIJudge, Reply
from facetrm.label.run import label_pairs
from facetrm.label.settings import LabelConfig
from facetrm.label.store import LabelStore, StoredAnswer
from facetrm.label.verdicts import VERDICTS, read_verdict
from label_samples import pairs, plan
from raw_server import completion_of

QUICK: dict[str, Any] = {
    "deadline": None,
    "derandomize": False,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
ANY_TEXT = st.text(st.characters(), max_size=60)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(ANY_TEXT, v, max_size=3), max_leaves=8
)
PIECES = [
    "<think>",
    "</think>",
    "```json\n",
    "```",
    "<|im_end|>",
    "</s>",
    '{"better": "tie"}',
    '{"better": ',
    "\n",
    " ",
]
REPLIES = st.lists(st.sampled_from([*PIECES, *VERDICTS]) | ANY_TEXT, max_size=6).map("".join)
PATHS = [("choices",), ("choices", 0), ("choices", 0, "message"), ("choices", 0, "message", "content"), ("model",)]
PATHS += [("usage",), ("usage", "prompt_tokens"), ("choices", 0, "finish_reason"), ("choices", 0, "message", "refusal")]


def assert_helpful(error: FacetrmError, *, place: str = "") -> None:
    assert error.problem
    assert place in str(error.place)
    assert error.fix, error
    assert len(str(error)) < 1500, error


@seed(1)
@settings(max_examples=400, **QUICK)
@given(REPLIES)
def test_any_reply_is_a_verdict_or_none(text: str) -> None:
    try:
        assert read_verdict(text) in VERDICTS
    except LabelError as exc:
        assert_helpful(exc)


@pytest.fixture(scope="module")
def judge() -> OpenAIJudge:
    return OpenAIJudge(LabelConfig(model="m", base_url="http://127.0.0.1:9/v1"))


def spoilt(path: tuple[Any, ...], value: Any) -> bytes:
    """Return a completion with ``value`` in one place, as JSON that Python's own reader takes."""
    whole: dict[str, Any] = json.loads(completion_of('{"better": "tie"}').partition(b"\r\n\r\n")[2])
    node: Any = whole
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(whole).encode()


@seed(2)
@settings(max_examples=400, **QUICK)
@given(
    body=st.builds(spoilt, st.sampled_from(PATHS), VALUES)
    | st.binary(max_size=60)
    | VALUES.map(json.dumps).map(str.encode),
    status=st.integers(200, 599),
)
@example(body=spoilt(("usage", "prompt_tokens"), 2**63), status=200)
@example(body=spoilt(("choices", 0, "message", "content"), "\ud83d"), status=200)
def test_any_response_is_a_reply_that_can_be_kept_or_a_fault(
    judge: OpenAIJudge, tmp_path_factory: pytest.TempPathFactory, body: bytes, status: int
) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def answer(path: str, value: Any = None) -> Any:
        reader = asyncio.StreamReader()
        reader.feed_data(head + body)
        reader.feed_eof()
        return await read_reply(reader, largest=10_000)

    judge._client.send = answer  # type: ignore[method-assign]
    said = asyncio.run(judge.ask([{"role": "user", "content": "x"}], schema=True))
    if isinstance(said, Fault):
        assert 0 < len(said.reason) <= 400
        assert said.reason.isprintable()
    else:
        with LabelStore(tmp_path_factory.getbasetemp() / "fuzz") as store:
            assert store.put({"k": StoredAnswer("tie", said.text, said.model, said.tokens_in, said.tokens_out)}) == {}


@seed(3)
@settings(max_examples=400, **QUICK)
@given(
    st.binary(max_size=80),
    st.sampled_from(
        [
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n",
        ]
    ),
)
def test_any_bytes_are_a_response_or_an_error_of_the_wire(data: bytes, head: bytes) -> None:
    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(head + data)
        reader.feed_eof()
        try:
            reply = await read_reply(reader, largest=1000)
        except (WireError, asyncio.IncompleteReadError):
            return
        assert len(reply.body) <= 1000

    asyncio.run(read())


@seed(4)
@settings(max_examples=400, **QUICK)
@given(st.sampled_from([*LabelConfig.model_fields, "modle"]), VALUES)
@example("extra", {"a": float("nan")})
@example("timeout", float("inf"))
@example("in_flight", 10**9)
@example("model", "\udcff")
def test_any_setting_is_taken_or_refused(name: str, value: Any) -> None:
    try:
        config = parse_config(LabelConfig, {"model": "m", name: value}, place="--set")
    except ConfigError as exc:
        assert_helpful(exc)
        return
    json.dumps(config.model_dump(mode="json"), allow_nan=False).encode()
    made = plan(rows=pairs(1), **{name: getattr(config, name)})
    assert len(made.keys) == 4
    json.dumps(made.estimate(set()), allow_nan=False)


@seed(5)
@settings(max_examples=150, **QUICK)
@given(ANY_TEXT, st.sampled_from(["extra", "tasks", "model", "temperature", "extra.a", "x"]))
def test_any_set_is_taken_or_refused(text: str, name: str) -> None:
    try:
        parse_config(LabelConfig, apply_sets({"model": "m"}, [f"{name}={text}"]), place="--set")
    except ConfigError as exc:
        assert_helpful(exc)


def rubric_text(name: Any, task: Any, capability: Any, extra: Any) -> str:
    point = {"name": capability, "description": "how kind it is", "better": "kinder"}
    return json.dumps(
        {"name": name, "tasks": [{"name": task, "description": "Talk.", "capabilities": [point]}], **extra}
    )


@seed(6)
@settings(max_examples=120, **QUICK)
@given(
    st.builds(rubric_text, VALUES, VALUES, VALUES, st.dictionaries(ANY_TEXT, VALUES, max_size=1))
    | st.builds(rubric_text, st.just("mine"), st.just("chat"), ANY_TEXT, st.just({}))
    | VALUES.map(json.dumps)
    | st.text(max_size=60)
)
def test_any_rubric_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = read_rubric(str(path))
    except FacetrmError as exc:
        assert_helpful(exc, place=str(path))
        return
    assert found.tasks


class Fuzzed:
    """A judge whose replies are drawn."""

    def __init__(self, draw: Callable[[], Reply | Fault]) -> None:
        self.draw = draw

    async def ask(self, messages: Any, *, schema: bool) -> Reply | Fault:
        return self.draw()


COUNTS = st.integers(-2, 2**65)
ANSWERS = st.builds(Reply, REPLIES, ANY_TEXT, COUNTS, COUNTS, refused=st.booleans(), cut=st.booleans())
FAULTS = st.builds(
    Fault,
    st.sampled_from(["again", "refused", "stop"]),
    st.text(min_size=1, max_size=20),
    st.sampled_from([0.0, 0.001, 1e9]),
    st.sampled_from(["status", "unreachable", "silent", "garbage"]),
)


@seed(7)
@settings(max_examples=40, **QUICK)
@given(data=st.data(), in_flight=st.sampled_from([1, 3]), format=st.sampled_from(["auto", "schema", "text"]))
def test_any_judge_ends_in_labels_or_in_a_message(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, in_flight: int, format: str
) -> None:
    script = data.draw(
        st.lists(ANSWERS | FAULTS | st.just(Reply('{"better": "tie"}', "m", 1, 1)), min_size=1, max_size=12)
    )
    said = iter(script * 100)
    out = tmp_path_factory.mktemp("labels")
    made = plan(
        rows=pairs(2), in_flight=in_flight, answer_format=format, tries=2, first_wait=1e-4, longest_wait=1e-3,
        give_up_after=3, max_requests=50,
    )  # fmt: skip
    try:
        labelled = label_pairs(made, out, make_judge=lambda _: Fuzzed(lambda: next(said)), quiet=True)
    except LabelError as exc:
        assert_helpful(exc, place=str(out))
    else:
        assert labelled.report["answered"] + labelled.report["failed"] == len(made.keys)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    failures = (out / "failures.jsonl").read_text(encoding="utf-8").split("\n")[:-1]  # a reason may hold U+0085
    assert report["answered"] + len({json.loads(row)["key"] for row in failures}) == len(made.keys)


def test_paths_of_the_fuzz_are_those_of_a_completion(tmp_path: Path) -> None:
    for path in PATHS:
        assert spoilt(path, 1) != spoilt(path, 2)
