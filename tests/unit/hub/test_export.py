"""Our models in ArmoRM's layout: the same scores through Transformers alone, and back again."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from adapter_models import weighed
from facetrm import export_published, load_model
from facetrm.backbone.lora.adapters import LoraSettings, add_adapter
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.core.errors import BackboneError, ModelError
from facetrm.model.aggregate import WeightEdit
from facetrm.model.gate import GateShape
from facetrm.model.reward_model import RewardModel
from fakes import STYLES, tiny_decoder, tiny_encoder, tiny_tokenizer
from gated_models import SIZE, encoder, mixture, model
from published_samples import ROWS
from reward_models import routed

MESSAGES = [[m.model_dump(include={"role", "content"}) for m in row] for row in ROWS]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    return tiny_decoder(folder)


def through_transformers(folder: Path, **kwargs: Any) -> Any:
    loaded, report = AutoModelForSequenceClassification.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, **kwargs
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return loaded.eval()


EDITS = {
    "none": None,
    "drop": WeightEdit(drop=(0,)),
    "scale": WeightEdit(scale=((1, 2.5), (3, 0.1))),
    "pin": WeightEdit(pin=((0, 0.3),)),
    "pin and drop": WeightEdit(pin=((1, 0.6),), drop=(3,)),
    "pin all": WeightEdit(pin=((0, 0.3), (3, 0.7))),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_the_export_scores_as_the_model(backbone: Path, tmp_path: Path, edit: WeightEdit | None) -> None:
    ours = model(backbone, edit=edit)
    want = torch.tensor([s.reward for s in ours.score(ROWS)])
    folder = export_published(ours, tmp_path / "export")
    theirs, tokenizer = through_transformers(folder), AutoTokenizer.from_pretrained(folder)
    texts = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    with torch.no_grad():
        single = torch.cat([theirs(tokenizer.apply_chat_template(m, return_tensors="pt")).score for m in MESSAGES])
        assert (single - want).abs().max() < 1e-5
        for side in ("left", "right"):
            batch = tokenizer(texts, padding=True, padding_side=side, add_special_tokens=False, return_tensors="pt")
            output = theirs(**batch)
            assert (output.score - want).abs().max() < 1e-5
            assert torch.equal(output.logits[:, 0], output.score)
            assert (theirs(batch["input_ids"]).score - want).abs().max() < 1e-5, "padding is found without a mask"
    back = load_model(folder)
    assert torch.tensor([s.reward for s in back.score(ROWS)]) == pytest.approx(want, abs=1e-5)
    assert back.mixture().names == ours.mixture().names
    assert back.mixture().beta == 3.0
    assert want.std() > 0.02


def test_edits_change_the_export(backbone: Path, tmp_path: Path) -> None:
    rewards = {name: model(backbone, edit=edit).score(ROWS[:1])[0].reward for name, edit in EDITS.items()}
    assert len({round(reward, 4) for reward in rewards.values()}) == len(EDITS), "each edit is felt, so each is tested"


@pytest.mark.parametrize(
    "shape",
    [GateShape(SIZE, 5, hidden=0, n_hidden=0), GateShape(SIZE, 5, hidden=4, n_hidden=0), GateShape(SIZE, 5, hidden=4)],
    ids=["unconditional", "linear", "one layer"],
)
def test_every_shape_of_a_gate_is_exported(backbone: Path, tmp_path: Path, shape: GateShape) -> None:
    ours = model(backbone, shape=shape)
    folder = export_published(ours, tmp_path / "export")
    want = torch.tensor([s.reward for s in ours.score(ROWS)])
    tokenizer, theirs = AutoTokenizer.from_pretrained(folder), through_transformers(folder)
    with torch.no_grad():
        found = torch.cat([theirs(tokenizer.apply_chat_template(m, return_tensors="pt")).score for m in MESSAGES])
    assert (found - want).abs().max() < 1e-5


def test_the_keys_and_entries_are_the_published_ones(backbone: Path, tmp_path: Path) -> None:
    folder = export_published(model(backbone), tmp_path / "export")
    tensors = load_file(folder / "model.safetensors")
    heads = {name: tuple(t.shape) for name, t in tensors.items() if not name.startswith("model.")}
    assert heads == {
        "regression_layer.weight": (5, SIZE),
        "reward_transform_matrix": (5, 5),
        "gating.logit_scale": (1,),
        "gating.layers.0.weight": (8, SIZE),
        "gating.layers.0.bias": (8,),
        "gating.layers.1.weight": (8, 8),
        "gating.layers.1.bias": (8,),
        "gating.layers.2.weight": (5, 8),
        "gating.layers.2.bias": (5,),
    }
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForRewardModelWithGating"]
    assert config["auto_map"] == {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"}
    assert (config["num_objectives"], config["gating_n_hidden"], config["gating_hidden_dim"]) == (5, 2, 8)
    assert config["model_type"] == "llama"
    assert config["pad_token_id"] != config["eos_token_id"]


EXAMPLE = """
import sys
sys.modules["facetrm"] = None   # as on a machine that does not have it
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
device, path = "cpu", sys.argv[1]
model = AutoModelForSequenceClassification.from_pretrained(
    path, device_map=device, trust_remote_code=True, torch_dtype=torch.bfloat16
)
tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True)
messages = [
    {"role": "user", "content": "What rhymes with stone?"}, {"role": "assistant", "content": "Bone, phone and alone."}
]
input_ids = tokenizer.apply_chat_template(messages, return_tensors="pt").to(device)
with torch.no_grad():
    output = model(input_ids)
    multi_obj_rewards = output.rewards.cpu().float()
    gating_output = output.gating_output.cpu().float()
    preference_score = output.score.cpu().float()
