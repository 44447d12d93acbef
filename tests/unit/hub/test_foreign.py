"""Reward models of others in every dress: read where that is unambiguous, with the model's own scores; else named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_classifier import classifier, templated
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedTokenizerBase,
)

from facetrm import load_model
from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.core.errors import FacetrmError, ModelError
from facetrm.data.records import Conversation
from fakes import tiny_encoder
from published_samples import ROWS, change_config, change_tensors


def rewards(folder: Path) -> list[float]:
    return [score.reward for score in load_model(folder, device="cpu").score(ROWS)]


def own_scores(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, rows: list[Conversation]) -> list[float]:
    with torch.no_grad():
        return [float(model(torch.tensor([templated(tokenizer, row)])).logits[0, 0]) for row in rows]


def renamed(folder: Path, head: str, *, architecture: str, bias: float | None = None) -> list[float]:
    """Give the head of a classifier another name; return the scores of the trunk's last token by that head."""
    with quiet_transformers():
        theirs = LlamaForSequenceClassification.from_pretrained(folder).eval()
        trunk = LlamaModel.from_pretrained(folder).eval()
    weight = theirs.score.weight.detach().clone()
    named = {f"{head}.weight".replace(".", "__"): weight}
    if bias is not None:
        named[f"{head}.bias".replace(".", "__")] = torch.tensor([bias])
    change_tensors(folder, drop=[] if head == "score" else ["score.weight"], **named)
    change_config(folder, architectures=[architecture])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        last = [trunk(torch.tensor([templated(tokenizer, row)]))[0][0, -1] for row in ROWS]
    return [float(weight[0] @ vector) + (bias or 0.0) for vector in last]


@pytest.mark.parametrize("bias", [None, 0.7])
@pytest.mark.parametrize("head", ["value_head", "v_head", "classifier", "reward_head", "v_head.summary"])
def test_one_linear_head_under_another_name_is_read(tmp_path: Path, head: str, bias: float | None) -> None:
    folder = classifier(tmp_path / "rm")
    wanted = renamed(folder, head, architecture="LlamaForSequenceClassification", bias=bias)
    assert rewards(folder) == pytest.approx(wanted, abs=1e-5)
    assert max(wanted) - min(wanted) > 0.05
    assert f"'{head}'" in load_model(folder, device="cpu").provenance["layout"]


def test_a_language_model_with_a_score_head_scores_as_its_own_class(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "rm")
    wanted = own_scores(
        LlamaForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), ROWS
    )
    change_config(folder, architectures=["LlamaForCausalLM"])
    assert rewards(folder) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("head", ["score", "v_head"])
def test_a_class_for_reward_models_with_one_head_is_read(tmp_path: Path, head: str) -> None:
    folder = classifier(tmp_path / "rm")
    wanted = renamed(folder, head, architecture="LlamaForRewardModel")
    assert rewards(folder) == pytest.approx(wanted, abs=1e-5)
    change_config(folder, auto_map={"AutoModel": "modeling_rm.LlamaForRewardModel"})
    with pytest.raises(ModelError, match="Python code in its folder"):
        load_model(folder)
    change_config(folder, auto_map=None, normalize_reward=True)
    with pytest.raises(ModelError, match="'normalize_reward'"):
        load_model(folder)


def adapted(tmp_path: Path, *, task: str = "SEQ_CLS", relative: bool = False) -> Path:
    """Write a base without a trained head, and a LoRA with a head of its own beside it."""
    base = classifier(tmp_path / "base")
    with quiet_transformers():
        model = get_peft_model(
            LlamaForSequenceClassification.from_pretrained(base, num_labels=1),
            LoraConfig(task_type=task, r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["score"]),
        )
    torch.manual_seed(5)
    for name, tensor in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(tensor, std=0.3)
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    if relative:
        edited(folder, base_model_name_or_path="../base")
    return folder


def edited(folder: Path, **entries: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **entries}), encoding="utf-8")


