"""Prompts and answers on the command line, kept edits, and recipes found by name: nothing to write before an answer."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from command_line import assert_refused, command
from facetrm.recipes.run import Run
from facetrm.recipes.shipped import recipe_file, shipped_recipes

ROOT = Path(__file__).resolve().parents[2]
ASKED = ("--prompt", "what is two plus two ?")


def test_a_typed_pair_is_explained_as_the_same_pair_from_a_file(tiny_run: Run, tmp_path: Path) -> None:
    texts = ["two plus two is four .", "paris in france ."]
    said = [{"role": "assistant", "content": text} for text in texts]
    row = {"prompt": [{"role": "user", "content": ASKED[1]}], "responses": said}
    (tmp_path / "pair.jsonl").write_text(json.dumps(row) + "\n")
    model = tiny_run.folder
    typed = command("explain", model, *ASKED, "--a", texts[0], "--b", texts[1], "--json")
    filed = command("explain", model, "--data", tmp_path / "pair.jsonl", "--json")
    assert typed.code == filed.code == 0, typed.err
    assert json.loads(typed.out) == json.loads(filed.out)
    alone = command("explain", model, *ASKED, "--a", texts[0])
    assert alone.code == 0
    assert "reward" in alone.out


def test_typed_answers_are_scored_and_one_text_may_be_standard_input(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = command("score", tiny_run.folder, *ASKED, "--answer", "four .", "--answer", "five .")
    assert given.code == 0, given.err
    rewards = [json.loads(line)["reward"] for line in given.out.splitlines()]
    assert len(rewards) == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("five .\n"))
    piped = command("score", tiny_run.folder, *ASKED, "--answer", "-")
    assert json.loads(piped.out)["reward"] == pytest.approx(rewards[1], abs=1e-6)


@pytest.mark.parametrize(
    ("verb", "given", "said"),
    [
        ("score", (), "no rows to score"),
        ("score", (*ASKED,), "a prompt without an answer"),
        ("score", ("--answer", "four"), "an answer without its prompt"),
        ("score", (*ASKED, "--answer", "four", "--data", "x.jsonl"), "--data and a prompt"),
        ("score", ("--prompt", "-", "--answer", "-"), "'-' given twice"),
        ("explain", ("--b", "four"), "an answer without its prompt"),
        ("explain", (*ASKED,), "a prompt without an answer"),
        ("explain", (*ASKED, "--a", "four", "--save", "new"), "nothing is edited"),
        ("explain", (*ASKED, "--a", "four", "--drop", "fern-richness", "--save", "."), "not a new or empty folder"),
    ],
)
def test_half_a_question_is_refused(tiny_run: Run, verb: str, given: tuple[str, ...], said: str) -> None:
    assert_refused(command(verb, tiny_run.folder, *given), said)


def test_an_edited_model_is_kept_where_it_is_asked_to_be(tiny_run: Run, tmp_path: Path) -> None:
    name = next(o.name for o in tiny_run.fit.mixture.objectives if o.gated)
    typed = (*ASKED, "--a", "four .", "--json")
    edited = command("explain", tiny_run.folder, *typed, "--drop", name, "--save", tmp_path / "kept")
    assert edited.code == 0, edited.err
    again = command("explain", tmp_path / "kept", *typed)
    assert again.code == 0, again.err
    assert json.loads(again.out)["reward"] == json.loads(edited.out)["reward"]
    plain = command("explain", tiny_run.folder, *typed)
    assert json.loads(plain.out)["reward"] != json.loads(again.out)["reward"]


def test_recipes_are_found_by_name_and_listed() -> None:
    files = {path.stem: path for path in (ROOT / "recipes").glob("*.yaml")}
    assert {recipe.name: recipe.path for recipe in shipped_recipes()} == files
    assert recipe_file(Path("quickstart")) == files["quickstart"]
    assert recipe_file(files["world"]) == files["world"]
    listed = command("recipes")
    assert listed.code == 0
    assert [line.split()[0] for line in listed.out.splitlines()] == sorted(files)
    assert_refused(command("run", "quickstrat"), "no file and no shipped recipe 'quickstrat'", "quickstart")
    assert_refused(command("run", "nowhere/quickstart.yaml"), "quickstart.yaml")
