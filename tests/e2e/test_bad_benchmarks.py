"""Malformed benchmark files on the real command line: code 2, one message with file, row, field and fix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmark_samples import one_row, write_lines
from command_line import assert_refused, command

# The benchmark, what is changed in its row (None removes the field), and what the message says.
ROWS: dict[str, tuple[str, dict[str, Any], Sequence[str]]] = {
    "rewardbench without an id": ("rewardbench", {"id": None}, ["'id' is missing"]),
    "rewardbench with a list as subset": ("rewardbench", {"subset": ["a"]}, ["'subset' is ['a']", "write text"]),
    "rewardbench with a blank answer": ("rewardbench", {"chosen": " "}, ["'chosen' is ' '", "not blank"]),
    "rewardbench with a number as answer": ("rewardbench", {"rejected": 4}, ["'rejected' is 4", "write text"]),
    "rewardbench 2 with another count": ("rewardbench2", {"num_correct": 2}, ["'num_correct' is 2", "make them agree"]),
    "rewardbench 2 with a broken count": ("rewardbench2", {"num_correct": "x"}, ["'num_correct' is 'x'", "whole"]),
    "rewardbench 2 with no wrong answer": ("rewardbench2", {"rejected": []}, ["'rejected' holds 0 answers", "least 1"]),
    "rewardbench 2 with a tie's id": ("rewardbench2", {"subset": "Ties"}, ["'id' is 'f-1-second'", "tied:NUMBER"]),
    "rm-bench with two styles": ("rm-bench", {"chosen": ["a", "b"]}, ["'chosen' holds 2 answers", "three"]),
    "rm-bench with a null style": ("rm-bench", {"rejected": ["a", None, "c"]}, ["'rejected.1' is None", "text"]),
    "rm-bench of another domain": ("rm-bench", {"domain": "poetry"}, ["'domain' is 'poetry'", "chat, math"]),
    "rm-bench without a prompt": ("rm-bench", {"prompt": None}, ["'prompt' is None", "text of the prompt"]),
    "judgebench with another label": ("judgebench", {"label": "A=B"}, ["'label' is 'A=B'", "A>B or B>A"]),
    "judgebench of another source": ("judgebench", {"source": "quiz"}, ["'source' is 'quiz'", "mmlu-pro"]),
    "judgebench without an answer": ("judgebench", {"response_B": None}, ["'response_B' is None"]),
    "llmbar with label 3": ("llmbar", {"label": 3}, ["'label' is 3", "1 or 2"]),
    "llmbar with a boolean label": ("llmbar", {"label": True}, ["'label' is True"]),
    "rmb with a text as answer": ("rmb", {"chosen": "yes"}, ["'chosen' is 'yes'", "llm_name"]),
    "rmb that ends with the assistant": (
        "rmb",
        {"conversation_input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        ["ends with a turn of 'assistant'", "user turn"],
    ),
    "rmb with a tool's turn": (
        "rmb",
        {"conversation_input": [{"role": "tool", "content": "a"}]},
        ["'conversation_input.0.role' is 'tool'"],
    ),
    "ppe with a score per word": ("ppe", {"scores": ["good", "bad"]}, ["'scores' is ['good', 'bad']"]),
    "ppe with more scores than answers": ("ppe", {"scores": [1, 0, 1]}, ["'response_3' is None"]),
    "ppe with one answer": ("ppe", {"scores": [1]}, ["'scores' holds 1 scores", "two"]),
}


def good_and_bad(name: str, change: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [one_row(name), one_row(name)]
    for key in ("id", "pair_id", "pair_uid", "question_id"):
        if key in rows[1]:
            rows[1][key] = f"{rows[1][key]}-second"
    for key, value in change.items():
        if value is None:
            rows[1].pop(key)
        else:
            rows[1][key] = value
    return rows


def place(name: str, folder: Path) -> Path:
    return folder / ("Natural/dataset.jsonl" if name == "llmbar" else "data.jsonl")


@pytest.mark.parametrize("case", ROWS)
def test_a_malformed_row(case: str, tmp_path: Path) -> None:
    name, change, fragments = ROWS[case]
    path = write_lines(place(name, tmp_path), good_and_bad(name, change))
    said = command("eval", "length", "--on", f"{name}={path}", "--out", tmp_path / "out")
    assert_refused(said, f"{path}:2", *fragments)
    assert not (tmp_path / "out").exists(), "nothing is written before the files are read"


@pytest.mark.parametrize("name", sorted({name for name, _, _ in ROWS.values()}))
def test_the_good_rows_are_good(name: str, tmp_path: Path) -> None:
    path = write_lines(place(name, tmp_path), good_and_bad(name, {}))
    said = command("eval", "length", "--on", path, "--out", tmp_path / "out", "--samples", 20)
    assert said.code == 0, said.err


def test_files_that_hold_no_benchmark(tmp_path: Path) -> None:
    rows = [one_row("rewardbench"), one_row("rewardbench")]
    twice = write_lines(tmp_path / "twice.jsonl", rows)
    out = tmp_path / "out"
    assert_refused(command("eval", "length", "--on", twice, "--out", out), f"{twice}:2", "also stands at", "duplicate")
    torn = write_lines(tmp_path / "torn.jsonl", [one_row("llmbar"), '{"input": '])
    assert_refused(command("eval", "length", "--on", f"llmbar={torn}", "--out", out), f"{torn}:2", "not JSON")
    cut = write_lines(tmp_path / "cut.jsonl", ['{"input": '])
    assert_refused(command("eval", "length", "--on", cut, "--out", out), f"{cut}:1", "not JSON")
    (tmp_path / "cut.json").write_text('[{"id": 1,')
    assert_refused(command("eval", "length", "--on", tmp_path / "cut.json", "--out", out), "cut.json:1", "not JSON")
    empty = write_lines(tmp_path / "empty.jsonl", [])
    assert_refused(command("eval", "length", "--on", empty, "--out", out), str(empty))
    (tmp_path / "folder").mkdir()
    assert_refused(command("eval", "length", "--on", tmp_path / "folder", "--out", out), "no benchmark file")
    assert_refused(command("eval", "length", "--on", "rm-bnch", "--out", out), "did you mean 'rm-bench'?")
    assert_refused(command("eval", "length", "--on", "no/such.jsonl", "--out", out), "check the path")
    assert_refused(command("eval", "length", "--out", out), "--on")
    assert_refused(command("eval", "no-such-model", "--on", "desk", "--pairs", 2, "--out", out), "no such model folder")
    assert_refused(command("eval", "lenght", "--on", "desk", "--pairs", 2, "--out", out), "did you mean 'length'?")
    missing = command("eval", tmp_path / "none.jsonl", "--on", "desk", "--pairs", 2, "--out", out)
    assert_refused(missing, "none.jsonl", "no such file of scores")
    audit = command("eval", "length", "--on", "audit", "--data", twice, "--fail-under", "total=1", "--out", out)
    assert_refused(audit, "no figure 'total'", "--thresholds")
    assert_refused(command("eval", "judge:gpt", "--on", "desk", "--pairs", 2, "--out", out), "judge:MODEL@BASE_URL")


# Options that are wrong on a good file, and what the message says.
OPTIONS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "a bound that is no number": (["--fail-under", "total=high"], ["'total=high' is no bound"]),
    "a bound of nan": (["--fail-under", "total=nan"], ["'total=nan' is no bound"]),
    "a bound on no figure": (["--fail-under", "hard=0.4"], ["no figure 'hard'"]),
    "an earlier result that is missing": (["--against", "no/such"], ["--against no/such", "no such folder"]),
    "a tolerance of nothing": (["--tolerance", "0.1"], ["--tolerance", "add --against"]),
    "data without an audit": (["--data", "desk"], ["--data", "add --on audit"]),
    "thresholds without an audit": (["--thresholds", "t.yaml"], ["--thresholds", "add --on audit"]),
    "an audit without data": (["--on", "audit"], ["no pairs to audit on", "--data FILE"]),
    "a judge's settings without a judge": (["--judge-set", "temperature=1"], ["--judge-set", "no judge is asked"]),
    "a judge's setting without a value": (["--judge-set", "temperature"], ["--judge-set", "temperature=0"]),
    "a judge's mode": (["--judge-mode", "x"], ["'pairwise', 'rating', 'ranking'"]),
    "a benchmark without a path": (["--on", "llmbar="], ["no path behind 'llmbar='"]),
    "a misspelt benchmark with a path": (["--on", "lmbar=x"], ["no benchmark 'lmbar'", "did you mean 'llmbar'?"]),
    "no question": (["--limit", "0"], ["--limit"]),
    "too few samples": (["--samples", "1"], ["--samples"]),
    "a negative seed": (["--seed", "-1"], ["--seed"]),
    "a negative tolerance": (["--tolerance", "-1"], ["--tolerance"]),
    "another mode": (["--mode", "slow"], ["'fast', 'exact'"]),
    "another truncation": (["--truncation", "drop"], ["'error', 'drop_oldest'"]),
    "no time": (["--timeout", "0"], ["--timeout"]),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_wrong_option_is_refused_before_anything_is_written(case: str, tmp_path: Path) -> None:
    given, fragments = OPTIONS[case]
    path = write_lines(place("llmbar", tmp_path), good_and_bad("llmbar", {}))
    assert_refused(command("eval", "length", "--on", path, "--out", tmp_path / "out", *given), *fragments)
    assert not (tmp_path / "out").exists()


def test_a_wrong_comparison_or_report_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path, old, new = write_lines(place("llmbar", tmp_path), good_and_bad("llmbar", {})), tmp_path / "a", tmp_path / "b"
    assert command("eval", "length", "--on", path, "--out", old, "--samples", 20).code == 0
    line = ("eval", "length", "--on", "world", "--pairs", 4, "--out", new, "--against", old)
    assert_refused(command(*map(str, line)), str(old / "results.json"), "no benchmark in common", "it has llmbar")
    assert not new.exists()
    same = command("eval", "length", "--on", path, "--out", old, "--against", old / "results.json")
    assert_refused(same, "--against", "is the folder of the new result")
    assert_refused(command("report"), "RUN_OR_RESULTS")
    assert_refused(command("report", tmp_path / "none"), f"{tmp_path / 'none'}", "neither results.json")
    assert_refused(command("report", path), str(path), "neither results.json")
    assert_refused(command("report", old, "--out", path), "--out", "is a file")
    (old / "rows.jsonl").write_text('{"benchmark": "llmbar"}\n')
    assert_refused(command("report", old), f"{old / 'rows.jsonl'}:1", "no row of 'facetrm eval'")
    assert not list(old.glob("report.*"))


def test_the_hub_that_cannot_be_reached_asks_for_the_file() -> None:
    said = command("eval", "length", "--on", "rewardbench2", "--out", "unused")
    assert_refused(said, "allenai/reward-bench-2", "--on rewardbench2=PATH")
    assert_refused(command("eval", "length", "--on", "rmb", "--out", "unused"), "--on rmb=PATH")
