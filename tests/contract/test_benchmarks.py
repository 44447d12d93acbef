"""Every benchmark: an oracle is right, luck is luck, a constant scorer earns what the rule for ties says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark_samples import ROWS, one_row, write_lines
from facetrm.evaluate.benchmarks.benchmark import BENCHMARKS
from facetrm.evaluate.benchmarks.credit import padded
from facetrm.evaluate.benchmarks.figures import CREDIT
from facetrm.evaluate.benchmarks.load import RECOGNISED, ItemSet, read_benchmark
from facetrm.evaluate.benchmarks.result import AnswerScore, baseline_columns, judge_set

# What a constant scorer earns by the rule for ties, and what random scores earn.
CONSTANT = {
    "rewardbench": (0.0, 0.5),
    "rewardbench2": (0.25, 0.25),
    "rm-bench": (0.0, 0.5),
    "judgebench": (0.5, 0.5),
    "llmbar": (0.5, 0.5),
    "rmb": (0.0, 0.5),
    "ppe": (0.5, 0.5),
}
NAMES = [benchmark.name for benchmark in RECOGNISED]


def many(name: str, folder: Path, count: int = 40) -> ItemSet:
    rows = []
    for n in range(count):
        row = one_row(name)
        for key in ("id", "pair_id", "pair_uid", "question_id"):
            if key in row:
                row[key] = f"{row[key]}-{n}"
        for key in ("prompt", "question", "input"):
            if key in row:
                row[key] = f"{row[key]} ({n})"
        rows.append(row)
    found = read_benchmark(str(write_lines(folder / name / "data.jsonl", rows)))
    assert isinstance(found, ItemSet)
    return found


def scored(found: ItemSet, score) -> list[list[AnswerScore]]:
    return [[AnswerScore(score(q, n)) for n in range(len(q.answers))] for q in found.questions]


def test_all_benchmarks_have_a_sample() -> None:
    assert set(NAMES) == set(ROWS) == set(CONSTANT) == set(BENCHMARKS) - {"preferences"}


@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_is_right_and_its_opposite_is_wrong(name: str, tmp_path: Path) -> None:
    found = many(name, tmp_path)
    assert found.benchmark.name == name, "recognised by its fields"
    systems = {
        "oracle": scored(found, lambda q, n: float(n < q.right)),
        "opposite": scored(found, lambda q, n: float(n >= q.right)),
    }
    result = judge_set(found, systems, samples=50)
    for figure, row in result.values.items():
        assert row["oracle"].value == pytest.approx(1.0), figure
        assert row["opposite"].value == pytest.approx(0.0), figure
    assert {row["verdict"] for row in result.rows("oracle")} == {"right"}
    assert {row["verdict"] for row in result.rows("opposite")} == {"wrong"}


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_scorer_earns_what_the_rule_says_and_chance_is_chance(name: str, tmp_path: Path) -> None:
    found = many(name, tmp_path)
    constant, chance = CONSTANT[name]
    result = judge_set(found, {"constant": scored(found, lambda q, n: 0.0)}, samples=50)
    assert result.values["total"]["constant"].value == pytest.approx(constant)
    system = result.systems["constant"]
    assert system.ties.sum() == system.pairs.sum() > 0
    luck = baseline_columns(found.benchmark, found.questions, seed=0)["chance"][CREDIT]
    assert np.nanmean(luck) == pytest.approx(chance, abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_row_stays_in_the_denominator(name: str, tmp_path: Path) -> None:
    found = many(name, tmp_path, count=4)
    answers = scored(found, lambda q, n: float(n < q.right))
    answers[0][0] = AnswerScore(None, problem="too long")
    result = judge_set(found, {"s": answers}, samples=50)
    assert result.values["total"]["s"].value == pytest.approx(0.75)
    assert result.rows("s")[0]["verdict"] == "failed"
    assert result.rows("s")[0]["problem"] == "too long"
    assert result.to_dict()["systems"]["s"]["failed"] == 1


@pytest.mark.parametrize("name", NAMES)
def test_credit_does_not_depend_on_scale_or_shift(name: str, tmp_path: Path) -> None:
    found = many(name, tmp_path, count=6)
    rng = np.random.default_rng(0)
    scores = [[float(x) for x in rng.normal(size=len(q.answers))] for q in found.questions]
    columns = found.benchmark.credit(found.questions, padded(scores))
    moved = found.benchmark.credit(found.questions, padded([[3.0 * x - 7.0 for x in row] for row in scores]))
    for key in columns:
        assert columns[key] == pytest.approx(moved[key], nan_ok=True)
