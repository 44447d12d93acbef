"""An easy task for fine-tuning: the answer says which word it holds, and the labels follow the word."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from facetrm.backbone.transformer import BackboneConfig, TransformerEncoder, load_encoder
from facetrm.data.objectives import Objective
from facetrm.data.records import Preference, Rating
from facetrm.fit.finetune.config import FineTuneConfig
from facetrm.fit.finetune.fit import fine_tune
from facetrm.fit.finetune.model import TrainableHeads
from facetrm.fit.finetune.rows import MixedRows
from facetrm.fit.trainer import TrainingCost
from fakes import chat

OBJECTIVES = [
    Objective(name="kind", low=0, high=1, kind="boolean"),
    Objective(name="long", low=0, high=4),
]
FILLERS = ("a", "of", "it", "so")


def rating(number: int) -> Rating:
    """Return a rated row: odd rows rate ``long`` alone, even ones ``kind``, every fourth both."""
    draw = random.Random(number)
    kind, long = draw.random() < 0.5, draw.randint(0, 4)
    words = ["yes" if kind else "no", *draw.choices(FILLERS, k=2), *["more"] * long]
    draw.shuffle(words)
    ratings = {"kind": float(kind)} if number % 2 == 0 else {"long": float(long)}
    if number % 4 == 0:
        ratings["long"] = float(long)
    return Rating(id=str(number), messages=chat(f"q {number}", " ".join(words)), ratings=ratings)


def preference(number: int) -> Preference:
    """Return a pair whose chosen answer holds ``yes`` where the rejected one holds ``no``."""
    draw = random.Random(number)
    answers = []
    for word in ("yes", "no"):
        words = [word, *draw.choices((*FILLERS, "more"), k=draw.randint(1, 5))]
        draw.shuffle(words)
        answers.append(chat("x", " ".join(words))[-1])
    return Preference(id=str(number), prompt=chat(f"p {number}", "x")[:1], responses=tuple(answers))


RATINGS, PREFERENCES = [rating(n) for n in range(160)], [preference(n) for n in range(120)]
TEST_RATINGS, TEST_PREFERENCES = [rating(n) for n in range(1000, 1080)], [preference(n) for n in range(1000, 1080)]

TRAINER = {
    "max_steps": 60,
    "per_device_train_batch_size": 8,
    "learning_rate": 3e-3,
    "logging_steps": 5,
    "save_steps": 1000,
    "use_cpu": True,
}


def settings(**given) -> FineTuneConfig:
    """Return settings for the easy task; ``trainer`` adds to those of TRAINER."""
    trainer = {**TRAINER, **given.pop("trainer", {})}
    return FineTuneConfig.model_validate({"lora": {"rank": 4}, **given, "trainer": trainer})


def opened(backbone: Path, **given) -> TransformerEncoder:
    return load_encoder(BackboneConfig(path=str(backbone), device="cpu", **given))


def rows(encoder: TransformerEncoder, config: FineTuneConfig) -> MixedRows:
    return MixedRows(encoder, ratings=RATINGS, objectives=OBJECTIVES, preferences=PREFERENCES, config=config)


def new_heads(encoder: TransformerEncoder, config: FineTuneConfig, *, seed: int = 0) -> TrainableHeads:
    objectives = len(OBJECTIVES) if config.regression else 0
    return TrainableHeads(encoder.hidden_size, objectives, preference=config.preference > 0, seed=seed)


def trained(
    backbone: Path, folder: Path, config: FineTuneConfig
) -> tuple[TransformerEncoder, TrainableHeads, TrainingCost]:
    """Train in ``folder``, and return trunk and heads as they stand in memory, and what it took."""
    torch.set_num_threads(1)
    encoder = opened(backbone)
    heads = new_heads(encoder, config)
    spent = fine_tune(encoder, heads, rows(encoder, config), config=config, folder=folder, data="easy")
    return encoder, heads, spent


def accuracy(encoder: TransformerEncoder, heads: TrainableHeads) -> float:
    """Return the share of the test pairs that the preference head orders right."""
    chosen = encoder.encode([p.chosen for p in TEST_PREFERENCES]).response_NAD[:, 0]
    rejected = encoder.encode([p.rejected for p in TEST_PREFERENCES]).response_NAD[:, 0]
    with torch.no_grad():
        return float((heads.prefer(chosen) > heads.prefer(rejected)).float().mean())


def scores(encoder: TransformerEncoder, heads: TrainableHeads) -> torch.Tensor:
    """Return ratings and preference scores of the held-out rows, [N, K + 1]."""
    features = encoder.encode([r.messages for r in TEST_RATINGS]).response_NAD[:, 0]
    with torch.no_grad():
        return torch.cat([heads.rate(features), heads.prefer(features)[:, None]], dim=1)
