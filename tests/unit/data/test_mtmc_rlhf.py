"""MTMC-RLHF: dialogues, Chinese labels, and rankings whose pairs are exactly those of unequal ranks."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facetrm.core.errors import DataError
from facetrm.data.records import Preference
from facetrm.data.sources import MTMC_TASKS, SOURCES, Dropped, load_source
from facetrm.data.views import as_pairs

SAMPLE = Path(__file__).parent / "sources" / "quanshr__mtmc-rlhf.jsonl"
SOURCE = SOURCES["mtmc-rlhf"]


def row(**changes: Any) -> dict[str, Any]:
    return {"label": "闲聊", "src": ["q"], "tgt": [], "response": ["a", "b"], "rank": [1, 2], **changes}


def texts(record: Preference) -> list[str]:
    return [message.content for message in record.responses]


def kept(**changes: Any) -> list[Preference]:
    return [record for record in SOURCE.records([row(**changes)]) if isinstance(record, Preference)]


def reasons(**changes: Any) -> list[str]:
    return [record.reason for record in SOURCE.records([row(**changes)]) if isinstance(record, Dropped)]


def test_the_sample(capsys: pytest.CaptureFixture[str]) -> None:
    records = [record for record in load_source("mtmc-rlhf", path=SAMPLE) if isinstance(record, Preference)]
    event = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert [texts(record) for record in records] == [
        ["别慌，左满舵！", "好的。", "我是一个语言模型。"],
        ["下雨天最适合喝茶了，你喜欢什么茶？", "嗯。"],
        ["下雨天最适合喝茶了，你喜欢什么茶？", "哦。"],
        ["一百摄氏度。", "九十度。"],
        ["落叶敲窗，一夜凉。", "秋天来了。"],
        ["落叶敲窗，一夜凉。", "秋天来了。"],
        ["def add(a: int, b: int) -> int:\n    return a + b", "不会。"],
        ["你好！", "喂。"],
    ]
    assert [r.task for r in records] == ["roleplay", "chat", "chat", "obj_qa", "text", "text", None, None]
    assert [r.subset for r in records[-3:]] == ["text", "代码理解与生成", None]
    assert event["dropped"] == {
        "equal ranks": 2,
        "equal texts": 1,
        "an empty reply": 1,
        "a reply without a rank": 1,
        "not one reply to every query but the last": 1,
        "as many ranks as replies are needed": 1,
        "fewer than two ranked replies": 1,
        "an empty turn": 1,
    }


def test_the_whole_dialogue_is_the_prompt() -> None:
    (record,) = kept(src=["one", "two", "three"], tgt=["first", "second"])
    assert [(m.role, m.content) for m in record.prompt] == [
        ("user", "one"),
        ("assistant", "first"),
        ("user", "two"),
        ("assistant", "second"),
        ("user", "three"),
    ]


@pytest.mark.parametrize("label", [*MTMC_TASKS, *MTMC_TASKS.values()])
def test_both_spellings_of_a_task_are_read(label: str) -> None:
    (record,) = kept(label=label)
    assert (record.task, record.subset) == (MTMC_TASKS.get(label, label), label)


@pytest.mark.parametrize("label", ["其他", "逻辑推理", "", None])
def test_other_labels_leave_the_task_open(label: str | None) -> None:
    assert [record.task for record in kept(label=label)] == [None]


def test_pairs_are_exactly_those_of_unequal_ranks_and_the_lower_one_wins() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        ranks = rng.integers(1, 5, size=rng.integers(2, 6)).tolist()
        replies = [f"reply {n}" for n in range(len(ranks))]
        found = kept(response=replies, rank=ranks)
        pairs = sorted(tuple(texts(pair)) for record in found for pair in as_pairs(record))
        expected = [
            (replies[i], replies[j]) for i, j in itertools.permutations(range(len(ranks)), 2) if ranks[i] < ranks[j]
        ]
        assert pairs == sorted(expected)
        tied = len(set(ranks)) < len(ranks)
        assert tied or len(found) == 1
        assert reasons(response=replies, rank=ranks).count("equal ranks") == len(ranks) * (len(ranks) - 1) // 2 - len(
            expected
        )


def test_what_is_no_ranking_is_counted_under_a_reason() -> None:
    assert reasons(src=[]) == ["not one reply to every query but the last"]
    assert reasons(src=["a", "b"], tgt=["x", "y"]) == ["not one reply to every query but the last"]
    assert reasons(src=["a", "b"], tgt=[None]) == ["an empty turn"]
    assert reasons(rank=[1, 2, 3]) == ["as many ranks as replies are needed"]
    assert reasons(rank=[1, None]) == ["a reply without a rank", "fewer than two ranked replies"]
    assert reasons(response=["a", "a"]) == ["equal texts"]
    assert reasons(response=[], rank=[]) == ["fewer than two ranked replies"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"src": "q"}, r"'src' is 'q', not a list"),
        ({"src": [1]}, r"'src' holds 1, not text"),
        ({"label": 3}, r"'label' is 3, not text"),
        ({"rank": ["first", "second"]}, r"'rank' is 'first', not a number"),
        ({"rank": None}, r"'rank' is None, not a list"),
    ],
)
def test_another_schema_is_an_error_with_its_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(row(**changes)) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"train\.jsonl:1: {message}"):
        load_source("mtmc-rlhf", path=path)
