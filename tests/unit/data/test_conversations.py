"""One reader for every verb: what training reads, scoring, explaining and labelling read as the same conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from facetrm.core.errors import DataError
from facetrm.data.read.conversations import conversations_in_memory, read_conversations, stream_conversations
from facetrm.data.read.files import read_preferences, read_ratings
from facetrm.label.pairs import read_pairs

U = {"role": "user", "content": "how do i boil an egg ?"}
A = {"role": "assistant", "content": "put it in hot water ."}
B = {"role": "assistant", "content": "ask a chicken ."}

PREFERENCES: dict[str, dict[str, Any]] = {
    "ours": {"prompt": [U], "responses": [A, B]},
    "pack": {
        "id": "x",
        "source": "s",
        "split": "train",
        "category": "qa",
        "prompt": [U],
        "chosen": [A],
        "rejected": [B],
    },
    "explicit lists": {"prompt": [U], "chosen": [A], "rejected": [B]},
    "explicit text": {"prompt": U["content"], "chosen": A["content"], "rejected": B["content"]},
    "implicit lists": {"chosen": [U, A], "rejected": [U, B]},
    "implicit text": {"chosen": f"{U['content']} {A['content']}", "rejected": f"{U['content']} {B['content']}"},
}
RATINGS: dict[str, dict[str, Any]] = {
    "ours": {"messages": [U, A], "ratings": {"a": 1}},
    "attributes": {"messages": [U, A], "a": 1},
    "response": {"prompt": U["content"], "response": A["content"], "a": 1},
    "completion": {"prompt": [U], "completion": [A], "a": 1},
}


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(conversations: Any) -> list[list[tuple[str, str]]]:
    return [[(m.role, m.content) for m in turns] for turns in conversations]


@pytest.mark.parametrize("name", PREFERENCES)
def test_preferences_are_the_same_conversations_in_every_verb(name: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", PREFERENCES[name])
    (trained,) = read_preferences(path)
    (scored,) = read_conversations(path)
    (labelled,) = read_pairs(path)
    assert texts(scored.answers) == texts([trained.chosen, trained.rejected])
    assert texts([(*labelled.prompt, reply) for reply in labelled.replies]) == texts(scored.answers)
    assert scored.place == f"{path}:1"


@pytest.mark.parametrize("name", RATINGS)
def test_ratings_are_the_same_conversations_in_every_verb(name: str, tmp_path: Path) -> None:
    row = RATINGS[name]
    other = {
        key: [U, B] if key == "messages" else B["content"] if value == A["content"] else value
        for key, value in row.items()
    }
    other |= {"completion": [B]} if "completion" in row else {}
    path = write_lines(tmp_path / "r.jsonl", row, other)
    scored = read_conversations(path)
    assert texts(answer for row in scored for answer in row.answers) == texts(r.messages for r in read_ratings(path))
    (labelled,) = read_pairs(path)
    assert [reply.content for reply in labelled.replies] == [A["content"], B["content"]]


def test_rows_of_mixed_conventions_are_read_each_by_its_own_columns(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", RATINGS["ours"], PREFERENCES["explicit lists"], RATINGS["response"])
    assert [len(row.answers) for row in read_conversations(path)] == [1, 2, 1]


def test_labels_do_not_matter_where_nothing_is_trained(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "r.jsonl",
        {**RATINGS["ours"], "ratings": {"a": "high"}},
        {**PREFERENCES["explicit text"], "margin": -1},
    )
    assert len(read_conversations(path)) == 2


def test_every_place_is_the_line_of_the_file_and_the_default_id(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(
        "\n" + json.dumps(RATINGS["ours"]) + "\n\r\n" + json.dumps({"prompt": "x"}) + "\n"
    )
    rows = stream_conversations(tmp_path / "x.jsonl")
    first = next(rows)
    assert (first.id, first.line, first.place) == ("2", 2, f"{tmp_path / 'x.jsonl'}:2")
    with pytest.raises(DataError, match=r"x\.jsonl:4: no conversation in the columns \['prompt'\]; beside prompt give"):
        next(rows)


def test_rows_in_memory() -> None:
    pair = (U["content"], A["content"])
    wanted = [[("user", U["content"]), ("assistant", A["content"])]]
    for rows in ([pair], [[U, A]], [U, A], [RATINGS["response"]], RATINGS["ours"], [([U], A["content"])], iter([pair])):
        (row,) = conversations_in_memory(rows)
        assert texts(row.answers) == wanted
    (row,) = conversations_in_memory([PREFERENCES["implicit lists"]])
    assert row.is_pair
    with pytest.raises(DataError, match="rows:2: 'x' is a str, not an object; write one JSON object"):
        conversations_in_memory([pair, "x"])
    with pytest.raises(DataError, match="no row"):
        conversations_in_memory([])


def test_tuples_and_conversations_are_lines_too(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [U["content"], A["content"]], [U, A])
    first, second = read_conversations(path)
    assert first.answers == second.answers
