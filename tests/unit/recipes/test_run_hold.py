"""A run folder has one run at a time, and its settings are those of its results."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from facetrm.core.config import read_yaml
from facetrm.core.errors import BackboneError, FacetrmError, StoreError
from facetrm.core.locks import sole_writer
from facetrm.recipes import run as runs
from facetrm.recipes.run import Run, read_recipe, run_recipe
from facetrm.recipes.run_folder import RESOLVED, run_folder
from tiny_runs import recipe, run, write_recipe


def stamps(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes()) for path in files}


def test_a_second_run_stops_before_it_writes(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    monkeypatch.setattr(runs, "prepare", lambda *_: pytest.fail("it began"))
    path = write_recipe(tmp_path / "run.yaml")
    with sole_writer(folder):
        before = stamps(folder)
        for sets in ([], ["gate.settings.steps=3"]):
            with pytest.raises(StoreError, match=rf"process {os.getpid()} on .*, since .*--out"):
                run_recipe(path, sets=sets, out=folder)
        assert stamps(folder) == before


@pytest.mark.parametrize(
    "sets",
    [["tiny.training.read_steps=3"], ["seed=5"], ["features.dtype=float16"], ["data.ratings=1"]],
    ids=["another backbone", "another seed", "another store", "too few rows"],
)
def test_a_refused_run_keeps_the_settings_of_the_finished_one(sets: list[str], tiny_run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    before = stamps(folder)
    with pytest.raises(FacetrmError):
        run_recipe(write_recipe(tmp_path / "run.yaml"), sets=sets, out=folder)
    assert stamps(folder) == before


def test_a_run_that_replaces_results_replaces_the_settings(tiny_run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    second = run_recipe(write_recipe(tmp_path / "run.yaml"), sets=["gate.settings.steps=3"], out=folder)
    assert read_yaml(folder / RESOLVED)["gate"]["settings"]["steps"] == 3
    assert second.model.hash != tiny_run.model.hash


def test_a_refused_first_run_leaves_its_settings_alone(tmp_path: Path) -> None:
    missing = recipe(tiny=None, backbone={"path": str(tmp_path / "nowhere")})
    with pytest.raises(BackboneError):
        run_recipe(write_recipe(tmp_path / "r.yaml", missing), out=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [RESOLVED], "what was tried, and no lock"


def test_a_second_process_of_one_run_takes_no_lock(tmp_path: Path) -> None:
    config = read_recipe(write_recipe(tmp_path / "r.yaml"))
    with run_folder(tmp_path / "run", config) as first, run_folder(tmp_path / "run", config, main=False) as other:
        other.begin()
        other.keep_settings()
        assert not (tmp_path / "run" / RESOLVED).exists()
        first.begin()
        assert (tmp_path / "run" / RESOLVED).exists()


def test_a_run_removes_what_killed_writers_left(tiny_run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    (folder / ".model.0123456789ab.tmp" / "backbone").mkdir(parents=True)
    (folder / "features" / ".manifest.json.0123456789ab.tmp").write_text("half", encoding="utf-8")
    (folder / ".lock").write_text('{"pid": 1, "host": "x", "since": "y"}', encoding="utf-8")
    run(folder)
    assert sorted(stamps(folder)) == sorted(stamps(tiny_run.folder))
