"""RMB: both halves of the official folder are read, and a half that is not there is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark_samples import one_row, write_lines
from facetrm.evaluate.benchmarks.load import ItemSet, read_benchmark
from facetrm.evaluate.benchmarks.result import AnswerScore, judge_set

PARTS = [f"{side}, {kind}" for side in ("helpfulness", "harmlessness") for kind in ("pairs", "best of N")]


def official(folder: Path) -> Path:
    """Write one row of each side to both sets, in the tree of the official repository."""
    pair = one_row("rmb")
    several = {
        "conversation_input": pair["conversation_input"],
        "bon_best": pair["chosen"],
        "loser_list": [pair["reject"], pair["reject"]],
    }
    for side in ("Helpfulness", "Harmlessness"):
        write_lines(folder / "Pairwise_set" / side / "chat" / "a.json", [pair | {"pair_uid": side}])
        write_lines(folder / "BoN_set" / side / "chat" / "a.json", [several | {"bon_uid": side}])
    return folder


@pytest.mark.parametrize("named", ["rmb=", ""])
def test_both_halves_of_the_folder_are_read(named: str, tmp_path: Path) -> None:
    found = read_benchmark(f"{named}{official(tmp_path)}")
    assert isinstance(found, ItemSet)
    assert {question.stratum for question in found.questions} == set(PARTS)
    wrong = [[AnswerScore(float(n > 0)) for n in range(len(q.answers))] for q in found.questions]
    half = [
        [AnswerScore(float((n > 0) == q.stratum.endswith("N"))) for n in range(len(q.answers))] for q in found.questions
    ]
    result = judge_set(found, {"wrong": wrong, "half": half}, samples=20)
    assert result.values["total"]["wrong"].value == 0.0
    assert result.values["total"]["half"].value == pytest.approx(0.5), "the pairs are right, best of N is wrong"
    assert result.to_dict()["missing"] == []


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    found = read_benchmark(f"rmb={official(tmp_path) / 'Pairwise_set'}")
    assert isinstance(found, ItemSet)
    answers = [[AnswerScore(0.0) for _ in question.answers] for question in found.questions]
    result = judge_set(found, {"constant": answers}, samples=20)
    assert result.to_dict()["missing"] == [name for name in PARTS if name.endswith("best of N")]