@pytest.mark.parametrize("relative", [False, True])
def test_an_adapter_with_a_saved_head_scores_as_peft_does(tmp_path: Path, relative: bool) -> None:
    folder = adapted(tmp_path, relative=relative)
    base = LlamaForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    before = own_scores(base.eval(), AutoTokenizer.from_pretrained(tmp_path / "base"), ROWS)
    theirs = PeftModel.from_pretrained(base, folder).eval()
    wanted = own_scores(theirs, AutoTokenizer.from_pretrained(folder), ROWS)
    assert rewards(folder) == pytest.approx(wanted, abs=1e-5)
    assert max(abs(a - b) for a, b in zip(wanted, before, strict=True)) > 0.05, "adapter and head count"
    loaded = load_model(folder, device="cpu")
    loaded.save(tmp_path / "native", backbone="copy")
    shutil.rmtree(folder)
    assert rewards(tmp_path / "native") == pytest.approx(wanted, abs=1e-5)


def test_an_adapter_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = adapted(tmp_path)
    for entries, problem in (
        (
            {"base_model_name_or_path": "owner/name"},
            "'owner/name' of this PEFT adapter is not a folder on this machine",
        ),
        ({"base_model_name_or_path": None}, "None of this PEFT adapter is not a folder"),
        ({"base_model_name_or_path": ["/"]}, "is not a folder"),
        ({"peft_type": "IA3"}, "'IA3', made for 'SEQ_CLS'"),
        ({"task_type": "CAUSAL_LM"}, "is not a reward model"),
    ):
        old = (folder / "adapter_config.json").read_text(encoding="utf-8")
        edited(folder, **entries)
        with pytest.raises(ModelError, match=problem) as caught:
            load_model(folder)
        assert caught.value.fix
        (folder / "adapter_config.json").write_text(old, encoding="utf-8")
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"][0]["content"] = "<|other|>"
    tokenizer["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ModelError, match="the adapter's tokenizer differs from that of its base"):
        load_model(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        load_model(folder)


def test_an_adapter_without_a_head_is_named(tmp_path: Path) -> None:
    folder = adapted(tmp_path)
    path = folder / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "lora_" in k}, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"'score\.weight' is missing"):
        load_model(folder)


def two_layers(folder: Path) -> None:
    change_tensors(
        folder, drop=["score.weight"], score__0__weight=torch.ones(32, 32), score__2__weight=torch.ones(1, 32)
    )


def critic(folder: Path) -> None:
    change_tensors(folder, drop=["score.weight"], v_head__weight=torch.ones(1, 32), lm_head__weight=torch.ones(260, 32))
    change_config(folder, architectures=["LlamaForCausalLM"])


def encoder_classifier(folder: Path) -> None:
    shutil.rmtree(folder)
    tiny_encoder(folder)
    config = BertConfig.from_pretrained(folder, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}", encoding="utf-8")


def pooled(folder: Path) -> None:
    change_tensors(
        folder, drop=["score.weight"], pooler__dense__weight=torch.ones(32, 32), classifier__weight=torch.ones(1, 32)
    )


def quantised(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "rm-Q4_K_M.gguf").write_bytes(b"GGUF" + bytes(64))


STRANGE = {
    "two layers": (two_layers, r"the head has 2 layers \(score\.0\.weight, score\.2\.weight\)"),
    "tokens": (lambda f: change_config(f, architectures=["LlamaForTokenClassification"]), "scores every token"),
    "a critic": (critic, r"a language model and 'v_head\.weight'"),
    "pooled": (pooled, r"'pooler\.dense\.weight' belongs to a classifier over a pooled token"),
    "an encoder": (encoder_classifier, "not a decoder"),
    "GGUF": (quantised, r"'rm-Q4_K_M\.gguf' is a GGUF file"),
    "another width": (lambda f: change_tensors(f, score__weight=torch.ones(1, 31)), r"\[1, 31\]"),
    "two heads": (lambda f: change_tensors(f, v_head__weight=torch.ones(1, 32)), r"'v_head\.weight' is unexpected"),
}


@pytest.mark.parametrize("name", list(STRANGE))
def test_what_cannot_be_read_is_named_as_what_it_is(tmp_path: Path, name: str) -> None:
    spoil, problem = STRANGE[name]
    folder = classifier(tmp_path / "rm")
    spoil(folder)
    with pytest.raises(FacetrmError, match=problem) as caught:
        load_model(folder, device="cpu")
    assert str(folder) in str(caught.value)
    assert caught.value.fix
