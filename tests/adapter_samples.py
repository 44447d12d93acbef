"""Encoders with three named adapters that have learned something (at random), and what they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from facetrm.backbone.encoder import Features
from facetrm.backbone.lora.adapters import LoraSettings, adapter_tensors, add_adapter
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from fakes import chat

NAMES = ("math", "code", "style-2")
ROWS = [chat(f"question {n % 4}, put at some length", "well " * (n % 5) + f"answer {n}") for n in range(12)]
ROWS += [ROWS[3], chat("hi", "yes"), chat("one", "two", "three", "four")]


def learned(trunk: PreTrainedModel, name: str, *, seed: int, **settings: Any) -> None:
    """Put an adapter that has learned something (at random) into ``trunk``."""
    add_adapter(trunk, LoraSettings(rank=3, alpha=6.0, **settings), seed=seed, name=name)
    generator = torch.Generator().manual_seed(seed)
    for tensor in adapter_tensors(trunk, name=name).values():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def adapted(folder: Path, *, layers: str | None = None, **settings: Any) -> TransformerEncoder:
    encoder = load_encoder(BackboneConfig(path=str(folder), device="cpu", **settings))
    for seed, name in enumerate(NAMES):
        learned(encoder.model, name, seed=seed, layers=layers)
    return encoder


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def worst(one: Features, other: Features) -> float:
    return max(gap(one.prompt_ND, other.prompt_ND), gap(one.response_NAD, other.response_NAD))
