"""A run folder: what it holds, that a second run repeats nothing, and that its model is the one in memory."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from facetrm.backbone.encoder import Features
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.config import read_yaml
from facetrm.core.errors import BackboneError
from facetrm.data.read.files import read_preferences
from facetrm.data.records import Conversation
from facetrm.hub.load import load_model
from facetrm.recipes import backbones
from facetrm.recipes.armorm.fit import conversations
from facetrm.recipes.armorm.rows import load_rows
from facetrm.recipes.run import Run, read_recipe, run_recipe
from tiny_runs import recipe, run, write_recipe


def asked(tiny_run: Run) -> list[Conversation]:
    rows = load_rows(read_recipe(tiny_run.folder.parent / "run.yaml").data, seed=0)
    return conversations(rows)[-40:]


def test_what_a_run_leaves(tiny_run: Run) -> None:
    left = {path.name for path in tiny_run.folder.iterdir()}
    promised = {"config.resolved.yaml", "model", "metrics.json", "report.html", "pair.jsonl", "backbone", "features"}
    assert promised <= left <= promised | {"backbone.json"}
    page = (tiny_run.folder / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert tiny_run.fit.model.hash[:12] in page
    assert not any(path.suffix in (".pkl", ".pt", ".bin") for path in tiny_run.folder.rglob("*")), "no pickle"


def test_the_resolved_recipe_is_the_recipe(tiny_run: Run) -> None:
    path = tiny_run.folder / "config.resolved.yaml"
    assert read_recipe(path) == read_recipe(tiny_run.folder.parent / "run.yaml")
    value = read_yaml(path)
    assert value["gate"]["settings"]["temperature"] == 1.0, "defaults are written out"
    assert value["data"]["ratings"] == 300


def test_the_explained_pair_is_a_test_pair_that_the_model_orders_rightly(tiny_run: Run) -> None:
    (pair,) = read_preferences(tiny_run.folder / "pair.jsonl")
    assert pair == tiny_run.explained
    better, worse = tiny_run.fit.model.score([pair.chosen, pair.rejected])
    assert better.reward > worse.reward
    rows = load_rows(read_recipe(tiny_run.folder.parent / "run.yaml").data, seed=0)
    assert pair.id in {p.id for p in rows.test}


class Counter:
    """Counts the conversations that any backbone reads, and forbids training."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        encode = TransformerEncoder.encode

        def counted(encoder: TransformerEncoder, rows: Sequence[Conversation], **settings: Any) -> Features:
            self.rows += len(rows)
            return encode(encoder, rows, **settings)

        def refuse(*arguments: object, **settings: object) -> None:
            raise AssertionError("a backbone was trained")

        monkeypatch.setattr(TransformerEncoder, "encode", counted)
        monkeypatch.setattr(backbones, "train_backbone", refuse)


def without_seconds(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in copy.deepcopy(metrics).items() if k != "seconds"}


@pytest.fixture(scope="module")
def again(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, int]:
    """The same recipe run once more in a copy of the folder, and how many conversations were read for it."""
    folder = Path(shutil.copytree(tiny_run.folder, tmp_path_factory.mktemp("again") / "run"))
    with pytest.MonkeyPatch.context() as patch:
        counter = Counter(patch)
        return run(folder), counter.rows


def test_a_second_run_trains_nothing_and_reads_nothing(again: tuple[Run, int]) -> None:
    _, rows = again
    assert rows <= 2, "but for the pair that is explained"


def test_a_second_run_gives_the_same_model_and_figures(tiny_run: Run, again: tuple[Run, int]) -> None:
    second, _ = again
    assert second.fit.model.hash == tiny_run.fit.model.hash
    assert without_seconds(second.metrics) == without_seconds(tiny_run.metrics)
    for name in ("mixture-0.safetensors", "backbone/model.safetensors"):
        assert (second.folder / "model" / name).read_bytes() == (tiny_run.folder / "model" / name).read_bytes()
    assert second.explained == tiny_run.explained


