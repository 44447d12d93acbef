"""Ten users' own files of different conventions through ``init`` and ``train``, without editing a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from command_line import command
from facetrm.data.pack import read_objectives
from facetrm.recipes.run import read_recipe
from own_files import TOGETHER, quick, save_backbone, write_own


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("own") / "backbone")


@pytest.mark.parametrize("name", TOGETHER)
def test_own_files_become_a_recipe_and_a_model(name: str, backbone: Path, tmp_path: Path) -> None:
    files = write_own(name, tmp_path)
    said = command("init", *files, "--backbone", backbone, "--out", tmp_path / "draft")
    assert said.code == 0, said.err
    assert "held-out prompts would give +-5 points" in said.out
    assert f"facetrm run {tmp_path / 'draft' / 'recipe.yaml'}" in said.out
    config = read_recipe(tmp_path / "draft" / "recipe.yaml")
    objectives = read_objectives(tmp_path / "draft" / "objectives.yaml")
    trained = command("train", *files, "--backbone", backbone, "--out", tmp_path / "run", *quick())
    assert trained.code == 0, trained.err
    assert "Verdict: " in trained.out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    rows = metrics["rows"]
    assert rows["ratings"] + rows["ratings_test"] == 48
    ties = 1 if name == "alpaca and letters" else 0
    assert rows["preferences"] + rows["preferences_test"] == 24 - ties
    assert rows.get("left_out_ties", 0) == ties
    assert ("Left out, without a usable label: ties (1)." in trained.out) == bool(ties), "left out, and said so"
    assert read_objectives(tmp_path / "run" / "objectives.yaml") == objectives
    kept = yaml.safe_load((tmp_path / "run" / "config.resolved.yaml").read_text())
    assert Path(kept["data"]["ratings"][0]).name == Path(config.data.ratings[0]).name


def test_the_resolved_recipe_repeats_the_training(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_own("csv", tmp_path)
    files = ("--ratings", "rated.csv", "--pairs", "pairs.csv")
    assert command("train", *files, "--backbone", backbone, *quick()).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    first = tmp_path / "runs" / "pairs"
    again = command("run", first / "config.resolved.yaml", "--out", "again")
    assert again.code == 0, again.err
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (first, Path("again"))]
    assert metrics[0]["pair_accuracy"] == metrics[1]["pair_accuracy"]
    assert metrics[0]["hashes"]["data"] == metrics[1]["hashes"]["data"]
    assert metrics[0]["rows"] == metrics[1]["rows"]


def test_a_drafted_recipe_runs_as_it_is(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = write_own("helpsteer", tmp_path)
    drafted = command("init", *files, "--backbone", backbone, *quick())
    assert drafted.code == 0, drafted.err
    line = drafted.out.splitlines()[-1].split()
    assert line[0] == "facetrm"
    done = command(*line[1:])
    assert done.code == 0, done.err
    assert (tmp_path / "runs" / "recipe" / "report.html").is_file()
