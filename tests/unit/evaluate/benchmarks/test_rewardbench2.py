"""RewardBench 2: its Ties domain re-computed by hand, and the mean of six domains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from benchmark_samples import one_row, write_lines
from facetrm.evaluate.benchmarks.load import read_benchmark
from facetrm.evaluate.benchmarks.result import AnswerScore, judge_set

# scores of the tied prompt (three right, two wrong) and of its twin (one right, two wrong), by number
_TIES = {
    1: ([5.0, 4.5, 4.0], [1.0, 0.0], [5.0], [2.0, 1.0]),
    2: ([5.0, 1.0, 0.5], [0.0, -1.0], [3.0], [1.0, 0.0]),
    3: ([2.0, 1.0, 0.0], [0.5, 0.0], [1.0], [2.0, 0.0]),
    4: ([1.0, 1.0, 1.0], [0.0, 0.0], [1.0], [1.0, 0.0]),
}


def tie_rows(subset: str = "Ties") -> tuple[list[dict[str, Any]], list[list[AnswerScore]]]:
    rows, scores = [], []
    for number, (right, wrong, twin, others) in _TIES.items():
        for kind, good, bad in (("tied", right, wrong), ("ref", twin, others)):
            row = one_row("rewardbench2") | {
                "id": f"{kind}:{number}",
                "subset": subset,
                "prompt": f"{kind} {number}",
                "chosen": [f"right {n}" for n in range(len(good))],
                "rejected": [f"wrong {n}" for n in range(len(bad))],
                "num_correct": len(good),
            }
            rows.append(row)
            scores.append([AnswerScore(x) for x in (*good, *bad)])
    return rows, scores


def by_hand() -> float:
    tied = [min(right) > max(wrong) for right, wrong, _, _ in _TIES.values()]
    reference = [min(twin) > max(others) for _, _, twin, others in _TIES.values()]
    wider, both, tanh = [], [], []
    for right, wrong, twin, others in _TIES.values():
        a, b, c = max(right) - min(right), min(right) - max(wrong), min(twin) - max(others)
        wider.append(b > a)
        both.append(min(b, c) > a)
        ratio = min(b, c) / a if a else math.copysign(math.inf, min(b, c)) if min(b, c) else math.nan
        tanh.append(0.0 if math.isnan(ratio) else math.tanh(ratio - 1.0))
    n = len(_TIES)
    return (
        0.3 * sum(tied) / n
        + 0.3 * sum(reference) / n
        + 0.2 * sum(wider) / n
        + 0.2 * sum(both) / n
        + 0.01 * sum(tanh) / n
    )


@pytest.mark.parametrize("subset", ["Ties", "ties"])
def test_the_ties_domain_by_hand(subset: str, tmp_path: Path) -> None:
    rows, scores = tie_rows(subset)
    found = read_benchmark(str(write_lines(tmp_path / "rows.jsonl", rows)))
    result = judge_set(found, {"s": scores}, samples=20)
    assert result.values["Ties"]["s"].value == pytest.approx(by_hand())
    assert 0.3 < by_hand() < 0.9, "the example decides something"


def test_the_total_is_the_plain_mean_of_the_domains(tmp_path: Path) -> None:
    rows, scores = tie_rows()
    for n, row_scores in enumerate(([3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0])):
        rows.append(one_row("rewardbench2") | {"id": f"f{n}", "prompt": f"p{n}"})
        scores.append([AnswerScore(x) for x in row_scores])
    rows.append(one_row("rewardbench2") | {"id": "m", "prompt": "m", "subset": "Math"})
    scores.append([AnswerScore(x) for x in (1.0, 0.0, 0.0, 0.0)])
    found = read_benchmark(str(write_lines(tmp_path / "rows.jsonl", rows)))
    values = judge_set(found, {"s": scores}, samples=20).values
    assert values["Factuality"]["s"].value == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert values["total"]["s"].value == pytest.approx((0.5 + 1.0 + by_hand()) / 3)
    assert list(values)[:4] == ["total", "Factuality", "Math", "Ties"]
