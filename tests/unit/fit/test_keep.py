"""Which state is kept: a paired rule that takes real gains, allows for many looks, and keeps the start otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from facetrm.core.errors import FitError
from facetrm.fit.experts.keep import KeepDecision, decide_kept


def losses(draw: np.random.Generator, *, looks: int, prompts: int, gains: np.ndarray, own: float) -> np.ndarray:
    """Return losses of prompts that are hard for every state alike, with noise of each state's ``own``."""
    hard_P = draw.normal(0.7, 0.5, prompts)
    moved_SP = np.cumsum(draw.normal(0.0, own, (looks, prompts)), axis=0) / math.sqrt(looks)
    moved_SP[0] = 0.0
    return hard_P + moved_SP - gains[:, None]


def kept_share(*, gain: float, errors: float, prompts: int = 60, runs: int = 300) -> float:
    """Return how often a training is kept whose later looks truly gain ``gain`` nats per prompt."""
    draw, looks = np.random.default_rng(0), 12
    gains = np.linspace(0.0, gain, looks)
    kept = [
        decide_kept(losses(draw, looks=looks, prompts=prompts, gains=gains, own=0.3), errors=errors).look > 0
        for _ in range(runs)
    ]
    return float(np.mean(kept))


def test_chance_is_seldom_kept_however_many_looks_there_are():
    """The best of twelve noisy means beats the start nearly always; on prompts that did not choose it, it does not."""
    draw, gains = np.random.default_rng(1), np.zeros(12)
    naive = [losses(draw, looks=12, prompts=60, gains=gains, own=0.3).mean(axis=1).argmin() > 0 for _ in range(300)]
    assert np.mean(naive) > 0.8
    assert kept_share(gain=0.0, errors=1.0) < 0.2
    assert kept_share(gain=0.0, errors=2.0) < 0.08


def test_a_gain_that_an_unpaired_error_would_throw_away_is_kept():
    """0.1 nats per prompt, where prompts differ by 0.5: unpaired 1.1 standard errors of a difference, paired 2.6."""
    assert kept_share(gain=0.1, errors=1.0) > 0.85
    assert kept_share(gain=0.2, errors=2.0) > 0.9
    decision = decide_kept(
        losses(np.random.default_rng(2), looks=12, prompts=60, gains=np.linspace(0, 0.1, 12), own=0.3), errors=1.0
    )
    assert decision.error < 0.06 < 0.5 * math.sqrt(2 / 60)


def test_the_error_is_that_of_the_paired_difference():
    start = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    saved = np.array([0.5, 0.1, 0.4, 0.2, 0.3, 0.3])
    decision = decide_kept(np.stack([start, start - saved]), errors=1.0)
    assert decision == KeepDecision(
        look=1,
        best=1,
        gain=pytest.approx(saved.mean()),
        error=pytest.approx(saved.std(ddof=1) / math.sqrt(6)),
        looks=1,
        prompts=6,
    )
    assert decision.to_dict()["gain_error"] == decision.error


def test_each_fold_is_judged_at_the_look_that_the_others_chose():
    """Look 1 is best for the first fold and look 2 for the second: neither is judged where it was chosen."""
    start = np.ones(4)
    values = np.stack([start, [0.0, 0.0, 1.5, 1.5], [1.5, 1.5, 0.0, 0.2]])
    decision = decide_kept(values, errors=1.0, folds_P=[0, 0, 1, 1])
    assert decision.best == 1
    assert decision.gain == pytest.approx(-0.5)
    assert decision.look == 0


def test_weights_count():
    values = np.array([[1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 2.0, 2.0]])
    equal = decide_kept(values, errors=1.0, folds_P=[0, 1, 0, 1])
    assert equal.look == 0
    heavy = decide_kept(values, errors=1.0, folds_P=[0, 1, 0, 1], weights_P=np.array([9.0, 9.0, 0.01, 0.01]))
    assert heavy.look == 1
    assert heavy.gain == pytest.approx(0.4978, abs=1e-3)
    silent = decide_kept(values, errors=1.0, folds_P=[0, 1, 0, 1], weights_P=np.array([1.0, 1.0, 0.0, 0.0]))
    assert silent.gain == pytest.approx(0.5)


def test_a_gain_too_small_to_matter_is_not_taken():
    start = np.full(50, 0.01)
    values = np.stack([start, start - 0.0005])
    assert decide_kept(values, errors=1.0).look == 1
    assert decide_kept(values, errors=1.0, least=0.002).look == 0
    assert decide_kept(values, errors=0.0, least=0.002).look == 1, "0 keeps any gain"


def test_equal_looks_and_no_gain_keep_the_start():
    values = np.full((4, 5), 0.7)
    assert decide_kept(values, errors=0.0).look == 0
    values[2:] -= 0.1
    assert decide_kept(values, errors=1.0).look == 2, "of equal ones the earlier"


def test_one_prompt_proves_nothing():
    values = np.array([[0.7], [0.1]])
    decision = decide_kept(values, errors=1.0)
    assert (decision.look, decision.best, decision.error) == (0, 1, math.inf)
    assert decision.to_dict()["gain_error"] is None
    assert decide_kept(values, errors=0.0).look == 1


@pytest.mark.parametrize("values", [np.empty((0, 3)), np.empty((2, 0)), np.array([[0.1, math.nan]])])
def test_what_cannot_be_judged_is_refused(values):
    with pytest.raises(FitError, match=r"held-out prompts: .*lower the learning rate"):
        decide_kept(values, errors=1.0)