@pytest.mark.parametrize("place", ["run", "model", "moved"])
def test_the_loaded_model_scores_bit_equal(place: str, tiny_run: Run, tmp_path: Path) -> None:
    folder = {"run": tiny_run.folder, "model": tiny_run.folder / "model", "moved": tmp_path / "elsewhere"}[place]
    if place == "moved":
        shutil.copytree(tiny_run.folder / "model", folder)
    loaded, rows = load_model(folder), asked(tiny_run)
    assert loaded.score(rows) == tiny_run.fit.model.score(rows)
    assert loaded.hash == tiny_run.fit.model.hash


def test_another_token_budget_gives_the_same_scores(tiny_run: Run) -> None:
    rows = asked(tiny_run)
    small = load_model(tiny_run.folder, token_budget=150)
    for one, other in zip(small.score(rows), tiny_run.fit.model.score(rows), strict=True):
        assert one.reward == pytest.approx(other.reward, abs=1e-4)
        assert one.model == other.model


def test_margins_are_sums_of_differences(tiny_run: Run) -> None:
    """Exact for every test pair: a reward is its base and contributions, and both answers share the base."""
    pairs, mixture = tiny_run.fit.test_pairs, tiny_run.fit.mixture
    with torch.no_grad():
        better, worse = mixture(pairs.chosen), mixture(pairs.rejected)
    for output in (better, worse):
        total_N = output.base_N + output.contributions_NK.sum(-1)
        torch.testing.assert_close(total_N, output.reward_N, rtol=0, atol=1e-5)
    difference_N = (better.contributions_NK - worse.contributions_NK).double().sum(-1)
    torch.testing.assert_close(difference_N, mixture.margins(pairs.chosen, pairs.rejected), rtol=0, atol=1e-5)


def test_a_half_written_backbone_is_trained_again(tiny_run: Run, tmp_path: Path) -> None:
    """A crash between the weights and their record leaves a folder that nobody vouches for."""
    folder = tmp_path / "half"
    shutil.copytree(tiny_run.folder / "features", folder / "features")
    (folder / "backbone").mkdir()
    (folder / "backbone" / "model.safetensors").write_bytes(b"half")
    second = run(folder)
    assert second.fit.model.hash == tiny_run.fit.model.hash, "equal settings train equal weights"


def test_a_backbone_of_other_settings_is_not_used(tiny_run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run.folder, tmp_path / "run"))
    path = write_recipe(tmp_path / "run.yaml")
    with pytest.raises(BackboneError, match="trained with other settings; give another run folder"):
        run_recipe(path, sets=["tiny.training.read_steps=3"], out=folder)


def test_a_backbone_by_reference(tiny_run: Run, tmp_path: Path) -> None:
    """A run on a backbone that lies elsewhere: its model says where, and holds no copy."""
    place = str(tiny_run.folder / "backbone")
    small = {"kind": "world", "ratings": 80, "preferences": 60, "test": 30}
    value = recipe(tiny=None, backbone={"path": place}, save_backbone=None, data=small)
    value["compare"]["bag_of_words"] = 0
    value["debias"] = {"target": None}
    done = run_recipe(write_recipe(tmp_path / "r.yaml", value), out=tmp_path / "run")
    assert not (tmp_path / "run" / "model" / "backbone").exists()
    manifest = json.loads((tmp_path / "run" / "model" / "manifest.json").read_text())
    assert (manifest["encoder"]["backbone"], manifest["encoder"]["spec"]["path"]) == ("reference", place)
    assert load_model(tmp_path / "run").hash == done.fit.model.hash
    assert done.metrics["backbone_training"] == {}
    assert done.metrics["debias"]["max_abs_rho"] is None
    assert done.metrics["debias"]["max_abs_rho_held_out"] is None
    assert "bag_of_words" not in done.metrics["pair_accuracy"]["noisy"]


def test_runs_are_named_after_their_recipe(tiny_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run.folder, tmp_path / "runs" / "mine")
    assert run_recipe(write_recipe(tmp_path / "recipes" / "mine.yaml")).folder == Path("runs/mine")
