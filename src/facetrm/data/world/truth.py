"""The world's ground truth: the weight of each latent for each task, and how annotators err."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Final

from facetrm.data.synthetic.annotators import better_first, temperature_for
from facetrm.data.world.latents import LATENT_NAMES, LATENTS
from facetrm.data.world.words import TASKS

_WEIGHTS: Final[dict[str, dict[str, float]]] = {
    "role_play": {
        "richness": 0.34,
        "persona": 0.24,
        "empathy": 0.16,
        "fluency": 0.08,
        "coherence": 0.06,
        "instruction_following": 0.05,
        "harmlessness": 0.04,
        "knowledge": 0.02,
        "honesty": 0.01,
    },
    "chat": {
        "empathy": 0.40,
        "honesty": 0.16,
        "fluency": 0.14,
        "richness": 0.10,
        "harmlessness": 0.07,
        "persona": 0.05,
        "coherence": 0.05,
        "instruction_following": 0.03,
    },
    "subjective_qa": {
        "honesty": 0.32,
        "coherence": 0.26,
        "richness": 0.14,
        "knowledge": 0.12,
        "empathy": 0.08,
        "fluency": 0.04,
        "instruction_following": 0.02,
        "harmlessness": 0.02,
    },
    "objective_qa": {
        "correctness": 0.34,
        "knowledge": 0.32,
        "honesty": 0.15,
        "coherence": 0.09,
        "fluency": 0.04,
        "harmlessness": 0.03,
        "instruction_following": 0.03,
    },
    "text_creation": {
        "fluency": 0.36,
        "richness": 0.28,
        "instruction_following": 0.14,
        "coherence": 0.12,
        "persona": 0.04,
        "empathy": 0.04,
        "style": 0.02,
    },
    "code": {
        "style": 0.38,
        "correctness": 0.26,
        "coherence": 0.20,
        "instruction_following": 0.08,
        "knowledge": 0.04,
        "honesty": 0.03,
        "fluency": 0.01,
    },
    "safety": {
        "harmlessness": 0.44,
        "honesty": 0.16,
        "empathy": 0.13,
        "knowledge": 0.12,
        "correctness": 0.07,
        "coherence": 0.05,
        "fluency": 0.02,
        "instruction_following": 0.01,
    },
}

TASK_WEIGHTS: Final[Mapping[str, Mapping[str, float]]] = {
    task: {name: _WEIGHTS[task].get(name, 0.0) for name in LATENT_NAMES} for task in TASKS
}
"""Weights by task and latent: all are >= 0, and each task's weights sum to 1. Verbosity has no weight."""

SLOTS: Final = {latent.name: latent.slots for latent in LATENTS}


def utility(levels: Mapping[str, float], task: str) -> float:
    """Return the gold reward ``sum_l weight[task, l] * level_l / slots_l``, in [0, 1].

    Args:
        levels: level of each latent, by name.
        task: name of the task, which determines the weights.
    """
    return sum(weight * levels[name] / SLOTS[name] for name, weight in TASK_WEIGHTS[task].items())


def draw_levels(random: Random) -> dict[str, int]:
    """Draw every latent's level, uniformly and independently."""
    return {latent.name: random.randint(0, latent.slots) for latent in LATENTS}


def draw_pair(random: Random, task: str) -> tuple[dict[str, int], dict[str, int]]:
    """Draw the levels of two answers with different utilities for ``task``, the better one first."""
    return better_first(lambda: draw_levels(random), lambda levels: utility(levels, task))


def annotator_temperature(noise: float) -> float:
    """Return the temperature at which a share ``noise`` of labels is wrong, for a fixed sample of pairs."""
    if noise == 0.0:
        return 0.0
    random = Random("annotator")
    differences = []
    for i in range(7000):
        task = TASKS[i % len(TASKS)]
        better, worse = draw_pair(random, task)
        differences.append(utility(better, task) - utility(worse, task))
    return temperature_for(noise, differences)
