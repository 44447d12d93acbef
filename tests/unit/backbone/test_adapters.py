"""LoRA adapters on a trunk: bit-equal after a save, told apart by the fingerprint, refused where they do not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from facetrm.backbone.lora.adapters import (
    LoraSettings,
    adapter_tensors,
    add_adapter,
    merge_adapter,
    save_adapter,
)
from facetrm.backbone.lora.switching import adapter_names
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.core.errors import BackboneError
from fakes import chat, tiny_decoder, tiny_encoder

ROWS = [chat("hi", "yes"), chat("hi", "no, not at all"), chat("what is it", "x"), chat("one", "two", "three", "four")]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def adapted(folder: Path, **settings) -> TransformerEncoder:
    """Return an encoder whose adapter has learned something (at random)."""
    encoder = load_encoder(BackboneConfig(path=str(folder), **settings))
    add_adapter(encoder.model, LoraSettings(rank=4, alpha=8.0), seed=1)
    torch.manual_seed(5)
    for tensor in adapter_tensors(encoder.model).values():
        torch.nn.init.normal_(tensor, std=0.1)
    return encoder


def answers(encoder: TransformerEncoder) -> torch.Tensor:
    features = encoder.encode(ROWS)
    return torch.cat([features.prompt_ND, features.response_NAD[:, 0]])


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("base") / "llama")


def test_a_new_adapter_changes_nothing_but_the_name_and_a_trained_one_changes_what_is_read(base):
    bare = load_encoder(BackboneConfig(path=str(base)))
    before, name = answers(bare), bare.fingerprint
    add_adapter(bare.model, LoraSettings(rank=2), seed=0)
    assert torch.equal(answers(bare), before)
    assert bare.fingerprint != name
    assert [n for n, p in bare.model.named_parameters() if p.requires_grad and "lora_" not in n] == []
    assert (answers(adapted(base)) - before).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_trunk_and_adapter_are_saved_and_read_again_bit_equal(kind, tmp_path):
    folder = tiny_decoder(tmp_path / "b") if kind == "decoder" else tiny_encoder(tmp_path / "b")
    encoder = adapted(folder)
    config = encoder.save_backbone(tmp_path / "saved")
    again = load_encoder(config)
    assert torch.equal(answers(again), answers(encoder))
    assert again.fingerprint == encoder.fingerprint
    # The same adapter on the first trunk, and the bare trunk of the copy, are what they say.
    save_adapter(encoder.model, tmp_path / "adapter")
    apart = load_encoder(BackboneConfig(path=str(folder), adapter=str(tmp_path / "adapter")))
    assert torch.equal(answers(apart), answers(encoder))
    assert apart.fingerprint == encoder.fingerprint
    bare = load_encoder(BackboneConfig(path=str(tmp_path / "saved")))
    assert bare.fingerprint == load_encoder(BackboneConfig(path=str(folder))).fingerprint


def test_packs_agree_with_rows_read_alone(base):
    fast, exact = adapted(base), adapted(base, mode="exact")
    assert (answers(fast) - answers(exact)).abs().max() < 1e-5
    assert fast._engine._packs is True


def test_the_fingerprint_sees_the_scale_that_no_tensor_holds(base, tmp_path):
    encoder = adapted(base)
    save_adapter(encoder.model, tmp_path / "a")
    settings = json.loads((tmp_path / "a" / CONFIG).read_text())
    (tmp_path / "a" / CONFIG).write_text(json.dumps(settings | {"lora_alpha": 80}))
    louder = load_encoder(BackboneConfig(path=str(base), adapter=str(tmp_path / "a")))
    assert louder.fingerprint != encoder.fingerprint
    assert (answers(louder) - answers(encoder)).abs().max() > 0.01
    # What was for training only leaves the name alone.
    (tmp_path / "a" / CONFIG).write_text(json.dumps(settings | {"lora_dropout": 0.3, "lora_alpha": 8}))
    same = load_encoder(BackboneConfig(path=str(base), adapter=str(tmp_path / "a")))
    assert same.fingerprint == encoder.fingerprint
    assert torch.equal(answers(same), answers(encoder))


def test_a_merged_trunk_is_a_plain_one_that_reads_the_same(base, tmp_path):
    encoder = adapted(base)
    before, name = answers(encoder), encoder.fingerprint
    merge_adapter(encoder.model)
    assert adapter_names(encoder.model) == ()
    assert (answers(encoder) - before).abs().max() < 1e-5
    assert encoder.fingerprint != name
    config = encoder.save_backbone(tmp_path / "merged")
    assert config.adapter is None
    assert not (tmp_path / "merged" / "adapter").exists()
    again = load_encoder(config)
    assert torch.equal(answers(again), answers(encoder))
    keys = load_file(tmp_path / "merged" / "model.safetensors").keys()
    assert not [key for key in keys if "lora_" in key or "base_layer" in key]


def test_peft_reads_what_is_written_and_its_files_are_read(base, tmp_path):
    encoder = adapted(base)
    save_adapter(encoder.model, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(base), tmp_path / "ours").eval()
    ids = torch.tensor([encoder.tokenize(ROWS[0]).ids])
    with torch.no_grad():
        hidden = theirs(input_ids=ids).last_hidden_state[0, -1]
    assert (hidden - encoder.encode(ROWS[:1]).response_NAD[0, 0]).abs().max() < 1e-5
    # Trained by PEFT with a head around the trunk: the names are longer by one part.
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    wrapped.save_pretrained(tmp_path / "theirs")
    ours = load_encoder(BackboneConfig(path=str(base), adapter=str(tmp_path / "theirs")))
    with torch.no_grad():
        hidden = wrapped.base_model.model.model(input_ids=ids).last_hidden_state[0, -1]
    assert (hidden - ours.encode(ROWS[:1]).response_NAD[0, 0]).abs().max() < 1e-5


@pytest.mark.parametrize("key", ["model.layers.0.self_attn.q_proj", r"^model\.layers\.1\..*q_proj"])
def test_a_scale_of_one_layer_is_kept_whatever_stood_around_the_trunk(base, tmp_path, key):
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    settings = LoraConfig(r=2, target_modules=["q_proj"], alpha_pattern={key: 200}, init_lora_weights=False)
    wrapped = get_peft_model(model, settings).eval()
    wrapped.save_pretrained(tmp_path / "theirs")
    ours = load_encoder(BackboneConfig(path=str(base), adapter=str(tmp_path / "theirs")))
    with torch.no_grad():
        ids = torch.tensor([ours.tokenize(ROWS[0]).ids])
        hidden = wrapped.base_model.model.model(input_ids=ids).last_hidden_state[0, -1]
    assert (hidden - ours.encode(ROWS[:1]).response_NAD[0, 0]).abs().max() < 1e-4


def test_a_scale_that_fits_no_layer_is_an_error(base, tmp_path):
    save_adapter(adapted(base).model, tmp_path / "a")
    known = json.loads((tmp_path / "a" / CONFIG).read_text())
    (tmp_path / "a" / CONFIG).write_text(json.dumps(known | {"alpha_pattern": {"layers.9.q_proj": 2}}))
    with pytest.raises(BackboneError, match=r"'layers\.9\.q_proj' matches no layer"):
        load_encoder(BackboneConfig(path=str(base), adapter=str(tmp_path / "a")))


def test_a_start_that_changed_the_trunk_does_not_run_again(base, tmp_path):
    trunk = AutoModel.from_pretrained(base)
    settings = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa")
    get_peft_model(trunk, settings).save_pretrained(tmp_path / "pissa")
    encoder = load_encoder(BackboneConfig(path=str(base), adapter=str(tmp_path / "pissa")))
    again = load_encoder(encoder.save_backbone(tmp_path / "saved"))
    assert torch.equal(answers(again), answers(encoder))


def test_dora_is_refused_by_its_name(base, tmp_path):
    get_peft_model(
        AutoModel.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    ).save_pretrained(tmp_path / "dora")
    with pytest.raises(BackboneError, match="DoRA is not supported; merge the adapter"):
        load_encoder(BackboneConfig(path=str(base), adapter=str(tmp_path / "dora")))


def test_tensors_stay_float32_on_a_half_precision_trunk(base, tmp_path):
    encoder = adapted(base, dtype="bfloat16")
    assert {t.dtype for t in adapter_tensors(encoder.model).values()} == {torch.float32}
    again = load_encoder(encoder.save_backbone(tmp_path / "saved"))
    assert again.model.dtype == torch.bfloat16
    assert torch.equal(answers(again), answers(encoder))


def broken(base: Path, folder: Path, *, drop: str = "", add: str = "", poison: str = "") -> Path:
    save_adapter(adapted(base).model, folder)
    tensors = load_file(folder / WEIGHTS)
    tensors = {key: t for key, t in tensors.items() if not drop or drop not in key}
    if add:
        tensors[add] = torch.zeros(2, 2)
    if poison:
        tensors[next(k for k in tensors if poison in k)][0, 0] = float("nan")
    save_file(tensors, folder / WEIGHTS)
    return folder


@pytest.mark.parametrize(
    ("damage", "fragments"),
    [
        ({"drop": "layers.1.self_attn.q_proj.lora_B"}, ("missing", "layers.1.self_attn.q_proj.lora_B.weight")),
        ({"add": "base_model.model.score.weight"}, ("not in the trunk", "score.weight")),
        ({"poison": "layers.0.mlp.up_proj.lora_A"}, ("not finite", "layers.0.mlp.up_proj.lora_A.weight")),
    ],
    ids=["missing", "a head inside", "not finite"],
)
def test_a_damaged_adapter_is_an_error_that_names_the_tensor(base, tmp_path, damage, fragments):
    folder = broken(base, tmp_path / "a", **damage)
    with pytest.raises(BackboneError) as caught:
        load_encoder(BackboneConfig(path=str(base), adapter=str(folder)))
    for fragment in (str(folder), *fragments):
        assert fragment in str(caught.value)


def test_an_adapter_of_another_trunk_is_an_error_that_says_so(base, tmp_path):
    other = tiny_decoder(tmp_path / "other", hidden_size=64)
    save_adapter(adapted(other).model, tmp_path / "a")
    with pytest.raises(BackboneError, match=r"shape \[4, 128\].*needs \[4, 64\].*trained on .*other"):
        load_encoder(BackboneConfig(path=str(base), adapter=str(tmp_path / "a")))
    bert = tiny_encoder(tmp_path / "bert")
    with pytest.raises(BackboneError, match="does not fit a BertModel"):
        load_encoder(BackboneConfig(path=str(bert), adapter=str(tmp_path / "a")))


def test_what_is_no_adapter_is_an_error(base, tmp_path):
    def refused(folder: Path, text: str) -> None:
        with pytest.raises(BackboneError, match=text):
            load_encoder(BackboneConfig(path=str(base), adapter=str(folder)))

    refused(tmp_path / "none", "no such adapter folder")
    refused(base, "no file 'adapter_config.json'")
    save_adapter(adapted(base).model, tmp_path / "a")
    (tmp_path / "a" / WEIGHTS).write_bytes(b"x" * 20)
    refused(tmp_path / "a", "cannot be read")
    (tmp_path / "a" / WEIGHTS).unlink()
    refused(tmp_path / "a", f"no file '{WEIGHTS}'")
    (tmp_path / "a" / CONFIG).write_text('{"peft_type": "IA3"}')
    refused(tmp_path / "a", "kind 'IA3'")
    trunk = load_encoder(BackboneConfig(path=str(base))).model
    with pytest.raises(BackboneError, match=r"lora\.targets.*no_such_layer"):
        add_adapter(trunk, LoraSettings(targets=("no_such_layer",)), seed=0)
    add_adapter(trunk, LoraSettings(), seed=0)
    with pytest.raises(BackboneError, match="already has an adapter 'default'"):
        add_adapter(trunk, LoraSettings(), seed=0)
