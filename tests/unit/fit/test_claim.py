"""The settings that a training's folder holds: who may train there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facetrm.core.errors import FitError
from facetrm.fit.trainer import TRAINED, claim

QUESTION = {"steps": 10, "trainer": {"learning_rate": 1e-4}}
OTHER = {"steps": 20, "trainer": {"learning_rate": 1e-4}}


def held(folder: Path) -> object:
    return json.loads((folder / "settings.json").read_text(encoding="utf-8"))


def begun(folder: Path) -> None:
    """Write how a training starts, and a log of it."""
    claim(folder, QUESTION)
    for name in ("start.safetensors", "log.jsonl"):
        (folder / name).write_text("{}", encoding="utf-8")


def test_a_new_folder_holds_the_question_and_the_same_question_changes_nothing(tmp_path: Path) -> None:
    begun(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    claim(tmp_path, dict(reversed(QUESTION.items())))
    assert held(tmp_path) == QUESTION
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_where_nothing_is_trained_yet_another_question_takes_the_place_and_the_start(tmp_path: Path) -> None:
    begun(tmp_path)
    claim(tmp_path, OTHER)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"], "the other training's start is gone"
    assert held(tmp_path) == OTHER


@pytest.mark.parametrize("trained", [TRAINED, "checkpoint-3"])
def test_a_training_with_other_settings_is_refused_by_name_and_left_alone(trained: str, tmp_path: Path) -> None:
    begun(tmp_path)
    (tmp_path / trained).mkdir() if "." not in trained else (tmp_path / trained).write_bytes(b"weights")
    with pytest.raises(FitError, match=r"training with other settings \(steps\)") as caught:
        claim(tmp_path, OTHER)
    assert caught.value.fix == "give another run folder"
    assert held(tmp_path) == QUESTION
    assert (tmp_path / "start.safetensors").exists()
    assert (tmp_path / "log.jsonl").exists()
    claim(tmp_path, QUESTION)


def test_settings_that_are_no_settings_are_another_question(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("[1, 2]", encoding="utf-8")
    (tmp_path / TRAINED).write_bytes(b"weights")
    with pytest.raises(FitError, match=r"\(steps, trainer\)"):
        claim(tmp_path, QUESTION)
    (tmp_path / "settings.json").write_text("{", encoding="utf-8")
    with pytest.raises(FitError, match=r"settings\.json"):
        claim(tmp_path, QUESTION)
