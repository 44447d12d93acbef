"""Column conventions: each is detected, announced, and read into the same records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facetrm.core.errors import DataError
from facetrm.data.objectives import Objective
from facetrm.data.read.files import read_preferences, read_ratings
from facetrm.data.read.transcripts import human_assistant

Q = {"role": "user", "content": "What is two plus two?"}
GOOD = {"role": "assistant", "content": "Four."}
BAD = {"role": "assistant", "content": "Five."}
SYSTEM = {"role": "system", "content": "Be brief."}


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def announced(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(events) == 1, "one announcement per file"
    return events[0]


@pytest.mark.parametrize(
    ("row", "convention", "style"),
    [
        ({"prompt": [Q], "responses": [GOOD, BAD]}, "facetrm", "conversational"),
        (
            {
                "id": "1",
                "source": "s",
                "split": "train",
                "prompt": [Q],
                "chosen": [GOOD],
                "rejected": [BAD],
                "category": "qa",
            },
            "facetrm pack",
            "conversational",
        ),
        ({"prompt": [Q], "chosen": [GOOD], "rejected": [BAD]}, "TRL explicit prompt", "conversational"),
        (
            {"prompt": Q["content"], "chosen": GOOD["content"], "rejected": BAD["content"]},
            "TRL explicit prompt",
            "standard",
        ),
        ({"prompt": Q["content"], "chosen": [Q, GOOD], "rejected": [Q, BAD]}, "TRL explicit prompt", "standard"),
        ({"chosen": [Q, GOOD], "rejected": [Q, BAD]}, "TRL implicit prompt", "conversational"),
        (
            {"chosen": "What is two plus two? Four.", "rejected": "What is two plus two? Five."},
            "TRL implicit prompt",
            "standard",
        ),
        (
            {
                "chosen": "\n\nHuman: What is two plus two?\n\nAssistant: Four.",
                "rejected": "\n\nHuman: What is two plus two?\n\nAssistant: Five.",
            },
            "TRL implicit prompt",
            "standard",
        ),
    ],
)
def test_preference_conventions(
    row: dict[str, Any], convention: str, style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pair,) = read_preferences(write_lines(tmp_path / "p.jsonl", row))
    assert [m.model_dump() for m in pair.prompt] == [Q]
    assert [m.model_dump() for m in pair.responses] == [GOOD, BAD]
    assert {"event": "read", "kind": "preference", "convention": convention, "style": style}.items() <= announced(
        capsys
    ).items()
    assert pair.task == row.get("category")


@pytest.mark.parametrize(
    ("row", "convention"),
    [
        ({"messages": [Q, GOOD], "ratings": {"a": 3, "b": None}}, "facetrm"),
        ({"messages": [Q, GOOD], "ratings": {"a": 3}, "category": "qa"}, "facetrm pack"),
        ({"messages": [Q, GOOD], "a": 3, "b": None}, "RLHFlow attributes"),
        ({"prompt": Q["content"], "response": GOOD["content"], "a": 3, "b": None}, "prompt and response"),
        ({"prompt": [Q], "completion": [GOOD], "a": 3, "b": None}, "prompt and completion"),
    ],
)
def test_rating_conventions(
    row: dict[str, Any], convention: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (rating,) = read_ratings(write_lines(tmp_path / "r.jsonl", row))
    assert [m.model_dump() for m in rating.messages] == [Q, GOOD]
    assert rating.ratings == {"a": 3.0}
    assert announced(capsys)["convention"] == convention
    assert rating.task == row.get("category")


def test_attribute_columns_are_those_with_numbers_and_the_rest_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"messages": [Q, GOOD], "a": None, "b": 2, "model": "m1", "idx": 7, "source": "web"},
        {"messages": [Q, BAD], "a": 1.5, "b": None, "model": "m2", "idx": 8, "source": "web"},
    ]
    path = write_lines(tmp_path / "r.jsonl", *rows)
    objectives = [Objective(name=name, low=0, high=4) for name in ("a", "b", "c")]
    first, second = read_ratings(path, objectives=objectives)
    assert (first.ratings, second.ratings) == ({"b": 2.0}, {"a": 1.5})
    assert first.meta == {"model": "m1", "idx": 7}
    assert first.source == "web"
    event = announced(capsys)
    assert (event["attributes"], event["kept_in_meta"]) == (["a", "b"], ["idx", "model"])
    assert read_ratings(path)[0].ratings == {"b": 2.0, "idx": 7.0}


def test_an_attribute_column_may_not_hold_text_in_some_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", {"messages": [Q, GOOD], "a": 1}, {"messages": [Q, GOOD], "a": "2"})
    with pytest.raises(DataError, match=r"r\.jsonl:2: 'ratings\.a' is '2', not a number"):
        read_ratings(path)


def test_parquet_with_attribute_columns(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    rows = [{"messages": [Q, GOOD], "a": 3.0, "b": None}, {"messages": [Q, BAD], "a": float("nan"), "b": 1}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [record.ratings for record in read_ratings(path)] == [{"a": 3.0}, {"b": 1.0}]


def test_multi_turn_with_system_prompt(tmp_path: Path) -> None:
    turns = [SYSTEM, Q, GOOD, {"role": "user", "content": "And three?"}]
    row = {"chosen": [*turns, {"role": "assistant", "content": "Six."}], "rejected": [*turns, BAD]}
    (pair,) = read_preferences(write_lines(tmp_path / "p.jsonl", row))
    assert [m.role for m in pair.prompt] == ["system", "user", "assistant", "user"]
    assert [m.content for m in pair.responses] == ["Six.", "Five."]


def test_margin_becomes_strength_and_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b", "margin": m} for m in (6.0, 2, 0, float("nan"), 1)]
    pairs = read_preferences(write_lines(tmp_path / "p.jsonl", *rows))
    assert [pair.strength for pair in pairs] == [0.75, 0.5, 0.0, None, pytest.approx(1 / 3)]
    assert [pair.meta.get("margin") for pair in pairs] == [6.0, 2, 0, None, 1]
    assert announced(capsys)["margin_scale"] == 2.0


def test_one_huge_margin_silences_nobody_and_margins_of_zero_say_nothing(tmp_path: Path) -> None:
    def strengths(*margins: float) -> list[float | None]:
        rows = [{"prompt": "q", "chosen": "a", "rejected": "b", "margin": m} for m in margins]
        return [pair.strength for pair in read_preferences(write_lines(tmp_path / "p.jsonl", *rows))]

    assert strengths(1, 2, 3, 1e9)[:3] == [pytest.approx(m / (m + 2.5)) for m in (1, 2, 3)]
    assert strengths(1, 2, 3, 1e308)[3] == 1.0
    assert strengths(0, 0) == [None, None]


def test_strength_is_read_as_it_is(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "strength": 0.5, "margin": 3}
    assert read_preferences(write_lines(tmp_path / "p.jsonl", row))[0].strength == 0.5


def test_own_convention_refuses_unknown_columns(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", {"messages": [Q, GOOD], "ratings": {"a": 1}, "sorce": "web"})
    with pytest.raises(DataError, match=r"unknown column 'sorce' \('web'\); did you mean 'source'\?"):
        read_ratings(path)


def test_undetectable_columns_list_the_conventions(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", {"text": "hello", "label": 1})
    with pytest.raises(
        DataError, match=r"(?s)no preference convention has .*'label', 'text'.*TRL explicit.*TRL implicit"
    ):
        read_preferences(path)
    with pytest.raises(DataError, match=r"(?s)no rating convention .*RLHFlow attributes"):
        read_ratings(path)


def test_the_other_kind_is_recognised(tmp_path: Path) -> None:
    pairs = write_lines(tmp_path / "p.jsonl", {"prompt": "q", "chosen": "a", "rejected": "b"})
    with pytest.raises(DataError, match="hold preferences"):
        read_ratings(pairs)
    rated = write_lines(tmp_path / "r.jsonl", {"messages": [Q, GOOD], "ratings": {}})
    with pytest.raises(DataError, match="hold ratings"):
        read_preferences(rated)


def test_human_assistant_transcript() -> None:
    text = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Say\n\nmore: please\n\nAssistant: Fine"
    assert human_assistant(text) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Say\n\nmore: please"},
        {"role": "assistant", "content": "Fine"},
    ]
    with pytest.raises(DataError, match="starts with 'Hello'"):
        human_assistant("Hello\n\nHuman: x")


def test_a_shared_prefix_is_cut_at_a_word(tmp_path: Path) -> None:
    row = {"chosen": "Name a fruit: apricot", "rejected": "Name a fruit: apple"}
    (pair,) = read_preferences(write_lines(tmp_path / "p.jsonl", row))
    assert pair.prompt[0].content == "Name a fruit:"
    assert [m.content for m in pair.responses] == ["apricot", "apple"]


def test_pairs_of_surrogates_are_one_character(tmp_path: Path) -> None:
    row = {"messages": [Q, {"role": "assistant", "content": "fine \U0001f600"}], "ratings": {"a": 1}}
    path = write_lines(tmp_path / "r.jsonl", row)
    assert "\\ud83d\\ude00" in path.read_text(encoding="utf-8")
    assert read_ratings(path)[0].messages[-1].content == "fine \U0001f600"
