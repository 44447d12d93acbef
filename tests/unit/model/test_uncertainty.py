"""Uncertainty of scores: its formula, saving, edits, layers, the spread over gates, lower tails, and the errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from facetrm.core.errors import ModelError
from facetrm.explain.edits import edit
from facetrm.model.gate import Gate, GateShape
from facetrm.model.mixture import Mixture
from facetrm.model.output import Score, Uncertainty
from facetrm.model.reward_model import RewardModel
from facetrm.model.uncertainty.posterior import HeadPosterior, PosteriorGroup
from facetrm.model.uncertainty.quantile_heads import QuantileHeads
from facetrm.model.uncertainty.reward_uncertainty import RewardUncertainty
from fakes import HashEncoder
from layer_models import SIZE as LAYER_SIZE
from layer_models import encoder as layer_encoder
from layer_models import mixture as layer_mixture
from preferences import random_tensor
from reward_models import HIDDEN, QUESTIONS, mixture, model, routed

NAMES = ["test-helpful", "test-honest", "test-wordy"]  # and the length, which is exact
CORRELATION_KK = torch.tensor([[1.0, 0.5, 0, 0], [0.5, 1.0, 0.25, 0], [0, 0.25, 1.0, 0], [0, 0, 0, 1.0]])


def group(columns: tuple[int, ...], *, size: int = HIDDEN, layer: int | str = "last", seed: int = 1) -> PosteriorGroup:
    root_DD = torch.tril(0.1 * random_tensor(size, size, seed=seed))
    noise_J = 0.01 * torch.arange(1, len(columns) + 1)
    return PosteriorGroup(columns, root_DD, random_tensor(size, seed=seed), noise_J, 0.02, layer)


def posterior(*groups: PosteriorGroup) -> HeadPosterior:
    return HeadPosterior(
        groups or [group((0, 2)), group((1,))],
        experts=4,
        scale_K=torch.tensor([1.1, 0.9, 1.0, 1.0]),
        spread_K=torch.tensor([1.2, 1.0, 0.8, 1.0]),
        correlation_KK=CORRELATION_KK,
    )


def other_gates(size: int = HIDDEN) -> list[Gate]:
    parts = mixture() if size == HIDDEN else layer_mixture()
    made = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        made.append(Gate(GateShape(size, 4), gated=parts.gated_sum.gate.gated_K.tolist()))
    return made


def heads() -> QuantileHeads:
    weight_KQD, bias_KQ = 0.05 * random_tensor(3, 9, HIDDEN, seed=3), torch.linspace(0.2, 0.8, 9).expand(3, 9)
    return QuantileHeads(weight_KQD, bias_KQ, torch.linspace(0.1, 0.9, 9))


def sure(uncertainty: RewardUncertainty | None) -> RewardModel:
    parts = mixture()
    known = Mixture(parts.experts, parts.aggregator, beta=3.0, debias=parts.debias, uncertainty=uncertainty)
    return RewardModel(HashEncoder(HIDDEN), {"all": known}, provenance={"data": "abc"})


def whole() -> RewardModel:
    return sure(RewardUncertainty(posterior=posterior(), gates=other_gates(), quantiles=heads()))


def load(folder: Path) -> RewardModel:
    return RewardModel.load(folder, load_encoder=lambda spec: HashEncoder(HIDDEN))


def of(score: Score) -> Uncertainty:
    assert score.uncertainty is not None
    return score.uncertainty


def test_rewards_stay_and_deviations_follow_their_formula() -> None:
    scores, plain = whole().score(QUESTIONS), model().score(QUESTIONS)
    features = model().features(QUESTIONS)
    for n, (score, other) in enumerate(zip(scores, plain, strict=True)):
        assert (score.reward, score.contributions, score.ratings) == (other.reward, other.contributions, other.ratings)
        assert other.uncertainty is None
        found, x_D = of(score), features.response_NAD[n, 0].double()
        assert list(found.ratings) == NAMES
        deviation, spread = {}, {}
        for columns in ((0, 2), (1,)):
            part = group(columns)
            leverage = float(((part.root_DD.double() @ (x_D - part.centre_D)) ** 2).sum()) + 0.02
            for j, k in enumerate(columns):
                closed = (float(part.noise_J[j]) * (1.0 + leverage)) ** 0.5
                deviation[NAMES[k]], spread[NAMES[k]] = (1.1, 0.9, 1.0)[k] * closed, (1.2, 1.0, 0.8)[k] * closed
        assert found.ratings == pytest.approx(deviation, rel=1e-4)
        of_head = torch.tensor([score.coefficients[name] * spread[name] for name in NAMES])
        variance = float(of_head @ CORRELATION_KK[:3, :3] @ of_head)
        rewards = [score.reward]
        for gate in other_gates():
            total = Mixture(mixture().experts, type(mixture().gated_sum)(gate, mixture().gated_sum.debias_KK))
            rewards.append(float(total(features).reward_N[n].detach()))
        assert found.gate == pytest.approx(float(torch.tensor(rewards).std()), rel=1e-3)
        assert found.reward == pytest.approx((variance + found.gate**2) ** 0.5, rel=1e-3)
        assert score.lower_bound(2.0) == pytest.approx(score.reward - 2.0 * found.reward)


def test_lower_tails_are_means_of_the_lowest_quantiles() -> None:
    score = whole().score(QUESTIONS[:1])[0]
    lowest_NK = heads().quantiles(model().features(QUESTIONS[:1]))[..., 0]
    assert of(score).lower_tails == pytest.approx(dict(zip(NAMES, lowest_NK[0].tolist(), strict=True)))
    alone = sure(RewardUncertainty(quantiles=heads())).score(QUESTIONS[:1])[0]
    assert set(alone.to_dict()["uncertainty"]) == {"lower_tails"}
    with pytest.raises(ModelError, match=r"experts\.uncertainty: true"):
        alone.lower_bound(1.0)


def test_saved_and_loaded_is_bit_equal_and_a_model_without_is_as_before(tmp_path: Path) -> None:
    whole().save(tmp_path / "model")
    model().save(tmp_path / "older")
    again, older = load(tmp_path / "model"), load(tmp_path / "older")
    assert again.score(QUESTIONS) == whole().score(QUESTIONS)
    assert again.hash == whole().hash != older.hash
    spec = json.loads((tmp_path / "older" / "manifest.json").read_text())["mixtures"][0]["spec"]
    assert set(spec) == {"beta", "debias", "experts", "aggregator"}
    assert older.score(QUESTIONS)[0].uncertainty is None
    assert "uncertainty" not in older.score(QUESTIONS)[0].to_dict()


def test_tampered_parts_are_named() -> None:
    tensors, spec = whole().mixture().state()
    for name in ("uncertainty.posterior.scale_K", "uncertainty.gate-1.bias_K", "uncertainty.quantiles.bias_KQ"):
        with pytest.raises(ModelError, match=name.rpartition(".")[2]):
            Mixture.from_state({key: tensor for key, tensor in tensors.items() if key != name}, spec)
    with pytest.raises(ModelError, match="part 'gate-2' is unexpected"):
        Mixture.from_state({**tensors, "uncertainty.gate-2.bias_K": torch.zeros(4)}, spec)
    bare = {key: value for key, value in spec.items() if key != "uncertainty"}
    with pytest.raises(ModelError, match=r"tensor 'uncertainty\..*' is unexpected"):
        Mixture.from_state(tensors, bare)
    changed = {**tensors, "uncertainty.posterior.scale_K": torch.tensor([float("nan"), 1, 1, 1])}
    with pytest.raises(ModelError, match="a factor is negative or not finite"):
        Mixture.from_state(changed, spec)


def test_an_edit_takes_the_deviation_of_what_it_drops(tmp_path: Path) -> None:
    full = sure(RewardUncertainty(posterior=posterior()))
    bare = edit(full, pin={"test-honest": 1.0})
    bare.save(tmp_path / "edited")
    for score, before in zip(load(tmp_path / "edited").score(QUESTIONS), full.score(QUESTIONS), strict=True):
        assert score.coefficients["test-honest"] == pytest.approx(1.0)
        assert of(score).ratings == of(before).ratings
        assert of(score).reward == pytest.approx(of(score).ratings["test-honest"] / 0.9, rel=1e-5)
    halved = edit(bare, scale={"test-honest": 0.5})
    for score, before in zip(halved.score(QUESTIONS), bare.score(QUESTIONS), strict=True):
        assert of(score).reward == pytest.approx(0.5 * (of(before).reward or 0.0), rel=1e-5)
    of_gates = edit(sure(RewardUncertainty(gates=other_gates())), pin={"test-honest": 1.0}).score(QUESTIONS)
    assert [of(score).gate for score in of_gates] == pytest.approx([0.0] * len(QUESTIONS), abs=1e-6)


def test_heads_of_other_layers_have_their_own_posterior(tmp_path: Path) -> None:
    parts = layer_mixture()
    known = posterior(group((0, 2), size=LAYER_SIZE, layer=1), group((1,), size=LAYER_SIZE, seed=5))
    uncertainty = RewardUncertainty(posterior=known, gates=other_gates(LAYER_SIZE))
    made = RewardModel(
        layer_encoder(tmp_path / "decoder"),
        {"all": Mixture(parts.experts, parts.aggregator, beta=3.0, uncertainty=uncertainty)},
    )
    scores, features = made.score(QUESTIONS), made.features(QUESTIONS)
    deviation_NK = known.deviation(features)
    inner_NK = HeadPosterior([group((0, 2), size=LAYER_SIZE)], experts=4, scale_K=known.scale_K).deviation(
        features.response(1)
    )
    assert torch.allclose(deviation_NK[:, [0, 2]], inner_NK[:, [0, 2]], rtol=1e-5)
    for n, score in enumerate(scores):
        expected = dict(zip(NAMES, deviation_NK[n, :3].tolist(), strict=True))
        assert of(score).ratings == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ModelError, match="the features hold layer"):
        known.deviation(features.only([1]))


def test_a_routed_model_tells_the_uncertainty_of_the_task_that_scores() -> None:
    two = routed()
    poems = two.mixture("poems")
    known = Mixture(
        poems.experts, poems.aggregator, beta=poems.beta, uncertainty=RewardUncertainty(posterior=posterior())
    )
    scores = two.with_mixture(known, task="poems").score(QUESTIONS)
    assert {score.task for score in scores} == {"poems", "sums"}
    assert all((score.uncertainty is None) == (score.task == "sums") for score in scores)


def test_parts_of_another_model_are_refused() -> None:
    parts = mixture()
    for wrong, said in (
        (RewardUncertainty(posterior=HeadPosterior([], experts=3)), "for 3 experts, but there are 4"),
        (RewardUncertainty(gates=[Gate(GateShape(HIDDEN + 1, 4))]), f"hidden size is {HIDDEN + 1}"),
        (RewardUncertainty(posterior=posterior(group((0,), size=5))), "hidden size is 5"),
    ):
        with pytest.raises(ModelError, match=said):
            Mixture(parts.experts, parts.aggregator, uncertainty=wrong)
    with pytest.raises(ModelError, match="it holds nothing"):
        RewardUncertainty()
    with pytest.raises(ModelError, match="do not rise"):
        QuantileHeads(torch.zeros(1, 2, 3), torch.zeros(1, 2), torch.tensor([0.6, 0.5]))


@pytest.mark.parametrize("deviations", [-1.0, float("nan"), float("inf")])
def test_an_impossible_number_of_deviations_is_refused(deviations: float) -> None:
    with pytest.raises(ModelError, match="give a number from 0"):
        whole().score(QUESTIONS[:1])[0].lower_bound(deviations)
