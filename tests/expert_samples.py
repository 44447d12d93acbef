"""An easy task for one adapter: responses of three words, ranked by how many of them are ``yes``."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from facetrm.backbone.lora.adapters import LoraSettings, adapter_tensors
from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.data.records import Message, Preference
from facetrm.fit.experts.adapters import ExpertFit, fit_adapter
from facetrm.fit.experts.config import ExpertConfig
from fakes import chat

LORA = LoraSettings(rank=4, alpha=8.0)
TRAINER = {
    "max_steps": 40,
    "per_device_train_batch_size": 8,
    "learning_rate": 3e-3,
    "logging_steps": 1,
    "use_cpu": True,
}


def group(number: int, size: int | None = None, *, word: str = "yes") -> Preference:
    """Return ``size`` responses (2 to 4 by default) that hold ``word`` in other numbers, the most first."""
    draw = random.Random(number)
    levels = sorted(draw.sample(range(4), size or draw.choice((2, 2, 3, 4))), reverse=True)
    answers = []
    for level in levels:
        words = [word] * level + ["no"] * (3 - level)
        draw.shuffle(words)
        answers.append(Message(role="assistant", content=" ".join(words)))
    return Preference(id=str(number), prompt=chat(f"p {number}", "x")[:1], responses=tuple(answers))


GROUPS = [group(n) for n in range(80)]
TEST = [group(n) for n in range(1000, 1060)]


def turned(preference: Preference) -> Preference:
    """Return the same responses, the worst first."""
    return preference.model_copy(update={"responses": preference.responses[::-1]})


def settings(**given: Any) -> ExpertConfig:
    """Return settings for the easy task; ``trainer`` adds to those of TRAINER."""
    trainer = {**TRAINER, **given.pop("trainer", {})}
    return ExpertConfig.model_validate(
        {
            "evaluate_every": 10,
            "gain": 0.0,
            "folds": 0,
            "patience": 0,
            "select": "accuracy",
            **given,
            "trainer": trainer,
        }
    )


def opened(backbone: Path, **given: Any) -> TransformerEncoder:
    return load_encoder(BackboneConfig(path=str(backbone), device="cpu", **given))


def random_head(size: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 0.1 / size**0.5 * torch.randn(size, generator=draw)


def trained(encoder: TransformerEncoder, folder: Path, config: ExpertConfig | None = None, **given: Any) -> ExpertFit:
    """Train one adapter on GROUPS from a random head, or as ``given`` says."""
    asked = {"preferences": GROUPS, "name": "mine", "head": random_head(encoder.hidden_size), "lora": LORA, **given}
    return fit_adapter(encoder, asked.pop("preferences"), config=config or settings(), folder=folder, **asked)


def tensors_of(encoder: TransformerEncoder) -> dict[str, torch.Tensor]:
    """Return a copy of all that stands in the trunk."""
    return {name: tensor.detach().clone() for name, tensor in encoder.model.state_dict().items()}


def adapter_of(encoder: TransformerEncoder, name: str = "mine") -> dict[str, torch.Tensor]:
    """Return a copy of one adapter's tensors."""
    return {key: tensor.clone() for key, tensor in adapter_tensors(encoder.model, name=name).items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
