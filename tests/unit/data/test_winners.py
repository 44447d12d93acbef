"""Which of two answers won: every spelling that says so, and every one that could be read in two ways."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from facetrm.core.errors import DataError
from facetrm.data.read.conversations import read_conversations
from facetrm.data.read.files import read_preference_file, read_records
from facetrm.data.records import Preference
from tiny_runs import write_rows


def compared(winners: Sequence[object], *, names: tuple[str, str] = ("response_a", "response_b"), **more: Any) -> Any:
    """Return rows whose first answer is 'one' and whose second is 'two', one for each winner."""
    column = more.pop("column", "winner")
    sides = dict(zip(names, ("one", "two"), strict=True))
    return [{"question": f"q{n} ?", **sides, column: winner, **more} for n, winner in enumerate(winners)]


def chosen(path: Path) -> list[str]:
    return [pair.responses[0].content for pair in read_preference_file(path).records]


SPELLINGS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "letters": (compared(["a", "b", "A", " B "]), ["one", "two", "one", "two"]),
    "models of the arena": (compared(["model_a", "model_b"]), ["one", "two"]),
    "verdicts of a judge": (compared(["[[A]]", "[[B]]"]), ["one", "two"]),
    "names of columns": (compared(["response_a", "Response B"]), ["one", "two"]),
    "words": (compared(["first", "second"]), ["one", "two"]),
    "counted from 1": (compared([1, 2, 2]), ["one", "two", "two"]),
    "only the second, from 1": (compared([2, 2]), ["two", "two"]),
    "counted from 0": (compared([0, 1]), ["one", "two"]),
    "counted from 1 by the columns": (compared([1, 1], names=("output_1", "output_2")), ["one", "one"]),
    "counted from 0 by the columns": (compared([1, 1], names=("response_0", "response_1")), ["two", "two"]),
    "numbers as text": (compared(["1", "2"]), ["one", "two"]),
    "names of the models": (compared(["gpt", "llama"], model_a="gpt", model_b="llama"), ["one", "two"]),
    "signed": (compared([-3, 1], names=("response1", "response2"), column="overall_preference"), ["one", "two"]),
    "one column for each model": (
        [
            {"prompt": "q ?", "response_a": "one", "response_b": "two", "winner_model_a": n, "winner_model_b": 1 - n}
            for n in (1, 0)
        ],
        ["one", "two"],
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_winner_is_the_chosen_answer(name: str, tmp_path: Path) -> None:
    rows, wanted = SPELLINGS[name]
    assert chosen(write_rows(tmp_path / "pairs.jsonl", rows)) == wanted


@pytest.mark.parametrize("tie", ["tie", "Tie (bothbad)", "tie_bothbad", "draw", "neither", "both"])
def test_ties_are_left_out_and_counted(tie: str, tmp_path: Path) -> None:
    found = read_preference_file(write_rows(tmp_path / "pairs.jsonl", compared(["a", tie, "b", tie])))
    assert [pair.responses[0].content for pair in found.records] == ["one", "two"]
    assert found.left_out == {"ties": 2}
    assert found.rows == 4


def test_rows_without_a_label_are_no_ties(tmp_path: Path) -> None:
    found = read_preference_file(write_rows(tmp_path / "pairs.jsonl", compared(["a", None, "", "b"])))
    assert found.left_out == {"rows without a winner": 2}
    signed = compared([-1, 0, None], column="overall_preference")
    found = read_preference_file(write_rows(tmp_path / "signed.jsonl", signed))
    assert found.left_out == {"ties": 1, "rows without a winner": 1}


UNCLEAR: dict[str, tuple[list[dict[str, Any]], str]] = {
    "only ones": (compared([1, 1]), r"\[1\.0\], which do not say where counting starts"),
    "from 0 or a tie": (compared([0, 1, 2]), "do not say where counting starts"),
    "signs in a column that names a winner": (compared([-1, 1]), "do not say where counting starts"),
    "a scale": (compared([1, 5, 3]), "do not say where counting starts"),
    "0 beside columns counted from 1": (compared([0, 1], names=("answer_1", "answer_2")), "where counting starts"),
    "true and false": (compared([True, False]), "'winner' is True, which names neither answer"),
    "another model": (compared(["a", "gpt-5"]), "'winner' is 'gpt-5', which names neither answer"),
    "both models alike": (compared(["x"], model_a="x", model_b="x"), "names neither answer"),
    "text for a sign": (compared(["-2 or so"], column="overall_preference"), "not a number"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_can_be_read_in_two_ways_is_refused(name: str, tmp_path: Path) -> None:
    rows, problem = UNCLEAR[name]
    with pytest.raises(DataError, match=problem):
        read_preference_file(write_rows(tmp_path / "pairs.jsonl", rows))


def test_a_bad_winner_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", compared(["a", "b", "perhaps", "a"]))
    with pytest.raises(DataError, match=rf"{path}:3: 'winner' is 'perhaps'.*write 'a' for 'response_a'"):
        read_preference_file(path)
    found = read_preference_file(path, on_error="skip")
    assert (len(found.records), found.skipped) == (3, 1)
    (side,) = (json.loads(line) for line in (tmp_path / "pairs.skipped.jsonl").read_text().splitlines())
    assert side["line"] == 3


def test_only_ties_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no preference is left: ties \(2\)"):
        read_preference_file(write_rows(tmp_path / "pairs.jsonl", compared(["tie", "tie"])))


def test_a_strength_beside_the_sign_is_kept(tmp_path: Path) -> None:
    rows = compared([-3, 1, 1], names=("response1", "response2"), column="overall_preference")
    strengths = [pair.strength for pair in read_preference_file(write_rows(tmp_path / "p.jsonl", rows)).records]
    assert strengths == [0.75, 0.5, 0.5]


def test_scoring_reads_both_answers_in_the_order_of_the_columns(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", compared(["b", "tie"]))
    for row in read_conversations(path):
        assert [answer[-1].content for answer in row.answers] == ["one", "two"]
    assert all(isinstance(record, Preference) for record in read_records(path))


def test_a_missing_winner_in_a_table_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("question,response_a,response_b,winner\nq ?,one,4,1\nr ?,one,two,\ns ?,1,two,2\n")
    found = read_preference_file(path)
    assert [pair.responses[0].content for pair in found.records] == ["one", "two"]
    assert [pair.responses[1].content for pair in found.records] == ["4", "1"], "answers are text, also as digits"
    assert found.left_out == {"rows without a winner": 1}
    assert not any(math.isnan(pair.strength or 0.0) for pair in found.records)
