"""Experts that read inner layers: right scores, bit-equal on disk and in any batch, explained, edited, exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from adapter_samples import ROWS, gap
from facetrm import edit, explain_pair, export_published, load_model
from facetrm.core.errors import ModelError
from facetrm.hub.card import write_card
from facetrm.model.gate import Gate, GateShape
from facetrm.model.reward_model import RewardModel
from fakes import HashEncoder
from layer_models import READS, SIZE, encoder, mixture, model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layers") / "llama"


def test_each_head_reads_its_own_layer(base: Path) -> None:
    made = model(base)
    experts = made.mixture().linear_experts
    assert (experts.layers, made.layers) == ((1, "last"), (1, "last"))
    trunk = encoder(base).model
    for score, messages in zip(made.score(ROWS), ROWS, strict=True):
        ids = torch.tensor([made.encoder.tokenize(messages).ids])  # type: ignore[attr-defined]
        with torch.no_grad():
            states = trunk(ids, output_hidden_states=True).hidden_states
        for k, (layer, name) in enumerate(zip(READS, experts.names, strict=False)):
            state_D = states[2 if layer == "last" else layer][0, -1].double()
            wanted = float(state_D @ experts.weight_KD[k].double() + 0.5)
            assert abs(score.scores[name] - wanted) < 1e-5
        assert abs(score.reward - score.base - sum(score.contributions.values())) < 1e-5


def test_an_exact_score_has_the_same_bits_in_every_batch(base: Path) -> None:
    made = model(base)
    whole = [score.to_dict() for score in made.score(ROWS)]
    assert [made.score([row])[0].to_dict() for row in ROWS] == whole
    assert [score.to_dict() for score in made.score(ROWS[::-1])][::-1] == whole
    assert [score.to_dict() for score in made.score_features(made.features(ROWS))] == whole
    for quick, exact in zip(model(base, mode="fast").score(ROWS), whole, strict=True):
        assert abs(quick.reward - exact["reward"]) < 1e-4


def test_a_saved_model_is_the_same_and_one_of_the_last_layer_is_as_before(base: Path, tmp_path: Path) -> None:
    made, plain = model(base), model(base, None)
    for name, one in (("inner", made), ("last", plain)):
        one.save(tmp_path / name, backbone="copy")
        again = load_model(tmp_path / name, device="cpu")
        assert again.hash == one.hash
        assert again.layers == one.layers
        assert [s.to_dict() for s in again.score(ROWS)] == [s.to_dict() for s in one.score(ROWS)]
    inner, last = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("inner", "last"))
    assert inner["mixtures"][0]["spec"]["experts"]["layers"] == [1, "last", 1]
    assert "layers" not in last["mixtures"][0]["spec"]["experts"]
    assert (inner["format"], last["format"]) == (2, 1), "an earlier release must not load the first"
    named = model(base, ["last"] * 3)
    assert (named.hash, named.layers) == (plain.hash, ())
    assert made.hash != plain.hash


def test_other_programs_get_the_same_rewards_or_an_error(base: Path, tmp_path: Path) -> None:
    made = model(base)
    made.save(tmp_path / "model", backbone="copy")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    texts = tokenizer.apply_chat_template(
        [[m.model_dump(include={"role", "content"}) for m in r] for r in ROWS], tokenize=False
    )
    for side in ("left", "right"):
        batch = tokenizer(texts, padding=True, padding_side=side, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            found = loaded(**batch)
        assert gap(found.logits[:, 0], torch.tensor([score.reward for score in made.score(ROWS)])) < 1e-4
    with pytest.raises(ModelError, match="the experts read layers 1, last") as caught:
        export_published(made, tmp_path / "published")
    assert not (tmp_path / "published").exists()
    assert "RewardModel.save" in str(caught.value)
    export_published(model(base, ["last"] * 3), tmp_path / "published")
    write_card(tmp_path / "model", made, metrics={}, name="model")
    assert (
        "each expert reads one layer of the backbone (layers 1, last)" in (tmp_path / "model" / "README.md").read_text()
    )


def test_contributions_and_edits_hold(base: Path) -> None:
    made = model(base)
    pair = explain_pair(made, ROWS[0], ROWS[4])
    one, other = made.score([ROWS[0], ROWS[4]])
    assert abs(pair.margin - (one.reward - other.reward)) < 1e-6
    assert abs(pair.base_difference + sum(line.difference for line in pair.lines) - pair.margin) < 1e-5
    edited = edit(made, drop=["test-helpful"])
    assert edited.layers == made.layers
    for score in edited.score(ROWS):
        assert score.contributions["test-helpful"] == 0.0
        assert abs(score.reward - score.base - sum(score.contributions.values())) < 1e-5


def test_tasks_may_read_different_layers(base: Path) -> None:
    torch.manual_seed(5)
    router = Gate(GateShape(SIZE, 2, temperature=0.01))
    parts = {"a": mixture([1, 1, 1]), "b": mixture(None, seed=3)}
    made = RewardModel(encoder(base), parts, router)
    assert made.layers == (1, "last")
    features = made.features(ROWS)
    for task, part in parts.items():
        alone = RewardModel(made.encoder, {task: part}).score(ROWS)
        found = made.score_features(features, task=task)
        assert [score.scores for score in found] == [score.scores for score in alone]
    assert [s.reward for s in made.score_features(features)] == [s.reward for s in made.score(ROWS)]


@pytest.mark.parametrize(
    ("reads", "problem"),
    [
        ([0, "last", 1], "layer 0"),
        ([-1, "last", 1], "layer -1"),
        (["first", "last", 1], "layer 'first'"),
        ([True, "last", 1], "layer True"),
        ([1, "last"], "2 layers for 3 objectives"),
        ([3, "last", 1], "layer 3, of a trunk of 2 layers"),
        ([2, "last", 1], "layer 2 is the last one"),
    ],
    ids=str,
)
def test_a_layer_that_cannot_be_is_refused(base: Path, reads: list[object], problem: str) -> None:
    with pytest.raises(ModelError) as caught:
        model(base, reads)  # type: ignore[arg-type]
    assert problem in str(caught.value)
    assert "last" in str(caught.value.fix)


def test_features_without_the_layer_and_encoders_without_layers_are_refused(base: Path) -> None:
    made = model(base)
    with pytest.raises(ModelError, match="hold layer last, not layer 1"):
        made.score_features(made.encoder.encode(ROWS))
    with pytest.raises(ModelError, match="a HashEncoder only its last"):
        RewardModel(HashEncoder(SIZE), {"all": mixture()})
    tensors, spec = made.mixture().state()
    for damaged in ("last", [1], [1, 2, {}], {"a": 1}, [1, 1, "first"]):
        with pytest.raises(ModelError):
            type(made.mixture()).from_state(tensors, {**spec, "experts": {**spec["experts"], "layers": damaged}})
