"""Train a small decoder until its features can be read: the part that FsfairX plays for ArmoRM, from nothing.

    phase 1   short lessons: language model + masked regression of the objectives at every token of the answer
    phase 2   the same on whole answers
    phase 3   the same + Bradley-Terry on preference pairs at the last token
              (every third step of phases 2 and 3 is a lesson again)

    loss = language * CE(next token) + regression * mean over answer tokens t of |W h_t + b - y|^2
           + preference * softplus(-(reward_chosen - reward_rejected))

Four things make it learn in minutes: lessons about one thing at a time; the regression at every token, not only at the
last one (the state after the first clauses is an easier lesson than the state after all of them); Muon for the matrices
of the layers; and lessons that come back. docs/benchmarks.md says what each gave. The two heads are thrown away; only
the trunk is kept.

Reference of Muon: Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks"; torch.optim.Muon.

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
    """How to train a small decoder.

    Attributes:
        lesson_steps: steps of phase 1.
        read_steps: number of steps of phase 2.
        prefer_steps: number of steps of phase 3.
        rehearse: in phases 2 and 3, steps between repeated lessons, so that look-ups are not forgotten (0: none).
        lessons: short answers a step of phase 1.
        rated: rated conversations a step of phases 2 and 3.
        pairs: preference pairs a step of phase 3.
        language: weight of the language loss.
        regression: weight of the regression loss.
        preference: weight of the preference loss.
        optimizer: ``muon`` steps along the orthogonalised momentum of every matrix inside the layers, and along AdamW
            elsewhere (embeddings, norms, heads); ``adamw`` along AdamW everywhere.
        matrix_rate: learning rate of Muon.
        learning_rate: of AdamW. Both fall along a cosine over the last 30% of the steps.
        weight_decay: weight decay of matrices.
        clip: largest norm of a gradient.
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
                "without language and regression only pairs teach: set lesson_steps, read_steps, rehearse to 0"
            )
        return self


@dataclass(frozen=True)
class TrainedBackbone:
    """What was spent, and the mean of each loss over the last tenth of the steps (NaN where it did not take part)."""

    steps: int
    tokens: int
    seconds: float
    language: float
    regression: float
    preference: float


class _Heads(nn.Module):
    """The throw-away heads of the training: K ratings and one reward."""

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
    """Train ``model`` in place on streams of its own prompts.

    Args:
        model: a causal language model; its trunk is the encoder's.
        encoder: tokenises, so that training reads what scoring will read.
        lessons: stream of lessons, for phase 1; each step takes the number of rows given in ``config``.
        ratings: stream of ratings, for phases 2 and 3.
        preferences: stream of preferences, for phase 3.
        objectives: K columns of the regression.
        config: settings.
        seed: random seed of the throw-away heads.
        quiet: whether to hide progress.

    Returns:
        What was spent and the last losses.

    Raises:
        FitError: a stream that ends too early, or a loss that is not finite.
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
    """Return the optimizers that share the parameters, each with its learning rate."""
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
    """Return the share of the learning rate: a linear warm-up, a plateau, and a cosine down to 5% over the last 30%."""
    decayed = max(0.0, (step / max(steps, 1) - 0.7) / 0.3)
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (0.525 + 0.475 * math.cos(math.pi * decayed))


def _losses(
    model: PreTrainedModel, heads: _Heads, rows: Sequence[Tokenized], labels_NK: Tensor, *, pairs: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return language, regression and preference loss of one step; the rated rows come first, then chosen, rejected."""
    ids_NL, mask_NL = pad_right([row.ids for row in rows], pad=0)
    # Padding stands on the right and attention looks left, so no mask is needed, which is faster.
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