obj_transform = model.reward_transform_matrix.data.cpu().float()
multi_obj_coeffs = gating_output @ obj_transform.T
assert torch.allclose(torch.sum(multi_obj_rewards * multi_obj_coeffs, dim=1), preference_score, atol=1e-3)
top = torch.argsort(torch.abs(multi_obj_coeffs), dim=1, descending=True)[:, :3]
coefficients = torch.gather(multi_obj_coeffs, dim=1, index=top)
assert output.hidden_state.shape == output.prompt_embedding.shape
for k in range(3):
    print(top[0, k].item(), round(coefficients[0, k].item(), 4))
"""


def test_the_usual_example_runs_where_facetrm_is_not(backbone: Path, tmp_path: Path) -> None:
    ours = model(backbone)
    folder = export_published(ours, tmp_path / "export")
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE, str(folder)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    named = [line.split() for line in done.stdout.strip().splitlines()]
    assert len(named) == 3
    assert len({index for index, _ in named}) == 3


@pytest.mark.parametrize("style", STYLES)
def test_every_template_is_exported_with_its_ids(tmp_path: Path, style: str) -> None:
    ours = RewardModel(encoder(tmp_path / style, style=style), {"all": mixture()})
    folder = export_published(ours, tmp_path / "export")
    tokenizer, theirs = AutoTokenizer.from_pretrained(folder), through_transformers(folder)
    with torch.no_grad():
        found = [float(theirs(tokenizer.apply_chat_template(m, return_tensors="pt")).score) for m in MESSAGES]
    assert found == pytest.approx([s.reward for s in ours.score(ROWS)], abs=1e-5)


SHAPE = {"hidden_size": SIZE, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TRUNKS = {
    "Qwen3": tf.Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=8, initializer_range=0.2),
    "Gemma2": tf.Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=8, initializer_range=0.2),
    "Gemma3Text": tf.Gemma3TextConfig(**SHAPE, num_key_value_heads=2, head_dim=8, initializer_range=0.2),
    "Mistral": tf.MistralConfig(**SHAPE, num_key_value_heads=2, initializer_range=0.2),
    "Phi": tf.PhiConfig(**SHAPE, initializer_range=0.2),
    "GPTNeoX": tf.GPTNeoXConfig(**SHAPE, initializer_range=0.2),
}


@pytest.mark.parametrize("name", TRUNKS)
def test_every_decoder_is_exported_under_its_own_names(tmp_path: Path, name: str) -> None:
    tokenizer = tiny_tokenizer("llama3")
    config = copy.deepcopy(TRUNKS[name])
    config.vocab_size, config.max_position_embeddings = len(tokenizer), 512
    torch.manual_seed(0)
    tf.AutoModel.from_config(config).save_pretrained(tmp_path / "b")
    tokenizer.save_pretrained(tmp_path / "b")
    ours = model(tmp_path / "b")
    folder = export_published(ours, tmp_path / "export")
    want = [s.reward for s in ours.score(ROWS)]
    assert [s.reward for s in load_model(folder).score(ROWS)] == pytest.approx(want, abs=1e-5)
    theirs, read = through_transformers(folder), AutoTokenizer.from_pretrained(folder)
    assert type(theirs).__name__ == f"{name}ForRewardModelWithGating"
    with torch.no_grad():
        found = [float(theirs(read.apply_chat_template(m, return_tensors="pt")).score) for m in MESSAGES]
    assert found == pytest.approx(want, abs=1e-5)
    assert max(want) - min(want) > 0.01


def test_an_adapter_is_merged_into_the_export(tmp_path: Path) -> None:
    made = encoder(tmp_path / "b")
    add_adapter(made.model, LoraSettings(rank=4), seed=0)
    made.add_adapter("math", LoraSettings(rank=4))  # is at work where it is asked for, so not in a plain model
    for name, parameter in made.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    ours = RewardModel(made, {"all": mixture()})
    want = [s.reward for s in ours.score(ROWS)]
    folder = export_published(ours, tmp_path / "export")
    assert [s.reward for s in load_model(folder).score(ROWS)] == pytest.approx(want, abs=1e-5)
    assert [s.reward for s in ours.score(ROWS)] == want, "the model itself keeps its adapter"
    bare = [s.reward for s in model(tmp_path / "b").score(ROWS)]
    assert max(abs(a - b) for a, b in zip(bare, want, strict=True)) > 1e-3


def test_a_response_without_its_opening_is_an_error(backbone: Path, tmp_path: Path) -> None:
    folder = export_published(model(backbone), tmp_path / "export")
    theirs = through_transformers(folder)
    with pytest.raises(ValueError, match=r"conversation 0 does not contain the tokens .* that open the response"):
        theirs(torch.tensor([[1, 2, 3]]))


def test_what_does_not_fit_the_layout_is_refused(backbone: Path, tmp_path: Path) -> None:
    ours = model(backbone)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(BackboneError, match="already exists"):
        export_published(ours, tmp_path / "full")
    with pytest.raises(ModelError, match="the backbone is not a decoder \\(HashEncoder\\)"):
        export_published(routed(), tmp_path / "x")
    bert = load_encoder(BackboneConfig(path=str(tiny_encoder(tmp_path / "bert")), device="cpu"))
    with pytest.raises(ModelError, match="the backbone is not a decoder \\(encoder\\)"):
        export_published(RewardModel(bert, {"all": mixture()}), tmp_path / "y")


def test_experts_with_adapters_do_not_fit_one_vector_a_conversation(backbone: Path, tmp_path: Path) -> None:
    ours = model(backbone)
    ours.mixtures["all"] = weighed().mixture()
    with pytest.raises(ModelError, match="one gated sum on one vector, but the experts use 3 adapters"):
        export_published(ours, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_template_whose_prompt_has_no_end_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = tiny_decoder(tmp_path / "b")
    odd = "{% for m in messages %}{{ m.role[:1] }}{{ m.content }}{% if not loop.last %}|{% endif %}{% endfor %}"
    (folder / "odd.jinja").write_text(odd, encoding="utf-8")
    made = load_encoder(BackboneConfig(path=str(folder), device="cpu", template=str(folder / "odd.jinja")))
    with pytest.raises(BackboneError, match=r"prompt|between"):
        export_published(RewardModel(made, {"all": mixture()}), tmp_path / "export")
