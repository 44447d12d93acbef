from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

from facetrm.backbone.encoder import Features
from facetrm.baselines.length import longer_mixture
from facetrm.baselines.weighting import best_objective, fixed_mixture, unconditional_mixture, uniform_mixture
from facetrm.core.errors import FitError
from facetrm.core.statistics import pair_accuracy, paired_difference, win_credit
from facetrm.evaluate.compare import Pairs
from facetrm.fit.bradley_terry import BradleyTerryConfig, fit_bradley_terry
from facetrm.fit.gate.unconditional import FixedWeights
from facetrm.model.mixture import Mixture
from facetrm.model.reward_model import RewardModel
from fakes import HashEncoder, chat
from preferences import HIDDEN, features_of, four_experts, random_tensor, two_rules

EXPERTS, EYE = four_experts(), torch.eye(4)
TRAIN, TEST = two_rules(600, seed=10), two_rules(600, seed=50)
BLOCKS = Pairs(TRAIN.chosen, TRAIN.rejected, TRAIN.groups, ["s"] * 600)


def accuracy(mixture: Mixture) -> float:
    return float(win_credit(mixture.margins(TEST.chosen, TEST.rejected).numpy()).mean())


def linear_pairs(n: int, seed: int) -> tuple[Features, Features, list[str]]:
    """Pairs that one direction of the response decides, whatever the prompt."""
    prompt_ND = random_tensor(n, HIDDEN, seed=seed)
    a_ND, b_ND = random_tensor(n, HIDDEN, seed=seed + 1), random_tensor(n, HIDDEN, seed=seed + 2)
    first_N = ((a_ND - b_ND) @ random_tensor(HIDDEN, seed=1) + random_tensor(n, seed=seed + 3) > 0)[:, None]
    chosen, rejected = torch.where(first_N, a_ND, b_ND), torch.where(first_N, b_ND, a_ND)
    return features_of(prompt_ND, chosen), features_of(prompt_ND, rejected), [str(i // 2) for i in range(n)]


def test_linear_head_equals_logistic_regression() -> None:
    chosen, rejected, groups = linear_pairs(300, seed=20)
    found = fit_bradley_terry(chosen, rejected, groups=groups, config=BradleyTerryConfig(ridges=(0.01,)))
    x_ND = (chosen.response_NAD[:, 0] - rejected.response_NAD[:, 0]).double().numpy()
    spread_D = np.sqrt((x_ND**2).mean(0))
    z_ND = x_ND / spread_D
    # the penalty is a mean there, a sum here: C = 1 / (N * ridge); each pair is seen from both sides
    reference = LogisticRegression(C=1 / (2 * 300 * 0.01), fit_intercept=False, tol=1e-10, max_iter=5000)
    reference.fit(np.concatenate([z_ND, -z_ND]), np.r_[np.ones(300), np.zeros(300)])
    head_D = found.mixture.experts.weight_KD[0].double().numpy() * spread_D
    np.testing.assert_allclose(head_D, reference.coef_[0], rtol=1e-3, atol=1e-4)


def test_linear_head_chooses_its_strength_on_held_out_prompts_and_generalises() -> None:
    chosen, rejected, groups = linear_pairs(600, seed=30)
    found = fit_bradley_terry(chosen, rejected, groups=groups, config=BradleyTerryConfig())
    assert found.losses[found.ridge] == min(found.losses.values()) < np.log(2)
    a, b, _ = linear_pairs(600, seed=70)
    assert win_credit(found.mixture.margins(a, b).numpy()).mean() > 0.85
    noise = fit_bradley_terry(
        features_of(chosen.prompt_ND, random_tensor(600, HIDDEN, seed=1)),
        features_of(chosen.prompt_ND, random_tensor(600, HIDDEN, seed=2)),
        groups=groups,
        config=BradleyTerryConfig(),
    )
    assert noise.ridge >= 1.0


def test_linear_head_obeys_weights() -> None:
    chosen, rejected, groups = linear_pairs(400, seed=90)
    turned = Features.concat([chosen, rejected]), Features.concat([rejected, chosen])
    weights = np.r_[np.ones(400), np.zeros(400)]
    config = BradleyTerryConfig(ridges=(0.01,))
    found = fit_bradley_terry(*turned, groups=groups * 2, config=config, weights=weights)
    plain = fit_bradley_terry(chosen, rejected, groups=groups, config=config)
    assert_close(found.mixture.experts.weight_KD, plain.mixture.experts.weight_KD, rtol=1e-3, atol=1e-4)


def test_linear_head_cannot_read_the_prompt() -> None:
    found = fit_bradley_terry(TRAIN.chosen, TRAIN.rejected, groups=TRAIN.groups, config=BradleyTerryConfig())
    assert 0.7 < accuracy(found.mixture) < 0.9


def test_uniform_is_the_mean_of_debiased_scores() -> None:
    debias_KK = torch.eye(4)
    debias_KK[3] = torch.tensor([-0.2, -0.1, 0.0, 0.0])
    output = uniform_mixture(EXPERTS, debias_KK)(TEST.chosen)
    assert_close(output.reward_N, (EXPERTS(TEST.chosen) @ debias_KK)[:, :3].mean(-1))
    assert torch.equal(output.weights_NK[:, 3], torch.zeros(600))


def test_best_objective_is_chosen_on_the_training_pairs() -> None:
    task_one = TRAIN.task_N.numpy() == 1
    name, mixture = best_objective(
        BLOCKS,
        experts=EXPERTS,
        debias_KK=EYE,
        weights=task_one.astype(float),
    )
    assert name == "test-kind"
    assert_close(mixture(TEST.chosen).reward_N, EXPERTS(TEST.chosen)[:, 1])
    other, _ = best_objective(BLOCKS, experts=EXPERTS, debias_KK=EYE, weights=1.0 - task_one)
    assert other == "test-right"


def test_best_objective_is_chosen_by_the_scores_given() -> None:
    right, wrong = torch.zeros(600, 4), torch.zeros(600, 4)
    right[:, 3] = 1.0
    name, mixture = best_objective(BLOCKS, experts=EXPERTS, debias_KK=EYE, scores=(right, wrong))
    assert name == "test-odd"
    assert_close(mixture(TEST.chosen).reward_N, EXPERTS(TEST.chosen)[:, 3])


def test_unconditional_weights_are_those_given() -> None:
    fixed = FixedWeights(np.array([0.7, 0.3, 0.0, 0.0]), 12.0)
    mixture = unconditional_mixture(EXPERTS, EYE, fixed=fixed)
    assert mixture.beta == 12.0
    assert_close(mixture(TEST.chosen).weights_NK, torch.tensor([[0.7, 0.3, 0.0, 0.0]]).expand(600, -1))


def test_longer_wins() -> None:
    mixture = longer_mixture(HIDDEN)
    margin_N = mixture.margins(TEST.chosen, TEST.rejected)
    assert torch.equal(margin_N.sign(), (TEST.chosen.length_N - TEST.rejected.length_N).sign().double())
    scorer = RewardModel(HashEncoder(HIDDEN), {"all": mixture})
    short, long = scorer.score([chat("why?", "because"), chat("why?", "because it is so and so it is")])
    assert short.reward < long.reward
    assert long.ratings["length"] == pytest.approx(8.0)


def test_a_baseline_saves_and_loads_like_a_model(tmp_path: Path) -> None:
    saved = RewardModel(HashEncoder(HIDDEN), {"all": longer_mixture(HIDDEN)})
    saved.save(tmp_path / "longer")
    loaded = RewardModel.load(tmp_path / "longer", load_encoder=lambda _: HashEncoder(HIDDEN))
    question = [chat("why?", "because it is")]
    assert loaded.score(question) == saved.score(question)


@pytest.mark.parametrize("weights", [[1.0], [0.0] * 4, [1.0, -1.0, 0.0, 0.0], [float("nan")] * 4])
def test_impossible_weights_are_named(weights: list[float]) -> None:
    with pytest.raises(FitError, match="give one number >= 0 per expert"):
        fixed_mixture(EXPERTS, EYE, weights_K=weights)


def test_too_few_prompts_for_the_folds_are_named() -> None:
    with pytest.raises(FitError, match="2 prompts for 5 folds"):
        fit_bradley_terry(TRAIN.chosen, TRAIN.rejected, groups=["a"] * 300 + ["b"] * 300, config=BradleyTerryConfig())


def test_accuracy_counts_ties_half_and_weighs_sources_alike() -> None:
    margins, groups = [1.0, -1.0, 0.0, 2.0, 1.0], ["a", "a", "b", "c", "d"]
    assert pair_accuracy(margins, groups).value == pytest.approx(3.5 / 5)
    macro = pair_accuracy(margins, groups, strata=["x", "x", "x", "x", "y"])
    assert macro.value == pytest.approx((2.5 / 4 + 1.0) / 2)
    assert macro.low <= macro.value <= macro.high


def test_a_paired_interval_is_narrower_than_two_apart() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(0.3, 1.0, 800)
    others = margins + rng.normal(0, 0.2, 800)
    groups = np.arange(800) // 2
    difference = paired_difference(margins, others, groups)
    assert difference.value == pytest.approx(win_credit(margins).mean() - win_credit(others).mean())
    alone = pair_accuracy(margins, groups)
    assert difference.high - difference.low < 0.6 * (alone.high - alone.low)
    assert paired_difference(margins, margins, groups) == paired_difference(others, others, groups)
    turned = paired_difference(others, margins, groups)
    assert turned.value == pytest.approx(-difference.value)
