"""The recipe of the quickstart, on one task and with fewer steps: its adapters learn, and its vectors are their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from command_line import command
from facetrm import load_model
from facetrm.data.records import Preference
from facetrm.recipes.run import read_recipe

RECIPE: Final = Path(__file__).resolve().parents[2] / "recipes" / "dmoerm-quickstart.yaml"
SMALLER: Final = (
    "data.tasks=[chat]",
    "data.preferences=300",
    "data.labelled=1200",
    "data.test=100",
    "data.most=1",
    "tiny.training.read_steps=400",
    "experts.training.min_steps=100",
    "base.training.min_steps=100",
    "rivals.members=0",
    "samples=20",
)


def test_every_training_of_the_recipe_has_steps_and_a_rate_to_learn_by() -> None:
    config = read_recipe(RECIPE)
    for section in (config.base.training, config.experts.training):
        assert section.min_steps >= 200
        assert section.trainer.learning_rate >= 1e-3
        assert section.trainer.warmup_steps == 0
        assert section.gain >= 1.0  # what is kept has to beat the start


def test_the_recipes_adapters_move(tmp_path: Path) -> None:
    said = command("run", RECIPE, "--out", tmp_path / "run", *(part for one in SMALLER for part in ("--set", one)))
    assert said.code == 0, said.err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    fits = metrics["tasks"]["chat"]["experts"]
    kept = [name for name, fit in fits.items() if fit["kept"]]
    assert 2 * len(kept) >= len(fits), fits
    assert "chat/empathy" in kept
    model = load_model(tmp_path / "run")
    encoder, mixture = model.encoder, model.mixtures["chat"]
    pair = Preference.model_validate_json((tmp_path / "run" / "pair.jsonl").read_text())
    rows = [(*pair.prompt, answer) for answer in pair.responses]
    trunk_ND = encoder.encode(rows).response_NAD[:, 0]
    read_NAD = encoder.encode(rows, adapters=mixture.adapters).response_NAD
    for k, name in enumerate(mixture.names):
        far = float(((read_NAD[:, k] - trunk_ND).norm(dim=1) / trunk_ND.norm(dim=1)).mean())
        assert (far > 0.05) == (name in kept), (name, far)
        if name in kept:
            assert fits[name]["loss"] < fits[name]["start_loss"] - 0.01
            assert fits[name]["change"] > 0.05
