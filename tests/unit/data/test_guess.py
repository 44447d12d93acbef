"""Guessed objectives: scales, kinds and directions from observed ratings, and columns that are no ratings."""

from __future__ import annotations

from pathlib import Path

import pytest

from facetrm.data.guess import GuessedObjective, guess_direction, guess_objectives, objectives_text
from facetrm.data.objectives import label_matrix
from facetrm.data.pack import read_objectives
from facetrm.data.read.files import read_rating_file
from tiny_runs import write_rows


def guessed(folder: Path, **columns: list[object]) -> tuple[dict[str, GuessedObjective], list[str]]:
    """Return the guesses for columns of equal length, and the columns that were not taken."""
    count = len(next(iter(columns.values())))
    rows = [
        {"prompt": f"q{n} ?", "response": "a", **{name: values[n] for name, values in columns.items()}}
        for n in range(count)
    ]
    found, others = guess_objectives([read_rating_file(write_rows(folder / "r.jsonl", rows))])
    return {guess.objective.name: guess for guess in found}, others


SCALES: dict[str, tuple[list[object], tuple[str, float, float]]] = {
    "from 0 to 4": ([0, 4, 2], ("integer", 0, 4)),
    "from 1 to 5": ([1, 5, 3], ("integer", 1, 5)),
    "the 5 seen, the 0 too": ([0, 5], ("integer", 0, 5)),
    "ten levels": ([1, 9], ("integer", 1, 10)),
    "ten levels and 0": ([0, 9], ("integer", 0, 10)),
    "percent": ([0, 63], ("integer", 0, 100)),
    "signed": ([-3, 2], ("integer", -3, 3)),
    "truth values": ([True, False], ("boolean", 0, 1)),
    "0 and 1": ([0, 1], ("boolean", 0, 1)),
    "shares": ([0.25, 0.5], ("continuous", 0, 1)),
    "half points": ([1.5, 4.0], ("continuous", 0, 4)),
    "half points up to 5": ([1.5, 4.5], ("continuous", 1, 5)),
    "on no common scale": ([-40, 900], ("continuous", -40, 900)),
    "constant": ([3, 3], ("integer", 0, 4)),
    "constant, on no scale": ([-7.5, -7.5], ("continuous", -7.5, 0)),
    "missing in between": ([None, 4, float("nan"), 0], ("integer", 0, 4)),
}


@pytest.mark.parametrize("name", SCALES)
def test_the_narrowest_common_scale_holds_every_rating(name: str, tmp_path: Path) -> None:
    values, wanted = SCALES[name]
    found, _ = guessed(tmp_path, quality=values)
    one = found["quality"].objective
    assert (one.kind, one.low, one.high) == wanted


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("helpfulness", "higher"),
        ("toxicity", "lower"),
        ("harmlessness", "higher"),
        ("harmful", "lower"),
        ("non_toxic", "higher"),
        ("unbiased", "higher"),
        ("rudeness", "lower"),
        ("prudence", "higher"),
        ("hallucination", "lower"),
        ("verbosity", "unknown"),
        ("complexity", "unknown"),
    ],
)
def test_the_direction_follows_the_name(name: str, direction: str) -> None:
    assert guess_direction(name) == direction


def test_ids_counts_and_lengths_are_not_taken_and_are_named(tmp_path: Path) -> None:
    others = ("question_id", "turn", "num_tokens", "timestamp", "length", "index")
    found, left = guessed(tmp_path, quality=[1, 2], evidence=[3, 4], **{name: [1, 2] for name in others})
    assert sorted(found) == ["evidence", "quality"]
    assert left == sorted(others)


def test_objectives_that_rows_name_themselves_are_all_taken(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q ?"}, {"role": "assistant", "content": "a"}]
    path = write_rows(tmp_path / "r.jsonl", [{"messages": turns, "ratings": {"turn": 3, "rank": 1}}])
    found, left = guess_objectives([read_rating_file(path)])
    assert [guess.objective.name for guess in found] == ["turn", "rank"]
    assert left == []


def test_the_drafted_file_reads_back_whatever_the_names_are(tmp_path: Path) -> None:
    names = {"a: b": [0, 4], "yes": [1, 5], "#no": [0.5, 0.25], "zwei\nZeilen": [True, False], "n'est": [-2, 900.5]}
    found, _ = guessed(tmp_path, **names)
    text = objectives_text(list(found.values()), files=["a\nb.jsonl"])
    (tmp_path / "objectives.yaml").write_text(text, encoding="utf-8")
    read = read_objectives(tmp_path / "objectives.yaml")
    assert [one.name for one in read] == list(names)
    assert read == [guess.objective for guess in found.values()]
    assert "# a guess: 2 ratings from 0 to 4, 2 distinct" in text
    ratings = read_rating_file(tmp_path / "r.jsonl", objectives=read).records
    assert label_matrix(ratings, read).shape == (2, 5)
