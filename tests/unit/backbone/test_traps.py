"""Traps of Transformers that say nothing: each is shown to be there, and the engine to go round it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from facetrm.backbone.passes.engine import DecoderEngine
from facetrm.backbone.text.chat import Tokenized
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from fakes import tiny_decoder
from tiny_decoders import MODELS, ids, made

A, B, ANSWER, OTHER = ids(9, 1), ids(14, 2), ids(5, 3), ids(11, 4)
INPUTS = frozenset({"position_ids", "use_cache", "input_ids", "attention_mask"})
BACKENDS = ["sdpa", "eager"]


def row(prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tokenized:
    return Tokenized(prompt + answer, len(prompt) - 1, len(prompt), len(answer))


ROWS = [row(A, ANSWER), row(B, OTHER), row(A, OTHER), row(A, ANSWER[:2])]


def states(model: tf.PreTrainedModel, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).last_hidden_state[0]


def engine_of(model: tf.PreTrainedModel, *, packs: bool | None = None) -> DecoderEngine:
    engine = DecoderEngine(model, mode="fast", token_budget=512, pad=0, inputs=INPUTS)
    engine._packs = packs
    return engine


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("trap", [{"use_cache": True}, {"use_cache": False, "attention_mask": True}])
def test_packed_documents_see_each_other_in_plain_transformers_but_not_in_the_engine(backend, trap):
    model = made("llama")
    model.set_attn_implementation(backend)
    one, two = ROWS[:2]
    packed = {
        "input_ids": torch.tensor([one.ids + two.ids]),
        "position_ids": torch.tensor([[*range(len(one.ids)), *range(len(two.ids))]]),
    }
    alone_D = states(model, input_ids=torch.tensor([two.ids]), use_cache=False)[-1]
    apart_D = states(model, **packed, use_cache=False)[-1]
    assert torch.allclose(apart_D, alone_D, atol=1e-4), "restarting positions keep documents apart"
    settings = {**trap, **({"attention_mask": torch.ones_like(packed["input_ids"])} if len(trap) == 2 else {})}
    assert (states(model, **packed, **settings)[-1] - alone_D).abs().max() > 0.01, "the trap is real"
    response_ND = engine_of(model).read(ROWS, lambda *_: None)[1]
    assert torch.allclose(response_ND[1], alone_D, atol=1e-4)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_no_pass_keeps_a_cache_and_no_pack_has_a_mask(monkeypatch, packs, mode):
    model = made("llama")
    engine = engine_of(model, packs=packs)
    engine.mode = mode
    seen: list[dict[str, Any]] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: seen.append(inputs) or forward(**inputs))
    engine.read(ROWS, lambda *_: None)
    assert seen
    for inputs in seen:
        assert inputs["use_cache"] is False
        assert "position_ids" in inputs
        assert ("attention_mask" in inputs) == (mode == "fast" and not packs)


@pytest.mark.parametrize("name", list(MODELS))
def test_padding_on_either_side_agrees_with_rows_alone(name):
    model = made(name)
    width = max(len(one.ids) for one in ROWS)
    ids_NL, mask_NL = torch.zeros(2, len(ROWS), width, dtype=torch.int64)
    for n, one in enumerate(ROWS):
        ids_NL[n, width - len(one.ids) :], mask_NL[n, width - len(one.ids) :] = torch.tensor(one.ids), 1
    places_NL = (mask_NL.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        left = model(input_ids=ids_NL, attention_mask=mask_NL, position_ids=places_NL, use_cache=False)
    right_ND = engine_of(model, packs=False).read(ROWS, lambda *_: None)[1]
    packed_ND = engine_of(model, packs=True).read(ROWS, lambda *_: None)[1]
    for n, one in enumerate(ROWS):
        alone_D = states(model, input_ids=torch.tensor([one.ids]), use_cache=False)[-1]
        for found_D in (right_ND[n], packed_ND[n], left.last_hidden_state[n, -1]):
            assert torch.allclose(found_D, alone_D, atol=1e-5)


def test_a_padding_token_inside_a_text_is_read_as_text():
    model = made("llama")
    assert model.config.pad_token_id == 0
    rows = [row(A, (5, 0, 0)), row(B, (*OTHER, 0))]
    for packs in (True, False):
        response_ND = engine_of(model, packs=packs).read(rows, lambda *_: None)[1]
        for n, one in enumerate(rows):
            alone_D = states(model, input_ids=torch.tensor([one.ids]), use_cache=False)[-1]
            assert torch.allclose(response_ND[n], alone_D, atol=1e-5)
            shorter_D = states(model, input_ids=torch.tensor([one.ids[:-1]]), use_cache=False)[-1]
            assert (response_ND[n] - shorter_D).abs().max() > 0.01, "the last token is the one that is read"


def test_training_mode_and_its_attention_are_given_back_after_an_error():
    model = made("llama")
    before = model.config._attn_implementation
    engine = engine_of(model, packs=True)
    with pytest.raises(IndexError):
        engine.read([row(A, (10**6,))], lambda *_: None)
    assert model.config._attn_implementation == before
    assert torch.isfinite(states(model, input_ids=torch.tensor([A]), use_cache=False)).all()


def test_a_reward_model_with_code_of_its_own_gives_its_trunk_and_no_random_head(tmp_path):
    # Transformers' own classes load such a folder as a plain classifier with a random head, and only log it.
    folder = tiny_decoder(tmp_path / "armorm")
    tensors = load_file(folder / "model.safetensors")
    gate = {"gating.layers.0.weight": torch.ones(4, 32), "regression_layer.weight": torch.ones(19, 32)}
    save_file({**tensors, **gate}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    own = {"architectures": ["LlamaForRewardModelWithGating"]}
    own["auto_map"] = {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    silent = tf.AutoModelForSequenceClassification.from_pretrained(folder)
    assert "score.weight" in silent.state_dict(), "the trap is real"
    encoder = load_encoder(BackboneConfig(path=str(folder), device="cpu"))
    assert type(encoder.model) is tf.LlamaModel
    plain = load_encoder(BackboneConfig(path=str(tiny_decoder(tmp_path / "plain")), device="cpu"))
    assert encoder.fingerprint == plain.fingerprint
    assert not [name for name in encoder.model.state_dict() if "score" in name or "gating" in name]
