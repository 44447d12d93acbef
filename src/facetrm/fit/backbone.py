"""Train a small decoder from scratch until its features predict the objectives, as FsfairX's do for ArmoRM.

    phase 1   short lessons: language modelling and masked regression of the objectives at every token of the answer
    phase 2   the same losses on whole answers
    phase 3   the same losses, and the Bradley-Terry loss on preference pairs at the last token
              (every third step of phases 2 and 3 repeats a lesson)

    loss = language * CE(next token) + regression * mean over answer tokens t of |W h_t + b - y|^2
           + preference * softplus(-(reward_chosen - reward_rejected))

Four things let it learn in minutes: lessons about one objective at a time; regression at every token and not only at
the last one (the rating after a few clauses is easier to learn than the rating of the whole answer); Muon for the
matrices of the layers; and repeated lessons. docs/benchmarks.md measures each of them. After training, the two heads
are discarded and only the trunk is kept.

Reference for Muon: Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks"; torch.optim.Muon.

Shapes: N conversations, L tokens, D hidden size, K objectives.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus
from transformers import PreTrainedModel

from facetrm.backbone.passes.batching import pad_right
from facetrm.backbone.text.chat import Tokenized
from facetrm.backbone.transformer import TransformerEncoder
from facetrm.core.config import Section
from facetrm.core.errors import FitError
from facetrm.core.progress import progress
from facetrm.data.objectives import Objective, label_matrix
from facetrm.data.records import Preference, Rating

R = TypeVar("R", Rating, Preference)

_WARM_UP_STEPS = 100
_TARGET_SCALE = 3.0  # unit ratings have a standard deviation near 1/3


class BackboneTraining(Section):
    """Settings of the training of a small decoder.

    Attributes:
        lesson_steps: number of steps of phase 1.
        read_steps: number of steps of phase 2.
        prefer_steps: number of steps of phase 3.
        rehearse: in phases 2 and 3, every this many steps is a lesson, so that lessons are not forgotten; 0 for none.
        lessons: number of short answers per lesson step.
        rated: number of rated conversations per step of phases 2 and 3.
        pairs: number of preference pairs per step of phase 3.
        language: weight of the language-modelling loss.
        regression: weight of the regression loss.
        preference: weight of the Bradley-Terry loss.
        optimizer: ``muon`` trains the matrices inside the layers with Muon (orthogonalised momentum) and all else
            (embeddings, norms, heads) with AdamW; ``adamw`` trains everything with AdamW.
        matrix_rate: learning rate of Muon. It falls along a cosine over the last 30% of the steps.
        learning_rate: learning rate of AdamW. It falls along a cosine over the last 30% of the steps.
        weight_decay: weight decay of matrices.
        clip: largest norm of the gradient; larger gradients are scaled down.
    """

    lesson_steps: int = Field(default=2000, ge=0)
    read_steps: int = Field(default=800, ge=0)
    prefer_steps: int = Field(default=200, ge=0)
    rehearse: int = Field(default=3, ge=0)
    lessons: int = Field(default=32, ge=1)
    rated: int = Field(default=16, ge=1)
    pairs: int = Field(default=8, ge=1)
    language: float = Field(default=0.1, ge=0.0)
    regression: float = Field(default=1.0, ge=0.0)
    preference: float = Field(default=0.5, ge=0.0)
    optimizer: Literal["muon", "adamw"] = "muon"
    matrix_rate: float = Field(default=0.006, gt=0.0)
    learning_rate: float = Field(default=3e-3, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    clip: float = Field(default=1.0, gt=0.0)

    @model_validator(mode="after")
    def _something_to_learn(self) -> BackboneTraining:
        if not self.language and not self.regression and (self.lesson_steps or self.read_steps or self.rehearse):
            raise ValueError(
                "language and regression are 0, so only pairs train: set lesson_steps, read_steps and rehearse to 0"
            )
        return self


@dataclass(frozen=True)
class TrainedBackbone:
    """The cost of a training and its last losses.

    Attributes:
        steps: number of steps.
        tokens: number of tokens trained on.
        seconds: duration in seconds.
        language: mean language-modelling loss over the last 10% of the steps, in nats per token.
        regression: mean regression loss over the last 10% of the steps.
        preference: mean Bradley-Terry loss over the last 10% of the steps, in nats; NaN without pairs.
    """

    steps: int
    tokens: int
    seconds: float
    language: float
    regression: float
    preference: float


class _Heads(nn.Module):
    """The heads that are used only in training: K ratings and one reward."""

    def __init__(self, hidden_size: int, objectives: int) -> None:
        super().__init__()
        self.rate = nn.Linear(hidden_size, objectives)
        self.reward = nn.Linear(hidden_size, 1)


def train_backbone(
    model: PreTrainedModel,
    encoder: TransformerEncoder,
    *,
    lessons: Iterator[Rating],
    ratings: Iterator[Rating],
    preferences: Iterator[Preference],
    objectives: Sequence[Objective],
    config: BackboneTraining,
    seed: int,
    quiet: bool = False,
) -> TrainedBackbone:
    """Train a small decoder in place.

    Args:
        model: the causal language model to train; its trunk is that of ``encoder``.
        encoder: the encoder that tokenises the rows, so that training reads the same tokens as scoring.
        lessons: stream of short rated answers for phase 1 and the repeated lessons.
        ratings: stream of rated conversations for phases 2 and 3.
        preferences: stream of preference pairs for phase 3.
        objectives: the K objectives of the regression.
        config: settings of the training.
        seed: random seed of the initial heads.
        quiet: whether to hide the progress bar.

    Returns:
        The cost of the training and its last losses.

    Raises:
        FitError: a stream ends too early, or the loss is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = _Heads(encoder.hidden_size, len(objectives))
    parameters = [*model.parameters(), *heads.parameters()]
    optimizers = _optimizers(model, heads, config)
    taught, asked = config.lesson_steps, config.lesson_steps + config.read_steps
    steps, start, tokens = asked + config.prefer_steps, time.monotonic(), 0
    history: list[tuple[float, float, float]] = []
    model.train()
    with progress("train backbone", steps, quiet=quiet) as meter:
        for step in range(steps):
            short = step < taught or (config.rehearse > 0 and (step - taught) % config.rehearse == config.rehearse - 1)
            kind = "lessons" if short else "ratings"
            rated = _take(lessons if short else ratings, config.lessons if short else config.rated, kind)
            pairs = _take(preferences, config.pairs, "preferences") if step >= asked and not short else []
            rows = [encoder.tokenize(r.messages, row=n) for n, r in enumerate(rated)]
            rows += [encoder.tokenize(p.chosen, row=n) for n, p in enumerate(pairs)]
            rows += [encoder.tokenize(p.rejected, row=n) for n, p in enumerate(pairs)]
            labels = torch.from_numpy(label_matrix(rated, objectives)).float()
            losses = _losses(model, heads, rows, labels, pairs=len(pairs))
            weights = (config.language, config.regression, config.preference)
            total = sum((w * loss for w, loss in zip(weights, losses, strict=True) if w > 0), torch.zeros(()))
            if not bool(torch.isfinite(total)):
                raise FitError(f"the loss is {float(total.detach())} at step {step}", fix="lower learning_rate")
            total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, config.clip)
            for optimizer, rate in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = rate * _rate(step, steps)
                optimizer.step()
                optimizer.zero_grad()
            spent = sum(len(row.ids) for row in rows)
            tokens += spent
            language, regression, preference = (float(loss.detach()) for loss in losses)
            history.append((language, regression, preference if pairs else math.nan))
            meter.advance(1, tokens=spent)
    model.eval()
    last = torch.tensor(history[-max(steps // 10, 1) :] or [(math.nan,) * 3]).nanmean(dim=0).tolist()
    return TrainedBackbone(steps, tokens, time.monotonic() - start, *last)


def _optimizers(
    model: PreTrainedModel, heads: _Heads, config: BackboneTraining
) -> list[tuple[torch.optim.Optimizer, float]]:
    """Return the optimizers and their learning rates; together they hold all parameters."""
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    inner = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    if config.optimizer == "adamw":
        inner = []
    mine = {id(p) for p in inner}
    rest = [p for p in (*model.parameters(), *heads.parameters()) if id(p) not in mine]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    found: list[tuple[torch.optim.Optimizer, float]] = [
        (torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98)), config.learning_rate)
    ]
    if inner:
        muon = torch.optim.Muon(
            inner, lr=config.matrix_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        found.append((muon, config.matrix_rate))
    return found


def _take(stream: Iterator[R], count: int, name: str) -> list[R]:
    rows = list(islice(stream, count))
    if len(rows) < count:
        raise FitError(f"the stream of {name} ended", place="backbone training", fix="give more rows or fewer steps")
    return rows


def _rate(step: int, steps: int) -> float:
    """Return the factor on the learning rate: linear warm-up, plateau, cosine to 5% over the last 30% of the steps."""
    decayed = max(0.0, (step / max(steps, 1) - 0.7) / 0.3)
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (0.525 + 0.475 * math.cos(math.pi * decayed))


def _losses(
    model: PreTrainedModel, heads: _Heads, rows: Sequence[Tokenized], labels_NK: Tensor, *, pairs: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the language, regression and preference losses of a batch of rated, then chosen, then rejected rows."""
    ids_NL, mask_NL = pad_right([row.ids for row in rows], pad=0)
    # Padding is on the right and attention is causal, so no mask is needed, which is faster.
    hidden_NLD = model.base_model(input_ids=ids_NL, use_cache=False).last_hidden_state
    rated = len(labels_NK)
    targets_NL = ids_NL[:rated, 1:].masked_fill(mask_NL[:rated, 1:] == 0, -100)
    logits_NLV = model.get_output_embeddings()(hidden_NLD[:rated, :-1])
    language = cross_entropy(logits_NLV.flatten(0, 1), targets_NL.flatten(), ignore_index=-100)

    known_NK = torch.isfinite(labels_NK)
    goal_NK = (labels_NK.nan_to_num(0.5) - 0.5) * _TARGET_SCALE
    error_NLK = (heads.rate(hidden_NLD[:rated]) - goal_NK[:, None]).square() * known_NK[:, None]
    error_NL = error_NLK.sum(-1) / known_NK.sum(-1).clamp(min=1)[:, None]
    place_L = torch.arange(ids_NL.shape[1])
    start_N = torch.tensor([row.response_start for row in rows[:rated]])
    answer_NL = (place_L[None] >= start_N[:, None]) & (mask_NL[:rated] == 1)
    regression = (error_NL * answer_NL).sum() / answer_NL.sum()

    if pairs == 0:
        return language, regression, torch.zeros(())
    last_N = torch.tensor([len(row.ids) - 1 for row in rows[rated:]])
    reward_N = heads.reward(hidden_NLD[rated + torch.arange(2 * pairs), last_N]).squeeze(-1)
    return language, regression, softplus(reward_N[pairs:] - reward_N[:pairs]).mean()
