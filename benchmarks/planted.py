"""Reward models with one planted fault each, for the doctor: tiny random classifiers that are otherwise healthy.

Every fault changes one thing in the same healthy folder: a Llama of two layers with a scalar head, a template that
writes BOS and end of turn once, and a separate padding token. ``FAULTS`` names the code that must be found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2ForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from facetrm.backbone.checkpoint import quiet_transformers
from facetrm.backbone.tiny import word_tokenizer
from facetrm.backbone.transformer import BackboneConfig, load_encoder
from facetrm.data.objectives import Objective
from facetrm.data.world import World, vocabulary
from facetrm.model.aggregate import GatedSum
from facetrm.model.experts import LinearExperts
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel

SIZE, POSITIONS = 32, 512
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Fault:
    """One planted fault: the ``code`` to be found, what is ``planted``, and the change to a healthy folder."""

    code: str
    planted: str
    plant: Callable[[Path], None]


def write_pairs(path: Path, *, pairs: int = 6) -> Path:
    """Write preference rows of the generated world to ``path`` and return it."""
    rows = [
        {
            "id": row.id,
            "prompt": [message.model_dump() for message in row.prompt],
            "chosen": [row.responses[0].model_dump()],
            "rejected": [row.responses[-1].model_dump()],
        }
        for row in World().preferences(pairs, part="test")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_classifier(folder: Path) -> Path:
    """Write a healthy scalar reward model to ``folder`` and return it."""
    tokenizer = word_tokenizer(vocabulary(), max_tokens=POSITIONS)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=SIZE,
        intermediate_size=2 * SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        initializer_range=0.2,
        **_head_settings(tokenizer),
    )
    return _save(LlamaForSequenceClassification, config, tokenizer, folder)


def write_absolute(folder: Path) -> Path:
    """Write a scalar reward model with absolute positions (GPT-2) to ``folder`` and return it."""
    tokenizer = word_tokenizer(vocabulary(), max_tokens=POSITIONS)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=SIZE,
        n_layer=2,
        n_head=4,
        n_positions=POSITIONS,
        initializer_range=0.2,
        **_head_settings(tokenizer),
    )
    return _save(GPT2ForSequenceClassification, config, tokenizer, folder)


def write_native(folder: Path, backbone: Path) -> Path:
    """Write a healthy model of ours, gated over three objectives, on the trunk in ``backbone``; return ``folder``."""
    encoder = load_encoder(BackboneConfig(path=str(backbone), device="cpu", dtype="float32", kind="decoder"))
    random = torch.Generator().manual_seed(0)
    objectives = [Objective(name=f"planted-{name}", low=0, high=4) for name in ("helpful", "honest", "brief")]
    experts = LinearExperts(objectives, torch.randn(3, SIZE, generator=random), torch.zeros(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gate = Gate(GateShape(SIZE, 3))
    model = RewardModel(encoder, {"all": Mixture(experts, GatedSum(gate, torch.eye(3)))})
    model.save(folder, backbone="copy")
    return folder


def write_planted(fault: Fault, folder: Path, healthy: Path) -> Path:
    """Copy the ``healthy`` folder to ``folder``, plant the ``fault`` there, and return it."""
    shutil.copytree(healthy, folder)
    fault.plant(folder)
    return folder


def _head_settings(tokenizer: Any) -> dict[str, Any]:
    return {
        "num_labels": 1,
        "problem_type": "regression",
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _save(kind: Any, config: Any, tokenizer: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        kind(config).eval().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def _json(folder: Path, name: str, **changes: Any) -> None:
    """Change keys of a JSON file; None removes a key."""
    path = folder / name
    value = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}), encoding="utf-8")


def _weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _template(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def _config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: _json(folder, "config.json", **changes)


def _head(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return lambda folder: _weights(folder, lambda t: t.update({"score.weight": change(t["score.weight"])}))


def _replace(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: _template(folder, lambda text: text.replace(old, new))


def _gated(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["score.weight"]
        tensors["regression_layer.weight"] = torch.randn(3, SIZE)
        tensors["reward_transform_matrix"] = torch.eye(3)
        tensors |= {"gating.logit_scale": torch.ones(1), "gating.layers.0.weight": torch.randn(3, SIZE)}

    _weights(folder, change)


def _end_id(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"])


def _pad_is_end(folder: Path) -> None:
    _json(folder, "config.json", pad_token_id=_end_id(folder))
    _json(folder, "tokenizer_config.json", pad_token="<end>")


def _no_pad(folder: Path) -> None:
    _json(folder, "config.json", pad_token_id=None)
    _json(folder, "tokenizer_config.json", pad_token=None)


def _adds_bos(folder: Path) -> None:
    bos = json.loads((folder / "config.json").read_text(encoding="utf-8"))["bos_token_id"]
    single = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    named = {"<bos>": {"id": "<bos>", "ids": [bos], "tokens": ["<bos>"]}}
    processor = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": named}
    processor["pair"] = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    _json(folder, "tokenizer.json", post_processor=processor)


def _too_few_rows(folder: Path) -> None:
    name = "model.embed_tokens.weight"
    _weights(folder, lambda t: t.update({name: t[name][:-5].clone()}))
    _json(folder, "config.json", vocab_size=len(load_file(folder / WEIGHTS)[name]))


def _lora(folder: Path) -> None:
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        base = LlamaForSequenceClassification.from_pretrained(folder)
        settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=[], base_model_name_or_path=str(folder))
        adapter = get_peft_model(base, settings)
    for file in (WEIGHTS, "config.json"):
        (folder / file).unlink()
    adapter.save_pretrained(folder)


def _crowd(folder: Path) -> None:
    """Let the end token dominate, so that all conversations have nearly the same last state and reward."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.embed_tokens.weight"][_end_id(folder), 0] = 100.0
        tensors["score.weight"][0, 0] = 1.0

    _weights(folder, change)


