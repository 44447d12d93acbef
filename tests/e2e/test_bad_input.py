"""Bad rows and files on the real command line: code 2, one message with value, place and fix, never a traceback."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import assert_refused, command
from facetrm.recipes.run import Run
from tiny_runs import GOOD, PAIR, A, U, recipe, write_recipe, write_rows

# One malformed row of a file to score (line 2, after a good one), and what the message says beside file and line.
ROWS: dict[str, tuple[object, Sequence[str]]] = {
    "no JSON": ('{"messages": [', ["not JSON", "column", "one JSON object per line"]),
    "a list": ("[1, 2]", ["[1, 2] is a list", "one JSON object per line"]),
    "a number": ("7", ["7 is a int", "one JSON object per line"]),
    "a key twice": ('{"messages": 1, "messages": 2}', ["the key 'messages' appears twice", "fix the line"]),
    "too deep": ("[" * 100_000, ["nested too deeply", "write a flat object"]),
    "half a character": (
        '{"messages": [{"role": "user", "content": "\\ud83d"}]}',
        ["half a character", "both halves"],
    ),
    "other columns": ({"text": "hi", "label": 1}, ["no conversation in the columns ['label', 'text']", "messages"]),
    "messages are text": ({"messages": "hi"}, ["'messages' is 'hi'", "list"]),
    "messages are null": ({"messages": None}, ["no conversation in the columns []", "messages"]),
    "no message": ({"messages": []}, ["'messages' is", "at least 1"]),
    "an unknown role": (
        {"messages": [U, {"role": "bot", "content": "x"}]},
        ["messages.1.role", "'bot'", "'assistant'"],
    ),
    "no role": ({"messages": [{"content": "x"}, A]}, ["'messages.0.role' is missing", "add 'role'"]),
    "blank text": ({"messages": [U, {"role": "assistant", "content": " "}]}, ["messages.1.content", "write the text"]),
    "text is a number": ({"messages": [U, {"role": "assistant", "content": 4}]}, ["messages.1.content", "4", "string"]),
    "a key more": ({"messages": [U, {**A, "name": "x"}]}, ["messages.1.name", "'role' and 'content'"]),
    "no answer": ({"messages": [U]}, ["messages", "end with the assistant message"]),
    "ends with the user": ({"messages": [U, A, U]}, ["messages", "not with 'user'"]),
    "an answer to nothing": ({"messages": [A]}, ["messages", "give the prompt"]),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_bad_row_to_score(name: str, tiny_run: Run, tmp_path: Path) -> None:
    row, fragments = ROWS[name]
    path = write_rows(tmp_path / "rows.jsonl", [GOOD, row, GOOD])
    said = command("score", tiny_run.folder, "--data", path, "--out", tmp_path / "scores.jsonl")
    assert_refused(said, f"{path}:2", *fragments)
    assert not (tmp_path / "scores.jsonl").exists(), "nothing, or all"


PAIRS: dict[str, tuple[dict[str, Any], Sequence[str]]] = {
    "no rejected": (
        {"prompt": [U], "chosen": [A]},
        ["no conversation in the columns ['chosen', 'prompt']", "prompt, chosen and rejected"],
    ),
    "chosen is a number": ({**PAIR, "chosen": 4}, ["'chosen' is 4", "list of"]),
    "a prompt that ends with an answer": ({**PAIR, "prompt": [U, A]}, ["prompt", "not with 'assistant'"]),
    "a response by the user": ({**PAIR, "rejected": [U]}, ["'role': 'user'", "share every turn but the last"]),
    "two answers in one": ({**PAIR, "chosen": [A, A]}, ["'chosen' has", "share every turn but the last"]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_bad_preference_to_explain(name: str, tiny_run: Run, tmp_path: Path) -> None:
    row, fragments = PAIRS[name]
    path = write_rows(tmp_path / "pairs.jsonl", [PAIR, row])
    assert_refused(command("explain", tiny_run.folder, "--data", path), f"{path}:2", *fragments)


def broken_files(folder: Path) -> dict[str, tuple[Path, Sequence[str]]]:
    """Return files that are not what their names say."""
    (folder / "folder.jsonl").mkdir()
    (folder / "rows.csv").write_text("a,b\n1,2\n")
    (folder / "empty.jsonl").write_text("\n\n")
    (folder / "latin.jsonl").write_bytes('{"messages": "é"}'.encode("latin-1"))
    (folder / "plain.jsonl.gz").write_text("{}\n")
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress((json.dumps(GOOD) + "\n").encode() * 2000)[:200])
    (folder / "plain.parquet").write_text("{}\n")
    return {
        "absent": (folder / "absent.jsonl", ["no such file", "give the path"]),
        "a folder": (folder / "folder.jsonl", ["a folder", "give one such file"]),
        "another type": (folder / "rows.csv", ["rows.csv:2", "no conversation in the columns ['a', 'b']"]),
        "empty": (folder / "empty.jsonl", ["no row", "give at least one conversation"]),
        "not UTF-8": (folder / "latin.jsonl", [":1: not UTF-8: byte 0xe9", "UTF-8"]),
        "not gzip": (folder / "plain.jsonl.gz", ["not gzip", "copy the file again"]),
        "cut off": (folder / "cut.jsonl.gz", ["the gzip stream ends early", "copy the file again"]),
        "not Parquet": (folder / "plain.parquet", ["not a Parquet file", "write it again"]),
    }


def test_files_that_are_not_what_they_say(tiny_run: Run, tmp_path: Path) -> None:
    for path, fragments in broken_files(tmp_path).values():
        assert_refused(command("score", tiny_run.folder, "--data", path), str(path), *fragments)
        out = tmp_path / "features"
        said = command("encode", "--backbone", tiny_run.folder / "backbone", "--data", path, "--out", out)
        assert_refused(said, str(path), *fragments)


def test_a_conversation_that_is_too_long_is_named_by_its_line(tiny_run: Run, tmp_path: Path) -> None:
    long = {"id": "the-long-one", "messages": [U, {"role": "assistant", "content": "kite " * 600}]}
    path = write_rows(tmp_path / "rows.jsonl", [GOOD] * 300 + [long])
    said = command("score", tiny_run.folder, "--data", path, "--out", tmp_path / "scores.jsonl")
    assert_refused(
        said, f"{path}:301", "the-long-one", f"{605 + len(U['content'].split())} tokens", "512", "truncation"
    )
    said = command("encode", "--backbone", tiny_run.folder / "backbone", "--data", path, "--out", tmp_path / "f")
    assert_refused(said, f"{path}:301", "the-long-one", "512", "truncation")
    assert_refused(command("explain", tiny_run.folder, "--data", path, "--row", "301"), f"{path}:301", "512")
    assert_refused(command("explain", tiny_run.folder, "--data", path, "--overall"), f"{path}:301", "512")


RATED = {"messages": [U, A], "ratings": {"mine-good": 3}}
DECLARED = [{"name": "mine-good", "low": 0, "high": 4}]


def files_recipe(folder: Path, *, rated: object = RATED, pair: object = PAIR, declared: object = DECLARED) -> Path:
    """Write a recipe on files, one row each, and return it."""
    write_rows(folder / "rated.jsonl", [RATED, rated])
    write_rows(folder / "pairs.jsonl", [PAIR, pair])
    text = declared if isinstance(declared, str) else yaml.safe_dump(declared)
    (folder / "objectives.yaml").write_text(text)
    data = {
        "kind": "files",
        "ratings": [str(folder / "rated.jsonl")],
        "preferences": [str(folder / "pairs.jsonl")],
        "objectives": str(folder / "objectives.yaml"),
    }
    return write_recipe(folder / "recipe.yaml", recipe(data=data, tiny=None, backbone={"path": str(folder)}))


FILES: dict[str, tuple[dict[str, Any], Sequence[str]]] = {
    "undeclared": (
        {"rated": {**RATED, "ratings": {"mine-god": 3}}},
        ["rated.jsonl:2", "'mine-god' (here 3)", "did you mean 'mine-good'?", "- name: mine-god"],
    ),
    "out of range": ({"rated": {**RATED, "ratings": {"mine-good": 9}}}, ["rated.jsonl:2", "is 9, not 0..4", "range"]),
    "a rating in quotes": ({"rated": {**RATED, "ratings": {"mine-good": "3"}}}, ["'3', not a number", "unquoted"]),
    "infinite": ({"rated": '{"messages": [], "ratings": {"mine-good": 1e999}}'}, ["rated.jsonl:2", "inf", "finite"]),
    "ratings are a list": ({"rated": {**RATED, "ratings": [3]}}, ["'ratings' is [3]", "{objective: number}"]),
    "an unknown column": ({"rated": {**RATED, "sourcee": "x"}}, ["'sourcee' ('x')", "did you mean 'source'?"]),
    "same answers": ({"pair": {"chosen": [U, A], "rejected": [U, A], "prompt": None}}, ["pairs.jsonl:2", "'prompt'"]),
    "a strength of 2": ({"pair": {**PAIR, "strength": 2}}, ["pairs.jsonl:2", "'strength' is 2", "less than or equal"]),
    "objectives: no list": ({"declared": {"name": "x"}}, ["objectives.yaml", "is not a list", "- name:"]),
    "objectives: no YAML": ({"declared": "- name: [x"}, ["objectives.yaml:", "not YAML", "fix this line"]),
    "objectives: a date": ({"declared": "- name: 2024-99-99"}, ["objectives.yaml", "not YAML", "month"]),
    "objectives: a number": ({"declared": [3]}, ["entry 1 is 3", "- name:"]),
    "objectives: no low": (
        {"declared": [{"name": "mine-good", "high": 4}]},
        ["entry 1 (mine-good)", "'low' is missing"],
    ),
    "objectives: twice": ({"declared": DECLARED * 2}, ["'mine-good' is declared twice", "its own name"]),
    "objectives: an unknown key": (
        {"declared": [{**DECLARED[0], "max": 1}]},
        ["unknown key 'max'", "known: name, low"],
    ),
    "objectives: upside down": ({"declared": [{**DECLARED[0], "low": 5}]}, ["{'low': 5, 'high': 4}", "below high"]),
    "objectives: endless": ({"declared": [{**DECLARED[0], "high": float("inf")}]}, ["inf", "finite"]),
    "objectives: a kind": ({"declared": [{**DECLARED[0], "kind": "int"}]}, ["'kind' is 'int'", "'integer'"]),
    "objectives: a boolean of 5": ({"declared": [{**DECLARED[0], "kind": "boolean"}]}, ["low 0 and high 1"]),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_row_or_objective_to_learn_from(name: str, tmp_path: Path) -> None:
    changes, fragments = FILES[name]
    said = command("run", files_recipe(tmp_path, **changes), "--out", tmp_path / "run")
    assert_refused(said, *fragments)


ATTRIBUTE = {"type": "integer", "min": 0, "max": 4, "direction": "higher_is_better"}
PACKS: dict[str, tuple[object, Sequence[str]]] = {
    "no sources": (None, ["no file 'sources.json'", "give the folder of a pack"]),
    "not JSON": ("{", ["sources.json:1:", "not JSON"]),
    "a list": ([], ["no attribute under 'rated'"]),
    "rated is a list": ({"rated": []}, ["sources.json", "'rated' is []", "write an object"]),
    "a source is text": ({"rated": {"s": "x"}}, ["sources.json: rated", "'s' is 'x'", "write an object"]),
    "attributes are a list": ({"rated": {"s": {"attributes": ["x"]}}}, ["sources.json: s", "['x']", "write an object"]),
    "an attribute is a number": (
        {"rated": {"s": {"attributes": {"s-x": 3}}}},
        ["sources.json: s", "'s-x' is 3", "write an object"],
    ),
    "a direction in a list": (
        {"rated": {"s": {"attributes": {"s-x": {**ATTRIBUTE, "direction": ["up"]}}}}},
        ["s: s-x", "'direction' is ['up']", "higher_is_better"],
    ),
    "no range": ({"rated": {"s": {"attributes": {"s-x": {**ATTRIBUTE, "min": None}}}}}, ["s: s-x", "'low' is None"]),
    "no rows": ({"rated": {"s": {"attributes": {"s-x": ATTRIBUTE}}}}, ["no rated.jsonl.gz", "rated.parquet there"]),
}


@pytest.mark.parametrize("name", PACKS)
def test_a_bad_pack(name: str, tmp_path: Path) -> None:
    sources, fragments = PACKS[name]
    if sources is not None:
        text = sources if isinstance(sources, str) else json.dumps(sources)
        (tmp_path / "sources.json").write_text(text)
    value = recipe(data={"kind": "pack", "folder": str(tmp_path)}, tiny=None, backbone={"path": str(tmp_path)})
    path = write_recipe(tmp_path / "recipe.yaml", value)
    assert_refused(command("run", path, "--out", tmp_path / "run"), str(tmp_path), *fragments)


def test_a_pack_whose_rows_have_no_split(tmp_path: Path) -> None:
    (tmp_path / "sources.json").write_text(json.dumps({"rated": {"s": {"attributes": {"s-x": ATTRIBUTE}}}}))
    write_rows(tmp_path / "rated.jsonl", [{"id": "s/0", "category": "chat", "messages": [U, A], "ratings": {"s-x": 1}}])
    write_rows(tmp_path / "preferences.jsonl", [PAIR])
    value = recipe(data={"kind": "pack", "folder": str(tmp_path)}, tiny=None, backbone={"path": str(tmp_path)})
    said = command("run", write_recipe(tmp_path / "recipe.yaml", value), "--out", tmp_path / "run")
    assert_refused(said, str(tmp_path), "row 's/0' has split None", "split train or test")


def test_rows_that_are_skipped_on_request_are_counted_and_kept(tmp_path: Path) -> None:
    path = files_recipe(tmp_path, rated={**RATED, "ratings": {"mine-good": 9}})
    said = command("run", path, "--out", tmp_path / "run", "--set", "data.on_error=skip")
    kept = [json.loads(line) for line in (tmp_path / "rated.skipped.jsonl").read_text().splitlines()]
    assert [(row["line"], "is 9, not 0..4" in row["reason"]) for row in kept] == [(2, True)]
    assert "skipped=1" in said.err


@pytest.mark.parametrize("arguments", [["score", "nowhere", "--data", "rows.jsonl"], ["run", "nowhere.yaml"]])
def test_a_true_process_says_it_in_one_line(arguments: list[str], tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [GOOD])
    said = shell(arguments, tmp_path)
    assert said.returncode == 2
    assert said.stdout == ""
    assert len(said.stderr.splitlines()) == 1
    assert said.stderr.startswith("facetrm: ")
    assert "nowhere" in said.stderr


def shell(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed program in a process of its own."""
    program = "import sys; from facetrm.cli import main; sys.argv[0] = 'facetrm'; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True, env=dict(os.environ)
    )


def test_a_reader_that_leaves_early_hears_no_complaint(tiny_run: Run, tmp_path: Path) -> None:
    """``facetrm score ... | head -1`` ends quietly."""
    path = write_rows(tmp_path / "rows.jsonl", [GOOD] * 400)
    program = "from facetrm.cli import main; main()"
    words = [sys.executable, "-c", program, "score", str(tiny_run.folder), "--data", str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["answer"] == 0
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
