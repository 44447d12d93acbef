"""The recipes of rivals from their files to scores: each learns a planted signal, and its folder can be used."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from command_line import assert_refused, command
from facetrm.baselines.trained.implicit import ImplicitRewardScorer
from facetrm.baselines.trained.pairwise import PairwiseScorer
from facetrm.baselines.trained.rivals import load_rival
from facetrm.hub.load import load_model
from facetrm.recipes.run import run_recipe
from fakes import tiny_decoder
from rival_samples import pair, rival_recipe, write_pairs
from tiny_runs import PAIR, write_rows

RECIPES = Path(__file__).parents[2] / "recipes"
TRAINER = {
    "max_steps": 40,
    "num_train_epochs": None,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "optim": "adamw_torch",
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
}
TITLES = {
    "bradley-terry": "Bradley-Terry reward model",
    "bradley-terry-llama3-8b": "Bradley-Terry reward model",
    "pairwise": "pairwise preference model",
    "dpo": "policy, by its implicit reward",
}
TEST = [pair(n) for n in range(240, 320)]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rivals")
    tiny_decoder(folder / "backbone")
    write_pairs(folder / "pairs.jsonl", train=240, test=80)
    return folder


def sets(place: Path) -> list[str]:
    given = [
        f"backbone.path={place / 'backbone'}",
        "backbone.dtype=float32",
        "backbone.max_tokens=256",
        "backbone.device=cpu",
        f"data={{kind: files, preferences: [{place / 'pairs.jsonl'}]}}",
        "samples=50",
        *(f"training.trainer.{name}={json.dumps(value)}" for name, value in TRAINER.items()),
    ]
    return [part for item in given for part in ("--set", item)]


@pytest.fixture(scope="module")
def ran(place: Path) -> dict[str, Any]:
    found = {}
    for name in ("bradley-terry", "bradley-terry-llama3-8b", "pairwise", "dpo"):
        more = ["--set", "training.trainer.learning_rate=0.003"] if name.endswith("8b") else []
        said = command("run", RECIPES / f"{name}.yaml", "--out", place / name, *sets(place), *more)
        assert said.code == 0, said.err
        assert "held-out pairs" in said.out
        assert "Next" in said.out
        assert TITLES[name] in said.out
        assert "longer answer wins" in said.out
        found[name] = json.loads((place / name / "metrics.json").read_text())
    return found


@pytest.mark.parametrize("name", ["bradley-terry", "bradley-terry-llama3-8b", "pairwise", "dpo"])
def test_a_recipe_learns_the_planted_signal(ran: dict[str, Any], place: Path, name: str) -> None:
    metrics = ran[name]
    system = metrics["recipe"].replace("-", "_")
    assert metrics["pair_accuracy"]["noisy"][system]["value"] > 0.9
    assert abs(metrics["pair_accuracy"]["noisy"]["longer"]["value"] - 0.5) < 0.15
    assert metrics["verdict"]["status"] == "usable"
    assert metrics["rows"] == {"preferences": 240, "preferences_test": 80}
    assert metrics["training"]["steps"] == 40
    assert metrics["training"]["truncated"] == 0
    assert (place / name / "config.resolved.yaml").is_file()
    assert not list((place / name / "training").glob("checkpoint-*"))


def test_before_training_no_rival_knows_the_order(place: Path, tmp_path: Path) -> None:
    for kind in ("bradley-terry", "pairwise"):
        recipe = rival_recipe(
            tmp_path / f"{kind}.yaml",
            kind,
            place / "backbone",
            place / "pairs.jsonl",
            trainer={"max_steps": 1, "learning_rate": 1e-12},
        )
        run = run_recipe(recipe, out=tmp_path / kind)
        assert abs(run.noisy[kind.replace("-", "_")].value - 0.5) < 0.25


@pytest.mark.parametrize("kind", ["pairwise", "dpo"])
def test_an_evaluation_counts_what_is_too_long_for_a_rival_as_failed(kind: str, place: Path, tmp_path: Path) -> None:
    recipe, short = tmp_path / "recipe.yaml", {"max_steps": 1}
    rival_recipe(recipe, kind, place / "backbone", place / "pairs.jsonl", trainer=short)
    run_recipe(recipe, out=tmp_path / kind)
    rows = [{"prompt": "p 1", "chosen": long, "rejected": "nay"} for long in ("yes", "p " * 5000)]
    path, out = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    line = ("eval", tmp_path / kind, "--on", path, "--out", out, "--samples", 20, "--device", "cpu", "--json")
    said = command(*line)
    assert said.code == 0, said.err
    (system,) = json.loads(said.out)["benchmarks"]["rows.jsonl"]["systems"].values()
    assert system["failed"] == 1
    assert "above the limit of" in system["first_problem"]
    assert "train it with backbone.truncation=drop_oldest" in system["first_problem"]


def test_a_reward_model_is_scored_explained_and_read_by_transformers(
    ran: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    run = place / "bradley-terry"
    rows = write_rows(tmp_path / "rows.jsonl", [PAIR])
    said = command("score", run, "--data", rows, "--device", "cpu", "--truncation", "drop_oldest")
    assert said.code == 0, said.err
    for row in map(json.loads, said.out.splitlines()):
        assert math.isfinite(row["reward"])
        assert row["model"] == ran["bradley-terry"]["hashes"]["model"]
    asked = ("--prompt", "p 1", "--a", "yes", "--b", "nay", "--json", "--device", "cpu")
    shown = command("explain", run, *asked)
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["margin"] > 0
    # Transformers' own head and padding give the same rewards, in one batch.
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForSequenceClassification.from_pretrained(run / "model", dtype=torch.float32).eval()
    conversations = [c for p in TEST[:8] for c in (p.chosen, p.rejected)]
    turns = [[{"role": m.role, "content": m.content} for m in c] for c in conversations]
    texts = [tokenizer.apply_chat_template(t, tokenize=False) for t in turns]
    batch = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, 0]
    rewards = [s.reward for s in load_model(run, device="cpu").score(conversations)]
    assert rewards == pytest.approx(logits.tolist(), abs=1e-4)


def test_the_other_rivals_are_loaded_from_the_run(ran: dict[str, Any], place: Path) -> None:
    conversations = [c for p in TEST for c in (p.chosen, p.rejected)]
    for name, kind in (("pairwise", PairwiseScorer), ("dpo", ImplicitRewardScorer)):
        scorer = load_rival(place / name, device="cpu")
        assert isinstance(scorer, kind)
        rewards = np.array([s.reward for s in scorer.score(conversations)])
        right = np.mean(rewards[0::2] > rewards[1::2])
        assert right == ran[name]["pair_accuracy"]["noisy"][name]["value"]
        assert scorer.hash == ran[name]["hashes"]["model"]
    assert ran["pairwise"]["order"]["agreement"] > 0.9
    assert_refused(command("score", place / "pairwise", "--data", place / "pairs.jsonl"), "LlamaForCausalLM")


@pytest.mark.parametrize("loss", ["ipo", "hinge"])
def test_other_losses_of_a_policy_learn_and_the_reference_can_be_copied(loss: str, place: Path, tmp_path: Path) -> None:
    recipe = rival_recipe(
        tmp_path / "dpo.yaml", "dpo", place / "backbone", place / "pairs.jsonl", loss=loss, save_reference="copy"
    )
    run = run_recipe(recipe, out=tmp_path / "run")
    assert run.noisy["dpo"].value > 0.9
    assert run.metrics["implicit"] == {"loss": loss, "kind": {"ipo": "ipo", "hinge": "dpo"}[loss], "beta": 0.1}
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert load_rival(moved, device="cpu").score([TEST[0].chosen])[0].model == run.metrics["hashes"]["model"]


@pytest.mark.parametrize("kind", ["bradley-terry", "pairwise", "dpo"])
def test_a_finished_training_is_reused_and_other_settings_are_refused(kind: str, place: Path, tmp_path: Path) -> None:
    few = {"max_steps": 3}
    recipe = rival_recipe(tmp_path / "a.yaml", kind, place / "backbone", place / "pairs.jsonl", trainer=few)
    first = run_recipe(recipe, out=tmp_path / "run")
    written = (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    again = run_recipe(recipe, out=tmp_path / "run")
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_mtime_ns == written
    assert again.metrics["pair_accuracy"] == first.metrics["pair_accuracy"]
    assert again.metrics["hashes"] == first.metrics["hashes"]
    assert_refused(
        command("run", recipe, "--out", tmp_path / "run", "--set", "training.seed=7"),
        "holds a finished training with other settings",
    )


def test_over_long_rows_are_refused_or_truncated_and_counted(place: Path, tmp_path: Path) -> None:
    recipe = rival_recipe(
        tmp_path / "a.yaml", "bradley-terry", place / "backbone", place / "pairs.jsonl", trainer={"max_steps": 1}
    )
    short = ("--set", "backbone.max_tokens=36")
    assert_refused(command("run", recipe, "--out", tmp_path / "run", *short), "above the limit of 36")
    cut = (*short, "--set", "backbone.truncation=drop_oldest")
    assert command("run", recipe, "--out", tmp_path / "cut", *cut).code == 0
    metrics = json.loads((tmp_path / "cut" / "metrics.json").read_text())
    assert 0 < metrics["training"]["truncated"] <= 2 * metrics["rows"]["preferences"]
    assert metrics["reading"]["truncated"] > 0


def test_a_missing_trl_is_named(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    for kind in ("bradley-terry", "dpo"):
        recipe = rival_recipe(tmp_path / f"{kind}.yaml", kind, place / "backbone", place / "pairs.jsonl")
        assert_refused(command("run", recipe, "--out", tmp_path / kind), 'pip install "facetrm[rl]"')
        assert not (tmp_path / kind).exists()
