"""The audit of rows: each finding is counted on rows that hold it, and absent on rows that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from facetrm.data.audit import audit_pairs, audit_ratings, quoted_columns, shared_prompts
from facetrm.data.objectives import Objective
from facetrm.data.read.files import read_rating_file
from facetrm.data.records import Preference, Rating
from tiny_runs import write_rows


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def rating(n: int, answer: str = "a", **ratings: float) -> Rating:
    return Rating.model_validate({"messages": [user(f"q{n} ?"), said(answer)], "ratings": ratings})


def pair(n: int, better: str, worse: str, **more: Any) -> Preference:
    return Preference.model_validate({"prompt": [user(f"q{n} ?")], "responses": [said(better), said(worse)], **more})


def declared(*names: str) -> list[Objective]:
    return [Objective(name=name, low=0, high=10) for name in names]


def test_clean_ratings_have_no_finding() -> None:
    rows = [rating(n, x=n % 3, y=(n * 2) % 5) for n in range(9)]
    found = audit_ratings(rows, declared("x", "y"))
    assert (found.rows, found.prompts, found.copies) == (9, 9, 0)
    assert found.rated == {"x": 9, "y": 9}
    assert found.constant == {}
    assert found.alike == []
    assert found.unnamed == {}


def test_constant_and_equal_objectives_are_found() -> None:
    rows = [rating(n, x=n, same=n, flipped=10 - n, scaled=n / 2, flat=4, other=(n * n) % 7) for n in range(8)]
    rows += [rating(9, x=3)]
    found = audit_ratings(rows, declared("x", "same", "flipped", "scaled", "flat", "other"))
    assert found.rated == {"x": 9, "same": 8, "flipped": 8, "scaled": 8, "flat": 8, "other": 8}
    assert found.constant == {"flat": 4.0}
    assert ("x", "same", "identical", 8) in found.alike
    assert ("x", "flipped", "r = -1", 8) in found.alike
    assert ("x", "scaled", "r = 1", 8) in found.alike
    assert not any("other" in (one, two) or "flat" in (one, two) for one, two, _, _ in found.alike)


def test_two_shared_rows_prove_nothing() -> None:
    rows = [rating(0, x=1, y=2), rating(1, x=2, y=4), *(rating(n, x=n) for n in range(2, 6))]
    assert audit_ratings(rows, declared("x", "y")).alike == []


def test_copies_need_the_same_labels() -> None:
    rows = [rating(0, x=1), rating(0, x=1), rating(0, x=2), rating(0, answer="b", x=1)]
    found = audit_ratings(rows, declared("x"))
    assert (found.copies, found.prompts) == (1, 1)


def test_undeclared_objectives_are_counted() -> None:
    assert audit_ratings([rating(0, x=1, z=2), rating(1, z=3)], declared("x")).unnamed == {"z": 2}


def test_clean_pairs_have_no_finding() -> None:
    found = audit_pairs([pair(0, "long one", "b"), pair(1, "c", "long one"), pair(2, "e", "f")])
    assert (found.pairs, found.prompts, found.longer, found.shorter) == (3, 3, 1, 1)
    assert (found.copies, found.equal, found.contrary, found.against_scores, found.other_aspects) == (0, 0, 0, 0, 0)


def test_faults_of_pairs_are_counted() -> None:
    scores = {"score_chosen": 1, "score_rejected": 4.5}
    rows = [
        pair(0, "a", "b"),
        pair(0, "a", "b"),
        pair(0, "b", "a"),
        pair(1, "same", "same"),
        pair(2, "a", "b", meta=scores),
        pair(3, "a", "b", meta={"score_chosen": 4, "score_rejected": 1}),
        pair(4, "a", "b", aspect="chat/tone"),
    ]
    found = audit_pairs(rows)
    assert (found.pairs, found.prompts) == (6, 4)
    assert (found.copies, found.equal, found.contrary, found.against_scores, found.other_aspects) == (1, 1, 1, 1, 1)


def test_a_ranking_counts_as_all_its_pairs() -> None:
    ranking = Preference.model_validate({"prompt": [user("q ?")], "responses": [said("abc"), said("ab"), said("a")]})
    found = audit_pairs([ranking])
    assert (found.pairs, found.prompts, found.longer) == (3, 1, 3)


def test_shared_prompts_ignore_case_and_space() -> None:
    assert shared_prompts([rating(0), rating(1)], [pair(1, "a", "b"), pair(2, "a", "b")]) == 1
    asked = Preference.model_validate({"prompt": [user(" Q0  ?")], "responses": [said("a"), said("b")]})
    assert shared_prompts([rating(0)], [asked]) == 1


def test_columns_of_numbers_as_text_are_named(tmp_path: Path) -> None:
    rows = [{"prompt": "q ?", "response": "a", "x": n, "quoted": "4", "model": "m3", "mixed": "3 or 4"} for n in (1, 2)]
    assert quoted_columns(read_rating_file(write_rows(tmp_path / "r.jsonl", rows))) == ["quoted"]
