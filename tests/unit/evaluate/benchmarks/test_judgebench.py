"""JudgeBench: a file that is not there is named, and so is one that is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark_samples import one_row, write_lines
from facetrm.evaluate.benchmarks.benchmark import missing_text
from facetrm.evaluate.benchmarks.load import ItemSet, read_benchmark
from facetrm.evaluate.benchmarks.result import AnswerScore, judge_set

GPT, CLAUDE = "gpt-4o-2024-05-13", "claude-3-5-sonnet-20240620"


def judged(folder: Path, models: list[str]) -> dict[str, Any]:
    for model in models:
        row = one_row("judgebench") | {"response_model": model}
        write_lines(folder / "data" / f"dataset=judgebench,response_model={model}.jsonl", [row])
    found = read_benchmark(f"judgebench={folder / 'data'}")
    assert isinstance(found, ItemSet)
    answers = [[AnswerScore(0.0) for _ in question.answers] for question in found.questions]
    return judge_set(found, {"constant": answers}, samples=20).to_dict()


@pytest.mark.parametrize(
    ("models", "missing"), [([GPT], [CLAUDE]), ([CLAUDE], [GPT]), ([GPT, CLAUDE], [])], ids=["gpt", "claude", "both"]
)
def test_a_missing_file_is_named(models: list[str], missing: list[str], tmp_path: Path) -> None:
    result = judged(tmp_path, models)
    assert result["missing"] == missing
    assert result["published_counts"] == {GPT: 350, CLAUDE: 270}
    assert all(name in missing_text(result["missing"]) for name in missing)
