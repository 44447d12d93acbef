"""Prompt vectors of known tasks, for the tests of the router."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

HIDDEN = 10
NAMES = ("chat", "code", "text")


@dataclass(frozen=True)
class Prompts:
    prompt_ND: Tensor
    tasks: list[str]
    groups: list[str]


def prompts(n: int, *, seed: int, spread: float = 0.1, flips: float = 0.0, names: tuple[str, ...] = NAMES) -> Prompts:
    """Return ``n`` rows, two per prompt: a fixed centre for each task, plus noise; a share ``flips`` is mislabelled."""
    rng = np.random.default_rng(seed)
    centres = 1.5 * np.random.default_rng(7).standard_normal((len(names), HIDDEN))
    truth = rng.integers(len(names), size=n // 2)
    vectors = centres[truth] + spread * rng.standard_normal((n // 2, HIDDEN))
    wrong = rng.random(n // 2) < flips
    labels = np.where(wrong, rng.integers(len(names), size=n // 2), truth).repeat(2)
    prompt_ND = torch.from_numpy(vectors.repeat(2, axis=0)).float()
    return Prompts(prompt_ND, [names[t] for t in labels], [f"prompt {seed} {i // 2}" for i in range(n)])
