"""Random checkpoints in the published layouts, written by hand, and their scores by an independent float64 formula."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaModel

from facetrm.data.records import Conversation
from fakes import chat, tiny_decoder

HIDDEN, WIDTH, LAYERS, QUANTILES = 32, 24, 3, 5
ROWS = [
    chat("hello there", "general kenobi"),
    chat("what is two and two?", "four", "sure?", "yes, quite sure of it"),
    chat("hello there", "hm"),
    chat("x", "a longer answer than all of the others, so that the batch is padded"),
]


def write_checkpoint(folder: Path, *, objectives: int = 19, quantile: bool = False, seed: int = 0) -> Path:
    """Write a random Llama with ArmoRM's heads, or with QRM's, as the published checkpoints name and shape them."""
    tiny_decoder(folder, hidden_size=HIDDEN)
    trunk = {f"model.{name}": tensor for name, tensor in LlamaModel.from_pretrained(folder).state_dict().items()}
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=draw)

    transform = torch.eye(objectives)
    transform[min(4, objectives - 1)] -= 0.5 * torch.rand(objectives, generator=draw)
    heads = {
        "regression_layer.weight": normal(objectives * (QUANTILES if quantile else 1), HIDDEN),
        "reward_transform_matrix": transform,
        "gating.logit_scale": torch.tensor([1.3]),
    }
    for n in range(LAYERS):
        at = 3 * n if quantile else n
        heads[f"gating.layers.{at}.weight"] = normal(WIDTH, WIDTH if n else HIDDEN)
        if quantile:
            norm = f"gating.layers.{at + 2}"
            heads |= {
                f"{norm}.weight": 1 + normal(WIDTH),
                f"{norm}.bias": normal(WIDTH),
                f"{norm}.running_mean": normal(WIDTH),
                f"{norm}.running_var": 0.5 + torch.rand(WIDTH, generator=draw),
                f"{norm}.num_batches_tracked": torch.tensor(7),
            }
        else:
            heads[f"gating.layers.{at}.bias"] = normal(WIDTH)
    last = f"gating.layers.{3 * LAYERS if quantile else LAYERS}"
    heads |= {f"{last}.weight": normal(objectives, WIDTH, scale=2.0), f"{last}.bias": normal(objectives)}
    save_file(
        {k: v.contiguous() for k, v in {**trunk, **heads}.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    change_config(
        folder,
        architectures=["LlamaForRewardModelWithGating"],
        auto_map={"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"},
        id2label={"0": "LABEL_0"},
        num_objectives=objectives,
        gating_temperature=5 if quantile else 10,
        gating_hidden_dim=WIDTH,
        gating_n_hidden=LAYERS,
        **({"num_quantiles": QUANTILES} if quantile else {}),
    )
    return folder


def change_config(folder: Path, **entries: Any) -> None:
    """Change entries of ``config.json``; None takes one out."""
    path = folder / "config.json"
    value = {**json.loads(path.read_text(encoding="utf-8")), **entries}
    path.write_text(json.dumps({k: v for k, v in value.items() if v is not None}), encoding="utf-8")


def change_tensors(folder: Path, *, drop: Sequence[str] = (), **tensors: torch.Tensor) -> None:
    """Change tensors of the checkpoint (``__`` stands for a dot), or drop some."""
    path = folder / "model.safetensors"
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    held = {k: v for k, v in {**load_file(path), **named}.items() if k not in drop}
    save_file(held, path, {"format": "pt"})


def expected(folder: Path, rows: Sequence[Conversation], *, side: str | None = None) -> dict[str, np.ndarray]:
    """Return rewards [N, K], weights [N, K] and score [N] by the published formula, heads in float64.

    The prompt ends where the ids of the opening of an answer stand for the last time. ``side`` reads all rows in one
    batch padded on that side; None reads them one by one.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    trunk = LlamaModel.from_pretrained(folder).eval()
    opening = tokenizer(
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", add_special_tokens=False
    ).input_ids
    ids = [
        tokenizer.apply_chat_template([m.model_dump(include={"role", "content"}) for m in row], return_dict=False)
        for row in rows
    ]
    ends = [max(i for i in range(len(x)) if x[i : i + len(opening)] == opening) for x in ids]
    prompts, lasts = [], []
    with torch.no_grad():
        if side is None:
            for x, end in zip(ids, ends, strict=True):
                hidden = trunk(torch.tensor([x]), use_cache=False)[0][0]
                prompts.append(hidden[end])
                lasts.append(hidden[-1])
        else:
            width = max(map(len, ids))
            shift = [width - len(x) if side == "left" else 0 for x in ids]
            batch, mask = (
                torch.zeros(len(ids), width, dtype=torch.int64),
                torch.zeros(len(ids), width, dtype=torch.int64),
            )
            for n, x in enumerate(ids):
                batch[n, shift[n] : shift[n] + len(x)] = torch.tensor(x)
                mask[n, shift[n] : shift[n] + len(x)] = 1
            hidden = trunk(batch, attention_mask=mask, use_cache=False)[0]
            for n, x in enumerate(ids):
                prompts.append(hidden[n, shift[n] + ends[n]])
                lasts.append(hidden[n, shift[n] + len(x) - 1])
    return _heads(load_file(folder / "model.safetensors"), config, torch.stack(prompts), torch.stack(lasts))


def _heads(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], prompts: torch.Tensor, lasts: torch.Tensor
) -> dict[str, np.ndarray]:
    held = {name: tensor.double().numpy() for name, tensor in tensors.items() if not name.startswith("model.")}
    x, quantiles = prompts.double().numpy(), config.get("num_quantiles")
    ratings = lasts.double().numpy() @ held["regression_layer.weight"].T
    if quantiles is not None:
        ratings = ratings.reshape(len(ratings), config["num_objectives"], quantiles).mean(axis=2)
    step = 1 if quantiles is None else 3
    for n in range(config["gating_n_hidden"]):
        x = x @ held[f"gating.layers.{step * n}.weight"].T + held.get(f"gating.layers.{step * n}.bias", 0.0)
        x = np.maximum(x, 0.0)
        if quantiles is not None:
            norm = f"gating.layers.{step * n + 2}"
            x = (x - held[f"{norm}.running_mean"]) / np.sqrt(held[f"{norm}.running_var"] + 1e-5)
            x = x * held[f"{norm}.weight"] + held[f"{norm}.bias"]
    last = f"gating.layers.{step * config['gating_n_hidden']}"
    logits = (x @ held[f"{last}.weight"].T + held[f"{last}.bias"]) / config["gating_temperature"]
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights = weights / weights.sum(axis=1, keepdims=True) * held["gating.logit_scale"]
    score = (weights * (ratings @ held["reward_transform_matrix"])).sum(axis=1)
    return {"rewards": ratings, "weights": weights, "score": score}
