"""Bad files and missing halves on the command line of ``init`` and ``train``: one message, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import assert_refused, command
from own_files import questions, quick, save_backbone, write_own
from tiny_runs import write_rows

VERBS = ("init", "train")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("own") / "backbone")


def good(folder: Path) -> tuple[Path, Path]:
    rated = [{"prompt": q.question, "response": q.better, "helpful": q.helpful[0]} for q in questions()]
    pairs = [{"prompt": q.question, "chosen": q.better, "rejected": q.worse} for q in questions()]
    return write_rows(folder / "rated.jsonl", rated), write_rows(folder / "pairs.jsonl", pairs)


def change(path: Path, number: int, line: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[: number - 1], line, *lines[number:]]) + "\n")


def empty(rated: Path, pairs: Path) -> list[str]:
    pairs.write_text("\n")
    return [str(pairs), "no rows", "at least one row"]


def absent(rated: Path, pairs: Path) -> list[str]:
    pairs.unlink()
    return [str(pairs), "no such file"]


def other_columns(rated: Path, pairs: Path) -> list[str]:
    write_rows(rated, [{"text": "hi", "note": 4}])
    return [str(rated), "['note', 'text']", "prompt, response + one column of numbers", "question or instruction"]


def no_winner(rated: Path, pairs: Path) -> list[str]:
    write_rows(pairs, [{"question": "q ?", "response_a": "a", "response_b": "b"}])
    return [str(pairs), "['question', 'response_a', 'response_b']", "response_a, response_b, winner"]


def swapped(rated: Path, pairs: Path) -> list[str]:
    pairs.write_bytes(rated.read_bytes())
    return [str(pairs), "no preference convention", "prompt, chosen, rejected"]


def bad_label(rated: Path, pairs: Path) -> list[str]:
    change(rated, 9, json.dumps({"prompt": "q ?", "response": "a", "helpful": "good"}))
    return [f"{rated}:9", "'ratings.helpful' is 'good', not a number"]


def bad_json(rated: Path, pairs: Path) -> list[str]:
    change(pairs, 5, '{"prompt": "q ?", "chosen"')
    return [f"{pairs}:5", "not JSON"]


def blank_answer(rated: Path, pairs: Path) -> list[str]:
    change(pairs, 7, json.dumps({"prompt": "q ?", "chosen": " ", "rejected": "b"}))
    return [f"{pairs}:7", "write the text"]


def no_ratings(rated: Path, pairs: Path) -> list[str]:
    write_rows(rated, [{"prompt": "q ?", "response": "a", "row_id": n} for n in range(3)])
    return [str(rated), "no objective", "row_id", "--objectives"]


FAULTS: list[Callable[[Path, Path], list[str]]] = [
    empty,
    absent,
    other_columns,
    no_winner,
    swapped,
    bad_label,
    bad_json,
    blank_answer,
    no_ratings,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_bad_file_is_named(fault: Callable[[Path, Path], list[str]], backbone: Path, tmp_path: Path) -> None:
    rated, pairs = good(tmp_path)
    fragments = fault(rated, pairs)
    for verb in VERBS:
        out = tmp_path / verb
        said = command(verb, "--ratings", rated, "--pairs", pairs, "--backbone", backbone, "--out", out)
        assert_refused(said, *fragments)
        assert not out.exists(), "nothing is written"


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_half_is_named_with_its_fix(verb: str, backbone: Path, tmp_path: Path) -> None:
    rated, pairs = good(tmp_path)
    end = ("--backbone", backbone, "--out", tmp_path / "out")
    assert_refused(command(verb, "--pairs", pairs, *end), "no rated rows", "heads are fitted", "add --ratings FILE")
    assert_refused(command(verb, "--ratings", rated, *end), "no preferences", "the gate", "add --pairs FILE")
    assert_refused(command(verb, *end), "no files", "--ratings FILE and --pairs FILE")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_backbone_is_named(verb: str, tmp_path: Path) -> None:
    rated, pairs = good(tmp_path)
    out = tmp_path / "out"
    said = command(verb, "--ratings", rated, "--pairs", pairs, "--backbone", tmp_path / "none", "--out", out)
    assert_refused(said, str(tmp_path / "none"), "no such folder")
    assert not out.exists()


def test_init_overwrites_only_when_told(backbone: Path, tmp_path: Path) -> None:
    files = write_own("csv", tmp_path)
    options = (*files, "--backbone", backbone, "--out", tmp_path / "out")
    assert command("init", *options).code == 0
    (tmp_path / "out" / "objectives.yaml").write_text("mine")
    assert_refused(command("init", *options), "objectives.yaml", "is there already", "--force")
    assert (tmp_path / "out" / "objectives.yaml").read_text() == "mine"
    assert command("init", *options, "--force").code == 0
    assert (tmp_path / "out" / "objectives.yaml").read_text().startswith("# Guessed")


def test_bad_rows_that_are_skipped_on_request_are_counted(backbone: Path, tmp_path: Path) -> None:
    rated, pairs = good(tmp_path)
    bad_label(rated, pairs)
    blank_answer(rated, pairs)
    options = ("--ratings", rated, "--pairs", pairs, "--backbone", backbone, "--out", tmp_path / "run")
    said = command("train", *options, *quick("data.on_error=skip"))
    assert said.code == 0, said.err
    assert said.out.count("bad rows skipped: 1") == 2
    assert "Left out, without a usable label: bad ratings (1), bad preferences (1)." in said.out
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())["rows"]
    assert (rows["left_out_bad_ratings"], rows["left_out_bad_preferences"]) == (1, 1)
    assert rows["ratings"] + rows["ratings_test"] == rows["preferences"] + rows["preferences_test"] == 23
