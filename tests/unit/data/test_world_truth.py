"""What is true in the world: weights, utilities, annotators; and that one weighting cannot be right for all tasks."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from facetrm.data.synthetic.annotators import error_probability
from facetrm.data.synthetic.raters import VERBOSITY
from facetrm.data.world import TASKS, World
from facetrm.data.world.latents import LATENT_NAMES
from facetrm.data.world.truth import (
    SLOTS,
    TASK_WEIGHTS,
    annotator_temperature,
    draw_levels,
    draw_pair,
    utility,
)

WEIGHTS_TL = np.array([[TASK_WEIGHTS[task][name] for name in LATENT_NAMES] for task in TASKS])


def differences(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return level shares of better minus worse [N, L], and the task of each pair [N]."""
    random, rows, tasks = Random(seed), [], []
    for i in range(count):
        better, worse = draw_pair(random, TASKS[i % len(TASKS)])
        rows.append([(better[name] - worse[name]) / SLOTS[name] for name in LATENT_NAMES])
        tasks.append(i % len(TASKS))
    return np.array(rows), np.array(tasks)


def test_weights_are_shares_and_verbosity_has_none() -> None:
    assert list(TASK_WEIGHTS) == list(TASKS)
    assert (WEIGHTS_TL >= 0).all()
    assert WEIGHTS_TL.sum(axis=1) == pytest.approx(1.0)
    assert all(VERBOSITY not in row for row in TASK_WEIGHTS.values())
    assert (WEIGHTS_TL.max(axis=0) > 0.1).all(), "every latent matters somewhere"


def test_tasks_want_different_things() -> None:
    assert len({tuple(np.argsort(-row)[:2]) for row in WEIGHTS_TL}) == len(TASKS)
    unit = WEIGHTS_TL / np.linalg.norm(WEIGHTS_TL, axis=1, keepdims=True)
    cosine = (unit @ unit.T)[~np.eye(len(TASKS), dtype=bool)]
    assert cosine.mean() < 0.6


def test_one_weighting_cannot_be_right() -> None:
    """The best unconditional weights, fitted on the true levels and order, stay far below the truth."""
    rows, _ = differences(7000, seed=1)
    fit = LogisticRegression(fit_intercept=False, C=100.0).fit(np.vstack([rows, -rows]), [1] * 7000 + [0] * 7000)
    asked, tasks = differences(7000, seed=2)
    unconditional = float(np.mean(asked @ fit.coef_[0] > 0))
    average = float(np.mean(asked @ WEIGHTS_TL.mean(axis=0) > 0))
    true = float(np.mean(np.einsum("nl,nl->n", asked, WEIGHTS_TL[tasks]) > 0))
    assert true == 1.0
    assert 0.6 < unconditional < 0.8
    assert 0.6 < average < 0.8


def test_utility_is_the_weighted_share_of_levels() -> None:
    best, none = dict(SLOTS), dict.fromkeys(SLOTS, 0)
    for task in TASKS:
        assert utility(best, task) == pytest.approx(1.0)
        assert utility(none, task) == 0.0
        for name, slots in SLOTS.items():
            step = utility(none | {name: 1}, task)
            assert step == pytest.approx(TASK_WEIGHTS[task][name] / slots)


def test_the_worlds_utility_reads_the_text() -> None:
    world = World()
    for row in world.ratings(20):
        levels = world.levels(row.messages)
        assert world.utility(row.messages) == pytest.approx(
            sum(world.weights[row.task][name] * levels[name] / SLOTS[name] for name in SLOTS)
        )


def test_levels_are_drawn_evenly_and_apart() -> None:
    random = Random(0)
    rows = np.array([list(draw_levels(random).values()) for _ in range(4000)])
    for column, slots in zip(rows.T, SLOTS.values(), strict=True):
        counts = np.bincount(column, minlength=slots + 1) / len(column)
        assert np.abs(counts - 1 / (slots + 1)).max() < 0.03
    correlation = np.corrcoef(rows.T)[~np.eye(len(SLOTS), dtype=bool)]
    assert np.abs(correlation).max() < 0.06


def test_the_better_answer_comes_first() -> None:
    random = Random(5)
    for i in range(200):
        task = TASKS[i % len(TASKS)]
        better, worse = draw_pair(random, task)
        assert utility(better, task) > utility(worse, task)


def test_annotators_err_less_where_the_gap_is_wide() -> None:
    assert error_probability(0.0, 0.2) == 0.5
    assert error_probability(0.2, 0.2) == pytest.approx(1 / (1 + np.e))
    assert error_probability(1e9, 0.2) < 1e-300
    assert error_probability(0.1, 0.0) == 0.0


def test_the_temperature_gives_the_share_of_errors() -> None:
    assert annotator_temperature(0.0) == 0.0
    rows, tasks = differences(3000, seed=3)
    gaps = np.einsum("nl,nl->n", rows, WEIGHTS_TL[tasks])
    found = [annotator_temperature(noise) for noise in (0.1, 0.25, 0.4)]
    assert found == sorted(found)
    for noise, temperature in zip((0.1, 0.25, 0.4), found, strict=True):
        assert np.mean([error_probability(g, temperature) for g in gaps]) == pytest.approx(noise, abs=0.01)
