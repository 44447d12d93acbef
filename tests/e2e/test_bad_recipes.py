"""Bad recipes, settings and options on the real command line: each is refused before anything is trained."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from command_line import assert_refused, command
from facetrm.recipes.run import Run
from tiny_runs import GOOD, PAIR, recipe, write_recipe, write_rows

WORLD = recipe()["data"]
BACKBONE = {"path": "nowhere/at/all"}

# A recipe that is wrong, and what is said about it beside its path.
RECIPES: dict[str, tuple[Any, Sequence[str]]] = {
    "a list": ([1], ["a list, not a mapping", "section:"]),
    "no recipe": (recipe(recipe=None), ["'recipe' is missing", "recipe: armorm"]),
    "an unknown recipe": (recipe(recipe="armrm"), ["unknown recipe 'armrm'", "did you mean 'armorm'?"]),
    "an unknown section": (recipe(gates={}), ["unknown setting 'gates'", "did you mean 'gate'?"]),
    "an unknown setting": (
        recipe(gate={"settings": {"step": 3}}),
        ["unknown setting 'gate.settings.step'", "did you mean 'steps'?"],
    ),
    "an unknown setting of an optional section": (
        recipe(tiny=None, backbone={**BACKBONE, "truncate": "error"}),
        ["unknown setting 'backbone.truncate'", "did you mean 'truncation'?"],
    ),
    "a setting of another kind of data": (
        recipe(data={**WORLD, "folder": "x"}),
        ["unknown setting 'data.folder'", "known: every_rater, kind, preferences, ratings, test, world"],
    ),
    "an unknown kind of data": (recipe(data={"kind": "word"}), ["'data.kind' is 'word'", "did you mean 'world'?"]),
    "no kind of data": (recipe(data={"ratings": 99}), ["'data.kind' is missing", "world, desk, pack, files, sources"]),
    "data is a number": (recipe(data=4), ["'data' is 4", "write a section of settings: kind"]),
    "gate is a number": (recipe(gate=4), ["'gate' is 4", "write a section of settings: settings"]),
    "two backbones": (recipe(backbone=BACKBONE), ["give one of the sections 'backbone' and 'tiny'"]),
    "no backbone": (recipe(tiny=None), ["give one of the sections 'backbone' and 'tiny'"]),
    "a tiny backbone for real data": (
        recipe(data={"kind": "pack", "folder": "x"}),
        ["'tiny' learns the world's words", "give 'backbone'"],
    ),
    "too few rows": (recipe(data={**WORLD, "ratings": 3}), ["'data.ratings' is 3", "greater than or equal to 10"]),
    "too much noise": (recipe(data={**WORLD, "world": {"noise": 0.7}}), ["'data.world.noise' is 0.7", "less than 0.5"]),
    "a seed below 0": (recipe(seed=-1), ["'seed' is -1", "greater than or equal to 0"]),
    "a seed without end": (recipe(seed=2**80), ["'seed' is 1208925819614629174706176", "less than"]),
    "a gate seed below 0": (recipe(gate={"settings": {"seed": -1}}), ["'gate.settings.seed' is -1"]),
    "a number in words": (recipe(seed="one"), ["'seed' is 'one'", "integer"]),
    "no penalty": (recipe(experts={"ridge": {"alphas": []}}), ["'experts.ridge.alphas' is []", "penalties above 0"]),
    "a penalty below 0": (recipe(experts={"ridge": {"alphas": [-1.0]}}), ["alphas", "-1.0", "penalties above 0"]),
    "a penalty in words": (recipe(experts={"ridge": {"alphas": [1, "x"]}}), ["alphas.1' is 'x'", "number"]),
    "not a list": (recipe(experts={"ridge": {"alphas": 3}}), ["alphas' is 3", "list"]),
    "one fold": (recipe(experts={"cross_fit": 1}), ["'experts' do not fit together", "0, or at least 2 folds"]),
    "a gate without width": (recipe(gate={"settings": {"hidden": 0}}), ["'gate.settings'", "hidden 0 with n_hidden 1"]),
    "not a number": (recipe(gate={"settings": {"learning_rate": float("nan")}}), ["learning_rate' is nan", "greater"]),
    "heads that do not divide": (recipe(tiny={"shape": {"hidden": 16, "heads": 3}}), ["'tiny.shape'", "16", "heads 3"]),
    "no layer": (recipe(tiny={"shape": {"layers": 0}}), ["'tiny.shape.layers' is 0"]),
    "no width": (recipe(tiny={"shape": {"hidden": 0}}), ["'tiny.shape.hidden' is 0"]),
    "too few resamples": (recipe(compare={"samples": 1}), ["'compare.samples' is 1"]),
    "an unknown choice": (recipe(save_backbone="no"), ["'save_backbone' is 'no'", "'copy' or 'reference'"]),
    "an unknown source": (
        recipe(tiny=None, backbone=BACKBONE, data={"kind": "sources", "ratings": ["helpster"], "preferences": ["shp"]}),
        ["data.ratings", "unknown source 'helpster'", "did you mean 'helpsteer'?"],
    ),
    "a source of the other kind": (
        recipe(tiny=None, backbone=BACKBONE, data={"kind": "sources", "ratings": ["shp"], "preferences": ["shp"]}),
        ["data.ratings", "source 'shp' holds preferences", "known: "],
    ),
    "a key that is no text": ({**recipe(), 7: 1}, ["7", "strings"]),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_bad_recipe(name: str, tmp_path: Path) -> None:
    value, fragments = RECIPES[name]
    path = write_recipe(tmp_path / "bad.yaml", value)
    place = () if fragments[0].startswith("data.") else (str(path),)
    assert_refused(command("run", path, "--out", tmp_path / "run"), *place, *fragments)


TEXTS: dict[str, tuple[bytes, Sequence[str]]] = {
    "no YAML": (b"recipe: [armorm\n", ["not YAML", "fix this line"]),
    "a tab": (b"recipe: armorm\ndata:\n\tkind: world\n", ["bad.yaml:3:1", "not YAML"]),
    "a date": (b"recipe: 2024-99-99\n", ["not YAML (month must be in 1..12)", "quote"]),
    "an object": (b"recipe: !!python/object:os.system x\n", ["not YAML", "could not determine a constructor"]),
    "too deep": (b"recipe: " + b"[" * 20_000, ["not YAML", "recursion"]),
    "bytes": (b"\xff\xfe\x00recipe", ["not a text file", "YAML"]),
    "empty": (b"", ["empty, not a mapping", "section:"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_recipe_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    text, fragments = TEXTS[name]
    (tmp_path / "bad.yaml").write_bytes(text)
    assert_refused(command("run", tmp_path / "bad.yaml"), str(tmp_path / "bad.yaml"), *fragments)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    assert_refused(
        command("run", tmp_path / "no.yaml"), "no.yaml", "no such file", "give the path of a recipe, a YAML file"
    )
    assert_refused(command("run", tmp_path), str(tmp_path), "not a text file", "give the path of a recipe")


SETS: dict[str, Sequence[str]] = {
    "gate.settings.steps": ["'gate.settings.steps' is not section.key=value", "--set"],
    "=3": ["'=3' is not section.key=value", "write --set"],
    "gate..steps=3": ["'gate..steps=3' is not section.key=value"],
    "title.x=3": ["'title' in 'title.x' is not a section", "remove what follows"],
    "title=[": ["--set title", "'[' is not a YAML value", "quote it"],
    "title=2024-99-99": ["--set title", "'2024-99-99' is not a YAML value", "quote it"],
    "gate.settings.stps=3": ["unknown setting 'gate.settings.stps'", "did you mean 'steps'?"],
    "seed=": ["'seed' is None", "integer"],
}


@pytest.mark.parametrize("item", SETS)
def test_a_bad_setting_on_the_command_line(item: str, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "good.yaml")
    assert_refused(command("run", path, "--out", tmp_path / "run", "--set", item), *SETS[item])


# Recipes whose fault only shows when they run.
LATE: dict[str, tuple[dict[str, Any], Sequence[str]]] = {
    "nothing to debias against": ({"debias": {"target": "almond-verbosty"}}, ["almond-verbosty", "almond-verbosity'?"]),
    "no room for a prompt": (
        {"tiny": {**recipe()["tiny"], "shape": {"hidden": 16, "layers": 1, "heads": 2, "inner": 32, "max_tokens": 20}}},
        ["tokens, above the limit of 20", "truncation"],
    ),
    "a backbone that is not there": ({"tiny": None, "backbone": BACKBONE}, ["nowhere/at/all", "no such folder"]),
    "a device that is not there": (
        {"tiny": None, "backbone": {**BACKBONE, "device": "gpu"}},
        ["device 'gpu' is not there", "backbone.device: auto"],
    ),
    "too few labels": (
        {"experts": {"ridge": {"folds": 5, "unfit": "raise"}}, "data": {**WORLD, "ratings": 10}},
        ["'almond-correctness': 0 rated rows", "add ratings"],
    ),
}


@pytest.mark.parametrize("name", LATE)
def test_a_fault_that_shows_in_the_run(name: str, tmp_path: Path) -> None:
    sections, fragments = LATE[name]
    path = write_recipe(tmp_path / "late.yaml", recipe(**sections))
    assert_refused(command("run", path, "--out", tmp_path / "run"), *fragments)


def test_a_run_folder_of_other_settings(tiny_run: Run, tmp_path: Path) -> None:
    path, folder = write_recipe(tmp_path / "good.yaml"), tmp_path / "run"
    folder.mkdir()
    record = (tiny_run.folder / "backbone.json").read_text()
    for text, fragments in {
        record: ["holds a backbone that was trained with other settings", "another run folder"],
        "[]": ["backbone.json", "not a record of a training", "delete it"],
        "{": ["backbone.json:1:", "not JSON", "delete it"],
        "{}": ["backbone.json", "not a record of a training", "delete it"],
    }.items():
        (folder / "backbone.json").write_text(text)
        assert_refused(command("run", path, "--out", folder, "--set", "seed=5"), str(folder), *fragments)
    (tmp_path / "file").write_text("mine")
    assert_refused(command("run", path, "--out", tmp_path / "file"), str(tmp_path / "file"), "exists")
    assert (tmp_path / "file").read_text() == "mine"


def test_features_of_another_backbone_lie_below(tiny_run: Run, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "good.yaml")
    folder = tiny_run.folder / "features"
    before = (folder / "manifest.json").read_bytes()
    sets = ("--set", f"features.folder={folder}", "--set", "seed=6")
    assert command("run", path, "--out", tmp_path / "run", *sets).code == 0
    assert (folder / "manifest.json").read_bytes() == before
    rows = write_rows(tmp_path / "rows.jsonl", [GOOD])
    backbone = ("--backbone", tiny_run.folder / "backbone")
    said = command("encode", *backbone, "--data", rows, "--out", folder, "--set", "max_tokens=100")
    assert (said.code, f"{folder}{os.sep}encoder-" in said.out) == (0, True)
    assert (folder / "manifest.json").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    assert_refused(command("encode", *backbone, "--data", rows, "--out", tmp_path / "mine"), str(tmp_path / "mine"))


ENCODE: dict[str, Sequence[str]] = {
    "dtype=float7": ["--set", "'dtype' is 'float7'", "'float32'"],
    "max_tokens=1": ["'max_tokens' is 1", "greater than or equal to 2"],
    "max_tokens=9999": ["9999", "512", "backbone.max_tokens"],
    "tokens=3": ["unknown setting 'tokens'", "did you mean"],
    "template=nowhere.jinja": ["nowhere.jinja", "no such template", "plain"],
    "template=BROKEN": ["template"],
    "device=tpu9": ["device 'tpu9' is not there", "auto"],
    "date='{{'": ["'date' is '{{'", "write a date"],
}


@pytest.mark.parametrize("item", ENCODE)
def test_a_bad_setting_of_encode(item: str, tiny_run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jinja"
    broken.write_text("{% for message in messages %}")
    rows = write_rows(tmp_path / "rows.jsonl", [GOOD])
    where = ("--backbone", tiny_run.folder / "backbone", "--data", rows, "--out", tmp_path / "features")
    said = command("encode", *where, "--set", item.replace("BROKEN", str(broken)))
    assert_refused(said, *ENCODE[item])


# What the parser of options refuses by itself: the command, the option and the value are named.
USAGE: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "an unknown verb": (["trian"], ["No such command 'trian'"]),
    "no recipe": (["run"], ["Missing argument 'recipe'"]),
    "an unknown option": (["run", "x.yaml", "--steps", "3"], ["No such option: --steps"]),
    "no shard": (
        ["encode", "--backbone", "b", "--data", "d", "--out", "o", "--shard-rows", "0"],
        ["'--shard-rows'", "equal to 1"],
    ),
    "a shard in words": (
        ["encode", "--backbone", "b", "--data", "d", "--out", "o", "--shard-rows", "x"],
        ["'--shard-rows'", "integer"],
    ),
    "an option without its value": (["score", "model", "--data"], ["--data"]),
}


@pytest.mark.parametrize("name", USAGE)
def test_usage_errors_are_one_line_and_say_where_help_is(name: str) -> None:
    arguments, fragments = USAGE[name]
    said = command(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.startswith("facetrm: UsageError: facetrm")
    assert said.err.endswith(" --help\n")
    assert len(said.err.splitlines()) == 1
    for fragment in fragments:
        assert fragment in said.err, said.err


def test_without_a_command_the_help_is_shown() -> None:
    said = command()
    assert said.code == 2
    assert all(verb in said.out + said.err for verb in ("run", "encode", "score", "explain"))


def test_pairs_and_yaml_helpers_write_what_they_say(tmp_path: Path) -> None:
    """The battery stands on these: a recipe that is good passes every check of the settings."""
    assert yaml.safe_load(write_recipe(tmp_path / "a.yaml").read_text()) == recipe()
    assert json.loads(write_rows(tmp_path / "b.jsonl", [PAIR]).read_text()) == PAIR
