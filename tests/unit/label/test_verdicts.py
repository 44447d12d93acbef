"""Verdicts are JSON of one form; nothing is guessed from digits; two of them come to one named outcome."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from facetrm.core.errors import LabelError
from facetrm.label.outcomes import decide
from facetrm.label.verdicts import VERDICT_SCHEMA, VERDICTS, read_verdict


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_is_read_in_every_allowed_dress(verdict: str) -> None:
    bare = json.dumps({"better": verdict})
    other = json.dumps({"better": "tie" if verdict != "tie" else "reply_2"})
    for text in (
        bare,
        f"  {bare}\n",
        f"```json\n{bare}\n```",
        f"```\n{bare}\n```",
        f"<think>is it {other}? {{1, 2}}</think>\n\n{bare}",
        json.dumps({"better": verdict}, indent=2),
        f"so it is {other}, or not</think>\n{bare}",
        f"</think>{bare}",
        f"<thinking>is it {other}?</thinking>{bare}",
        f"[THINK]well[/THINK]{bare}",
        f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{bare}<|return|>",
        f"{bare}<|im_end|>",
        f"{bare}\n</s>\n",
        f"{bare}<|eot_id|><|end_of_text|>",
        f"{bare}<end_of_turn><eos>",
        f"{bare}<｜end▁of▁sentence｜>",
        f"```json\n{bare}\n```<|im_end|>\n",
        f"well</think>```json\n{bare}\n```</s>",
    ):
        assert read_verdict(text) == verdict


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "2",
        "10",
        "reply 2 beats reply 1",
        "reply_1",
        '"reply_1"',
        '["reply_1"]',
        '{"better": "1"}',
        '{"better": 1}',
        '{"better": ["reply_1"]}',
        '{"better": "Reply_1"}',
        '{"best": "reply_1"}',
        '{"better": "reply_1", "why": "shorter"}',
        '{"better": "reply_1", "better": "reply_2"}',
        'The verdict: {"better": "reply_1"}',
        '{"better": "reply_1"} because it is shorter',
        '{"better": "reply_1"}\n{"better": "reply_2"}',
        '<think>{"better": "reply_1"}',
        '{"better": "reply_1"',
        '{"better": "reply_1"}</think>',
        '{"better": "reply_1"}</think>and so on',
        '<|im_end|>{"better": "reply_1"}',
        '{"better": "reply_1"}<|im_end|>{"better": "reply_2"}',
        '{"better": "reply_1"}</b>',
        '{"better": "reply_1"}```',
        "null",
        "[" * 100_000,
    ],
)
def test_anything_else_is_no_verdict(text: str) -> None:
    with pytest.raises(LabelError, match=r"is not a verdict; it must be only \{\"better\""):
        read_verdict(text)


@pytest.mark.parametrize("part", ["\n", " ", "`", "<|", "</s>", "<|a|>", "</think", "```\n", "{"])
def test_a_long_reply_costs_no_time(part: str) -> None:
    began = time.monotonic()
    for text in (part * 500_000, "```json\n" + part * 500_000, part * 500_000 + "x", "<think>" + part * 500_000):
        with pytest.raises(LabelError):
            read_verdict(text)
    assert time.monotonic() - began < 5.0


def test_the_schema_allows_just_what_is_read() -> None:
    assert VERDICT_SCHEMA["properties"]["better"]["enum"] == list(VERDICTS)
    assert VERDICT_SCHEMA["required"] == list(VERDICT_SCHEMA["properties"]) == ["better"]
    assert VERDICT_SCHEMA["additionalProperties"] is False


@pytest.mark.parametrize(
    ("straight", "swapped", "outcome"),
    [
        ("reply_1", "reply_2", "first"),
        ("reply_2", "reply_1", "second"),
        ("reply_1", "reply_1", "first_twice"),
        ("reply_2", "reply_2", "second_twice"),
        ("tie", "tie", "tie"),
        ("tie", "reply_1", "half_tie"),
        ("reply_2", "tie", "half_tie"),
        ("cannot_say", "reply_1", "cannot_say"),
        ("tie", "cannot_say", "cannot_say"),
        ("cannot_say", "cannot_say", "cannot_say"),
        ("reply_1", None, "unanswered"),
        (None, "cannot_say", "unanswered"),
    ],
)
def test_two_verdicts_come_to_one_outcome(straight: Any, swapped: Any, outcome: str) -> None:
    assert decide(straight, swapped) == outcome
