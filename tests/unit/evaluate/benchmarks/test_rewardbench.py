"""RewardBench: the published counts, and ArmoRM's published accuracies give its published totals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark_samples import ARMORM, PRIOR, rewardbench_rows, rewardbench_scores, write_lines
from facetrm.evaluate.benchmarks.figures import CREDIT, mean_over, measure_figures
from facetrm.evaluate.benchmarks.load import read_benchmark
from facetrm.evaluate.benchmarks.result import AnswerScore, judge_set
from facetrm.evaluate.benchmarks.rewardbench import REWARDBENCH, SECTIONS, sections


@pytest.fixture(scope="module")
def armorm(tmp_path_factory: pytest.TempPathFactory):
    """ArmoRM's accuracies as stored scores, with the four older test sets."""
    rows = rewardbench_rows({**REWARDBENCH.counts, **dict.fromkeys(PRIOR, 9000)})
    path = write_lines(tmp_path_factory.mktemp("rewardbench") / "rows.jsonl", rows)
    scores = rewardbench_scores(rows, ARMORM | PRIOR)
    answers = [[AnswerScore(x) for x in row["scores"]] for row in scores]
    return judge_set(read_benchmark(str(path)), {"ArmoRM": answers}, samples=20)


def test_the_counts_are_the_published_ones() -> None:
    assert sum(REWARDBENCH.counts.values()) == 2985
    assert REWARDBENCH.counts["math-prm"] == 447
    assert SECTIONS["Reasoning"]["math-prm"] == 984
    assert SECTIONS["Safety"]["xstest-should-refuse"] == 154
    assert SECTIONS["Safety"]["xstest-should-respond"] == 250


def test_armorms_published_totals(armorm) -> None:
    shown = {name: round(100 * row["ArmoRM"].value, 2) for name, row in armorm.values.items()}
    assert shown["Chat"] == 96.93
    assert shown["Chat Hard"] == 76.75
    assert shown["Safety"] == 90.54
    assert shown["Reasoning"] == 97.35
    assert shown["total"] == 90.39
    assert shown["score_2024"] == 88.60
    assert shown["prior"] == pytest.approx(74.3, abs=0.05)


def test_the_swapped_counts_of_2024_gave_88_97() -> None:
    old = {**SECTIONS, "Safety": {**SECTIONS["Safety"], "xstest-should-refuse": 250, "xstest-should-respond": 154}}
    figures = sections(old, {name: mean_over([name]) for name in ARMORM})
    table = measure_figures(
        {"ArmoRM": {CREDIT: np.array(list(ARMORM.values()))}},
        figures,
        strata=list(ARMORM),
        groups=list(ARMORM),
    )
    values = {name: 100 * row["ArmoRM"].value for name, row in table.items()}
    assert values["Safety"] == pytest.approx(92.20, abs=0.005)
    prior = 100 * sum(PRIOR.values()) / 4
    assert (2 * sum(values.values()) + prior) / 9 == pytest.approx(88.97, abs=0.005)


def test_a_part_of_the_benchmark_has_the_sections_that_are_whole(tmp_path: Path) -> None:
    rows = rewardbench_rows(dict.fromkeys(SECTIONS["Chat"], 2) | {"hep-go": 3})
    found = read_benchmark(str(write_lines(tmp_path / "rows.jsonl", rows)))
    result = judge_set(found, {"s": [[AnswerScore(1.0), AnswerScore(0.0)] for _ in rows]}, samples=20)
    assert {"total", "Chat", "hep-go"} <= result.values.keys()
    assert "Reasoning" not in result.values
