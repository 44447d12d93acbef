"""Conventions of others: what their rows become, what is left out, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from facetrm.core.errors import DataError
from facetrm.data.read.conversations import read_conversations
from facetrm.data.read.files import read_preference_file, read_rating_file
from own_files import PAIRED, RATED, questions, write_table
from tiny_runs import write_rows


@pytest.mark.parametrize("name", RATED)
def test_every_rated_convention_gives_the_same_answers(name: str, tmp_path: Path) -> None:
    file, rows = RATED[name]
    found = read_rating_file(write_table(tmp_path / file, rows))
    answers = [text for q in questions() for text in (q.better, q.worse)]
    assert [record.messages[-1].content for record in found.records] == answers
    assert all(
        q.question in record.messages[-2].content for q, record in zip(questions(), found.records[::2], strict=True)
    )


@pytest.mark.parametrize("name", PAIRED)
def test_every_preference_convention_gives_the_same_pairs(name: str, tmp_path: Path) -> None:
    file, rows = PAIRED[name]
    found = read_preference_file(write_table(tmp_path / file, rows))
    wanted = [(q.question, q.better, q.worse) for q in questions()]
    left = 1 if name == "winner by letter" else 0
    pairs = [(p.prompt[-1].content, *(r.content for r in p.responses)) for p in found.records]
    assert pairs == wanted[left:]
    assert sum(found.left_out.values()) == left


@pytest.mark.parametrize("name", ["scored pairs", "scored completions"])
def test_files_of_both_kinds_rate_both_answers(name: str, tmp_path: Path) -> None:
    file, rows = PAIRED[name]
    found = read_rating_file(write_table(tmp_path / file, rows))
    rated = {record.messages[-1].content: record.ratings for record in found.records}
    for q in questions():
        for k, text in enumerate((q.better, q.worse)):
            score = {"score": q.helpful[k]}
            both = {"helpfulness": q.helpful[k] + 1, "overall_score": q.helpful[k] * 2.5}
            assert rated[text] in (score, both)


def completion(response: str, **scores: Any) -> dict[str, Any]:
    return {"response": response, "annotations": {key: {"Rating": value} for key, value in scores.items()}}


def test_a_missing_rating_of_a_completion_is_not_zero(tmp_path: Path) -> None:
    said = [completion("x", honesty="N/A", helpfulness="3"), completion("y", honesty=None), completion("z", honesty=2)]
    path = write_rows(tmp_path / "uf.jsonl", [{"instruction": "q ?", "completions": said}])
    found = read_rating_file(path)
    assert [record.ratings for record in found.records] == [{"helpfulness": 3.0}, {"honesty": 2.0}]
    assert found.left_out == {"answers without a rating": 1}
    pairs = read_preference_file(path)
    assert [[r.content for r in pair.responses] for pair in pairs.records] == [["x", "z"]]
    assert pairs.left_out == {"pairs with an answer without a score": 2}


def test_equal_scores_are_no_pair(tmp_path: Path) -> None:
    said = [completion("x", honesty=2), completion("y", honesty=2), completion("z", honesty=5)]
    found = read_preference_file(write_rows(tmp_path / "uf.jsonl", [{"instruction": "q ?", "completions": said}]))
    assert [[r.content for r in pair.responses] for pair in found.records] == [["z", "x"], ["z", "y"]]
    assert found.left_out == {"pairs with equal scores": 1}


BAD: dict[str, tuple[Mapping[str, Any], str]] = {
    "no list": ({"instruction": "q ?", "completions": "x"}, "'completions' is 'x'"),
    "no response": (
        {"instruction": "q ?", "completions": [{"text": "x", "overall_score": 3}]},
        "a completion without a response",
    ),
    "annotations are a number": (
        {"instruction": "q ?", "completions": [{"response": "x", "annotations": 3}]},
        "'annotations' is 3",
    ),
    "a rating is text": (
        {"instruction": "q ?", "completions": [completion("x", honesty="good")]},
        "'annotations.honesty' is 'good', not a number",
    ),
    "no prompt": ({"instruction": None, "completions": [completion("x", honesty=3)]}, "'instruction' is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_in_the_middle_is_named(name: str, tmp_path: Path) -> None:
    row, problem = BAD[name]
    good = {"instruction": "q ?", "completions": [completion("x", honesty=3)]}
    path = write_rows(tmp_path / "uf.jsonl", [good, row, good])
    with pytest.raises(DataError, match=rf"{path}:2: {problem}"):
        read_rating_file(path)
    found = read_rating_file(path, on_error="skip")
    assert (len(found.records), found.skipped) == (2, 1)


def test_two_columns_that_could_hold_the_answer_are_refused(tmp_path: Path) -> None:
    row = {"question": "q ?", "answer": "the true one", "output": "the rated one", "score": 3}
    with pytest.raises(DataError, match="'output' and 'answer' could all hold the rated answer"):
        read_rating_file(write_rows(tmp_path / "r.jsonl", [row]))


def test_numbers_as_text_are_named(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.jsonl", [{"prompt": "q ?", "response": "a", "quality": "4"}])
    with pytest.raises(DataError, match=r"the numbers in \['quality'\] are text; write them unquoted"):
        read_rating_file(path)


def test_an_id_that_is_text_in_some_rows_is_no_rating(tmp_path: Path) -> None:
    rows = [{"prompt": "q ?", "response": "a", "quality": 4, "user_id": one} for one in (7, "x7")]
    found = read_rating_file(write_rows(tmp_path / "r.jsonl", rows))
    assert found.attributes == {"quality"}


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"instruction": "q ?", "input": "more", "output": "a", "score": 3}, ["a"]),
        ({"question": "q ?", "answer": "a"}, ["a"]),
        ({"instruction": "q ?", "completions": [completion("x", honesty=3), completion("y")]}, ["x", "y"]),
        ({"instruction": "q ?", "completions": ["x"]}, ["x"]),
    ],
)
def test_rows_that_train_can_be_scored(row: dict[str, Any], answers: list[str], tmp_path: Path) -> None:
    (found,) = read_conversations(write_rows(tmp_path / "rows.jsonl", [row]))
    assert [answer[-1].content for answer in found.answers] == answers
    assert found.answers[0][0].content.startswith("q ?")
    assert ("more" in found.answers[0][0].content) == ("input" in row)
