"""Rows to score: every convention in, one score per answer out, in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facetrm.core.errors import BackboneError
from facetrm.data.read.conversations import read_conversations
from facetrm.data.read.files import write_records
from facetrm.data.records import Message, Preference
from facetrm.recipes import scoring
from facetrm.recipes.scoring import located, score_rows
from reward_models import QUESTIONS, model
from tiny_runs import A, B, U, write_rows


def asked_of(path: Path) -> list[tuple[str, int, str | None, str | None]]:
    return [(row.id, len(row.answers), row.task, row.source) for row in read_conversations(path)]


def test_rows_of_messages(tmp_path: Path) -> None:
    rows = [{"messages": [U, A]}, {"id": 7, "messages": [U, B], "task": "code", "source": "x", "ratings": "ignored"}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    assert asked_of(path) == [("1", 1, None, None), ("7", 1, "code", "x")]
    assert [row.place for row in read_conversations(path)] == [f"{path}:1", f"{path}:2"]
    assert not any(row.is_pair for row in read_conversations(path))


PAIRS: dict[str, dict[str, Any]] = {
    "explicit": {"prompt": [U], "chosen": [A], "rejected": [B]},
    "implicit": {"chosen": [U, A], "rejected": [U, B]},
    "standard": {"prompt": U["content"], "chosen": A["content"], "rejected": B["content"]},
    "ours": {"prompt": [U], "responses": [A, B]},
}


@pytest.mark.parametrize("name", PAIRS)
def test_preferences_in_any_convention(name: str, tmp_path: Path) -> None:
    (row,) = read_conversations(write_rows(tmp_path / "rows.jsonl", [{**PAIRS[name], "id": "a", "task": "code"}]))
    assert (row.id, row.task, row.is_pair) == ("a", "code", True)
    assert [[m.content for m in answer] for answer in row.answers] == [
        [U["content"], A["content"]],
        [U["content"], B["content"]],
    ]


def test_parquet_is_read_too(tmp_path: Path) -> None:
    pair = Preference(prompt=(Message(**U),), responses=(Message(**A), Message(**B)), id="p")
    write_records(tmp_path / "rows.parquet", [pair, pair])
    assert [row.answers for row in read_conversations(tmp_path / "rows.parquet")] == [(pair.chosen, pair.rejected)] * 2


def test_every_answer_is_scored_in_order_whatever_the_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": f"r{n}", "messages": [m.model_dump() for m in q]} for n, q in enumerate(QUESTIONS)]
    asked = read_conversations(write_rows(tmp_path / "rows.jsonl", rows))
    whole = list(score_rows(model(), asked, quiet=True))
    monkeypatch.setattr(scoring, "_CHUNK", 5)
    chunked = list(score_rows(model(), asked, quiet=True))
    own = model().score(QUESTIONS)
    assert [row["id"] for row in chunked] == [f"r{n}" for n in range(len(QUESTIONS))]
    for one, other, score in zip(whole, chunked, own, strict=True):
        assert one == other == {"id": one["id"], "answer": 0, **score.to_dict()}


def test_errors_are_placed_at_the_row_of_the_file(tmp_path: Path) -> None:
    rows = read_conversations(
        write_rows(tmp_path / "rows.jsonl", [{"messages": [U, A]}, {"id": "b", "messages": [U, B]}])
    )
    error = BackboneError("too long", place="conversation 1", fix="cut it")
    assert located(error, rows) is error, "an error that is about no row stays as it is"
    error.row = 1
    assert str(located(error, rows)) == f"{tmp_path / 'rows.jsonl'}:2 (id 'b'): too long; cut it"
