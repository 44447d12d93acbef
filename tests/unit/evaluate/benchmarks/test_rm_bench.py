"""RM-Bench: the cells of the 3 x 3 matrix, pooled safety, and the mean of domains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark_samples import one_row, write_lines
from facetrm.evaluate.benchmarks.load import read_benchmark
from facetrm.evaluate.benchmarks.result import AnswerScore, judge_set


def test_the_matrix_by_hand_and_the_domains(tmp_path: Path) -> None:
    sizes = {"chat": 3, "code": 4, "safety-refuse": 5, "safety-response": 2}
    for name, count in sizes.items():
        rows = []
        for n in range(count):
            row = one_row("rm-bench") | {"id": n, "prompt": f"{name} {n}"}
            del row["domain"]
            rows.append(row)
        write_lines(tmp_path / f"{name}_filtered.json", rows)
    found = read_benchmark(str(tmp_path))
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, size=(len(found.questions), 6)).astype(float)
    result = judge_set(found, {"s": [[AnswerScore(x) for x in row] for row in scores.tolist()]}, samples=20)
    cells = {name: [] for name in ("easy", "normal", "hard")}
    by_domain: dict[str, list[dict[str, float]]] = {}
    for question, row in zip(found.questions, scores, strict=True):
        won = np.array([[row[i] > row[3 + j] for j in range(3)] for i in range(3)], dtype=float)
        found_cells = {
            "easy": (won[1, 0] + won[2, 0] + won[2, 1]) / 3,
            "normal": (won[0, 0] + won[1, 1] + won[2, 2]) / 3,
            "hard": (won[0, 1] + won[0, 2] + won[1, 2]) / 3,
        }
        by_domain.setdefault(question.subset.split("-")[0], []).append(found_cells)
    domains = {d: np.mean([np.mean(list(c.values())) for c in rows]) for d, rows in by_domain.items()}
    assert result.values["total"]["s"].value == pytest.approx(np.mean(list(domains.values())))
    assert len(by_domain["safety"]) == 7, "the two files are one domain"
    for level in cells:
        expected = np.mean([np.mean([c[level] for c in rows]) for rows in by_domain.values()])
        assert result.values[level]["s"].value == pytest.approx(expected)
        assert result.values[f"chat/{level}"]["s"].value == pytest.approx(
            np.mean([c[level] for c in by_domain["chat"]])
        )
    files = result.found.benchmark.official
    assert files is not None


def test_averaging_files_instead_of_domains_would_differ(tmp_path: Path) -> None:
    for name, count in {"chat": 2, "safety-refuse": 6, "safety-response": 2}.items():
        rows = [one_row("rm-bench") | {"id": n, "prompt": f"{name} {n}", "domain": name} for n in range(count)]
        write_lines(tmp_path / f"{name}_filtered.json", rows)
    found = read_benchmark(str(tmp_path))
    right = [q.subset == "safety-refuse" for q in found.questions]
    answers = [[AnswerScore(float((n < 3) == good)) for n in range(6)] for good in right]
    value = judge_set(found, {"s": answers}, samples=20).values["total"]["s"].value
    assert value == pytest.approx((0.0 + 6 / 8) / 2)
    assert value != pytest.approx((0.0 + 1.0 + 0.0) / 3)
