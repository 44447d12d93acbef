"""Cross-fitted scores come from experts that did not see the pair's prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from facetrm.data.objectives import Objective, label_matrix
from facetrm.data.records import Preference, Rating
from facetrm.evaluate.stored_pairs import StoredPairs
from facetrm.fit.bradley_terry import BradleyTerryConfig
from facetrm.fit.heads.ridge import RidgeConfig, fit_linear_experts
from facetrm.model.experts import LengthScale
from facetrm.recipes.armorm.config import ExpertsSection
from facetrm.recipes.armorm.fit import stream_of
from facetrm.recipes.armorm.heads import add_preference, cross_fitted, fit_heads
from fakes import HashEncoder, chat

FOLDS = 3
OBJECTIVES = [Objective(name=f"test-{name}", low=0, high=4) for name in ("right", "kind")]
SECTION = ExpertsSection(cross_fit=FOLDS, length=True, ridge=RidgeConfig(alphas=(0.1, 1.0), folds=2, bootstrap=0))
LINEAR = BradleyTerryConfig(ridges=(0.1,), folds=2)
ENCODER = HashEncoder(12)
PROMPTS = [f"question {n}" for n in range(24)]


def ratings() -> list[Rating]:
    draw = np.random.default_rng(0)
    return [
        Rating(messages=chat(asked, f"answer {i} {asked}"), ratings={o.name: int(draw.integers(5)) for o in OBJECTIVES})
        for asked in PROMPTS[:20]
        for i in range(3)
    ]


def pairs() -> StoredPairs:
    """Pairs of which some share a prompt with the ratings, and some do not."""
    asked = [p for p in PROMPTS[8:] for _ in range(2)]
    sides = [[chat(p, f"{side} {n} {p}") for n, p in enumerate(asked)] for side in ("good", "bad")]
    rows = [
        Preference(prompt=a[:-1], responses=(a[-1], b[-1]), source="s") for a, b in zip(sides[0], sides[1], strict=True)
    ]
    return StoredPairs.of(rows, stream_of(ENCODER), hidden_size=ENCODER.hidden_size)


def fitted(
    labels_NK: np.ndarray, *, weights: np.ndarray | None = None, linear: BradleyTerryConfig | None = None
) -> tuple[Tensor, Tensor]:
    rows = ratings()
    features = ENCODER.encode([r.messages for r in rows])
    return cross_fitted(
        SECTION,
        rows,
        stream_of(ENCODER),
        labels_NK,
        objectives=OBJECTIVES,
        scale=LengthScale.covering(features.length_N),
        pairs=pairs(),
        linear=linear,
        weights=weights,
    )


def fold(key: str) -> int:
    return int(key[:8], 16) % FOLDS


def test_labels_of_a_prompt_never_reach_the_scores_of_its_pairs() -> None:
    rows, groups = ratings(), np.array(pairs().groups)
    labels_NK = label_matrix(rows, OBJECTIVES)
    chosen_NK, rejected_NK = fitted(labels_NK)
    for prompt in sorted({r.prompt_key for r in rows} & set(groups))[:5]:
        moved_NK = labels_NK.copy()
        moved_NK[[r.prompt_key == prompt for r in rows]] = 0.99
        for before_NK, after_NK in zip((chosen_NK, rejected_NK), fitted(moved_NK), strict=True):
            own = groups == prompt
            assert torch.equal(before_NK[own], after_NK[own])
            elsewhere = np.array([fold(group) != fold(prompt) for group in groups])
            assert (before_NK[elsewhere][:, :2] != after_NK[elsewhere][:, :2]).all(), "others do learn from it"


def test_scores_are_those_of_heads_fitted_on_the_other_folds() -> None:
    rows, both = ratings(), pairs().whole()
    labels_NK = label_matrix(rows, OBJECTIVES)
    features = ENCODER.encode([r.messages for r in rows])
    chosen_NK, rejected_NK = fitted(labels_NK)
    for n in (0, 7, 20, 31):
        kept = [i for i, r in enumerate(rows) if fold(r.prompt_key) != fold(both.groups[n])]
        assert 0 < len(kept) < len(rows)
        fit = fit_linear_experts(
            features.select(torch.tensor(kept)),
            labels_NK[kept],
            objectives=OBJECTIVES,
            groups=[rows[i].prompt_key for i in kept],
            config=SECTION.ridge.model_copy(update={"unfit": "mean"}),
            length=LengthScale.covering(features.length_N),
        )
        at = torch.tensor([n])
        for scores_NK, side in ((chosen_NK, both.chosen), (rejected_NK, both.rejected)):
            torch.testing.assert_close(scores_NK[at], fit.experts(side.select(at)), rtol=0, atol=1e-6)


def test_the_preference_expert_does_not_see_the_pairs_it_scores() -> None:
    labels_NK, groups = label_matrix(ratings(), OBJECTIVES), np.array(pairs().groups)
    plain = np.ones(len(groups))
    before = fitted(labels_NK, weights=plain, linear=LINEAR)
    assert before[0].shape == (len(groups), 4), "two objectives, preference, length"
    own = groups == groups[4]
    heavy = np.where(own, 50.0, plain)
    after = fitted(labels_NK, weights=heavy, linear=LINEAR)
    elsewhere = np.array([fold(group) != fold(groups[4]) for group in groups])
    for one_NK, other_NK in zip(before, after, strict=True):
        assert torch.equal(one_NK[own], other_NK[own])
        assert (one_NK[elsewhere][:, 2] != other_NK[elsewhere][:, 2]).all()


def test_a_preference_expert_joins_before_the_length() -> None:
    rows, both = ratings(), pairs().whole()
    features = ENCODER.encode([r.messages for r in rows])
    scale = LengthScale.covering(features.length_N)
    labels_NK = label_matrix(rows, OBJECTIVES)
    heads = fit_heads(SECTION, rows, features, labels_NK, objectives=OBJECTIVES, scale=scale).fit.experts
    joined, ridge = add_preference(heads, both, config=LINEAR, weights=None)
    assert ridge == 0.1
    assert joined.names == ("test-right", "test-kind", "preference", "length")
    before_NK, after_NK = heads(both.both()), joined(both.both())
    assert torch.equal(after_NK[:, [0, 1, 3]], before_NK)
    own_N = after_NK[:, 2].detach()
    assert float(own_N.mean()) == pytest.approx(0.5, abs=1e-4)
    assert float(own_N.std()) == pytest.approx(0.2, abs=1e-4)
    assert (own_N[: len(both)] > own_N[len(both) :]).float().mean() > 0.8, "it knows its training pairs"