def _in_place(folder: Path, write: Callable[[Path], Path]) -> None:
    shutil.rmtree(folder)
    write(folder)


FAULTS: dict[str, Fault] = {
    fault.planted: fault
    for fault in (
        Fault("head-missing", "the head is not in the weights", lambda f: _weights(f, lambda t: t.pop("score.weight"))),
        Fault("head-untrained", "the head is all zero", _head(torch.zeros_like)),
        Fault("head-not-finite", "the head holds a NaN", _head(lambda w: w * torch.tensor(float("nan")))),
        Fault("head-shape", "the head has two rows, the configuration one", _head(lambda w: w.repeat(2, 1))),
        Fault("gated-head", "gated weights named a plain classifier", _gated),
        Fault("adapter-head", "a LoRA adapter saved without its head", _lora),
        Fault("num-labels", "two labels", _config(id2label={"0": "A", "1": "B"}, label2id={"A": 0, "B": 1})),
        Fault("activation", "problem_type left empty", _config(problem_type=None)),
        Fault("pad-is-eos", "the end of turn is the padding token", _pad_is_end),
        Fault("pad-missing", "no padding token", _no_pad),
        Fault("pad-mismatch", "the configuration names another padding token", _config(pad_token_id=3)),
        Fault("vocabulary", "five tokens without a row in the embedding", _too_few_rows),
        Fault(
            "max-length",
            "the tokenizer lets through more than the positions",
            lambda f: _json(f, "tokenizer_config.json", model_max_length=4 * POSITIONS),
        ),
        Fault("double-bos", "template and tokenizer both write BOS", _adds_bos),
        Fault("no-bos", "neither template nor tokenizer writes BOS", _replace("{{ bos_token }}", "")),
        Fault("no-end-of-turn", "the template writes no end of turn", _replace(" <end>", "")),
        Fault(
            "template-date",
            "the template writes today's date",
            _replace("{{ bos_token }}", "{{ bos_token }} {{ strftime_now('%d %b %Y') }}"),
        ),
        Fault(
            "template-think",
            "the template opens a thinking block",
            _replace(" <assistant>{% endif %}", " <assistant> <think>{% endif %}"),
        ),
        Fault(
            "template-rewrites",
            "the template drops the text of earlier answers",
            _replace("{{ message.content }}", "{{ message.content if loop.last or message.role == 'user' else '' }}"),
        ),
        Fault(
            "template-drops",
            "the template is made for content in parts",
            _replace("{{ message.content }}", "{% for part in message.content %}{{ part.text }}{% endfor %}"),
        ),
        Fault("template-missing", "no chat template", lambda f: (f / "chat_template.jinja").unlink()),
        Fault(
            "weights-not-finite",
            "a NaN in the trunk",
            lambda f: _weights(f, lambda t: t["model.layers.1.mlp.up_proj.weight"].fill_(float("nan"))),
        ),
        Fault(
            "weights-missing",
            "a tensor of the trunk is missing",
            lambda f: _weights(f, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")),
        ),
        Fault("padding-side", "absolute positions", lambda f: _in_place(f, write_absolute)),
        Fault("bf16-crowded", "rewards crowded far from zero", _crowd),
    )
}
