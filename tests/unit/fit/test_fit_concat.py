"""The network on the experts' vectors: where it starts, what it can learn, which state is kept, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import facetrm.fit.experts.concat
import facetrm.fit.experts.concat_start
from facetrm.backbone.encoder import Features
from facetrm.core.errors import FitError
from facetrm.data.objectives import Objective
from facetrm.fit.experts.concat import fit_concat_mlp
from facetrm.fit.experts.concat_start import ConcatConfig, start_as_sum
from facetrm.model.adapter_experts import AdapterExperts
from facetrm.model.concat import ConcatMLP
from preferences import random_tensor

K, D, N = 2, 4, 1200
QUICK = ConcatConfig(hidden=16, steps=60, evaluate_every=20)
XOR = ConcatConfig(hidden=24, steps=500, learning_rate=0.02, weight_decay=0.0, batch_size=256, patience=0)


def raters(size: int = K, *, seed: int = 0) -> AdapterExperts:
    objectives = [Objective(name=f"t/{k}", low=0, high=1, kind="continuous") for k in range(size)]
    weight_KD = random_tensor(size, D, seed=seed)
    return AdapterExperts(objectives, weight_KD, torch.zeros(size), adapters=[f"a{k}" for k in range(size)])


def answers(rows: int = N, *, seed: int, size: int = K, scale: float = 1.0, shift: float = 0.0) -> Features:
    """Vectors of the experts' adapters; both sides of a pair have the same prompts, whatever the seed."""
    length_N = torch.ones(rows, dtype=torch.int64)
    vectors_NKD = random_tensor(rows, size, D, seed=seed) * scale + shift
    return Features(
        random_tensor(rows, D, seed=1), vectors_NKD, length_N, length_N + 1, torch.zeros(rows, dtype=torch.bool)
    )


def ordered(reward, experts: AdapterExperts, one: Features, other: Features) -> tuple[Features, Features]:
    """Return pairs of answers, the one with the higher ``reward`` of its ratings first."""
    gap_N = reward(experts(one)) - reward(experts(other))
    swap = (gap_N < 0)[:, None, None]
    better = torch.where(swap, other.response_NAD, one.response_NAD)
    worse = torch.where(swap, one.response_NAD, other.response_NAD)
    return replace(one, response_NAD=better), replace(other, response_NAD=worse)


def interaction(scores_NK: torch.Tensor) -> torch.Tensor:
    """High where both ratings are on the same side of 0: no weighted sum of them tells."""
    return scores_NK[:, 0] * scores_NK[:, 1]


def plain(scores_NK: torch.Tensor) -> torch.Tensor:
    return 2.0 * scores_NK[:, 0] + 0.5 * scores_NK[:, 1]


GROUPS = [str(n) for n in range(N)]


def fit(reward=plain, config: ConcatConfig = QUICK, *, scale: float = 1.0, shift: float = 0.0, **given):
    experts = raters()
    sides = ordered(
        reward, experts, answers(seed=2, scale=scale, shift=shift), answers(seed=3, scale=scale, shift=shift)
    )
    found = fit_concat_mlp(*sides, **{"experts": experts, "groups": GROUPS, "config": config, **given})
    return found, experts, sides


def margins(found, experts, sides) -> torch.Tensor:
    with torch.no_grad():
        a, b = (found.aggregator.rewards(side, experts(side)).double() for side in sides)
    return a - b


def test_ratings_start_as_the_weighted_sum_of_the_ratings():
    found, experts, sides = fit(config=ConcatConfig(hidden=11, steps=0), scale=30.0, shift=100.0)
    assert found.weights_K is not None
    assert (found.weights_K > 0).all()
    gap_NK = experts(sides[0]).double() - experts(sides[1]).double()
    wanted_N = gap_NK @ torch.from_numpy(found.weights_K)
    assert (margins(found, experts, sides) - wanted_N).abs().max() < 1e-5 * wanted_N.abs().max()
    ratio = found.weights_K[0] / found.weights_K[1]
    assert ratio == pytest.approx(4.0, rel=0.3), "those that made the labels"
    assert found.best_step == 0
    assert found.accuracy["validation"] == found.start
    share = float((wanted_N > 0).double().mean())
    joined = found.counts["train"] * found.accuracy["train"] + found.counts["validation"] * found.start
    assert joined / N == pytest.approx(share, abs=2 / N)


def test_an_expert_that_speaks_against_has_no_weight_at_the_start():
    found, _, _ = fit(lambda s: s[:, 0] - s[:, 1], ConcatConfig(hidden=8, steps=0))
    assert found.weights_K is not None
    assert found.weights_K[1] == 0.0
    assert found.weights_K[0] > 0


def test_the_network_learns_what_no_weighted_sum_can():
    from_sum, experts, sides = fit(interaction, XOR)
    assert from_sum.start < 0.6
    assert from_sum.accuracy["validation"] > 0.85
    assert float((margins(from_sum, experts, sides) > 0).double().mean()) > 0.85
    other = answers(seed=8), answers(seed=9)
    assert float((margins(from_sum, experts, ordered(interaction, experts, *other)) > 0).double().mean()) > 0.8
    published, _, _ = fit(interaction, XOR.model_copy(update={"start": "random"}))
    assert published.weights_K is None
    assert published.to_dict()["weights"] is None
    assert published.accuracy["validation"] > 0.85


def test_folding_the_scale_into_the_first_layer_leaves_rewards_alone(monkeypatch):
    usual, seen = facetrm.fit.experts.concat._folded, []

    @torch.no_grad()
    def folded(network, part):
        center_KD, spread_KD = part.center_KD, part.spread_KD
        probe_NKD = random_tensor(50, K, D, seed=7).double() * spread_KD + center_KD
        scaled_NKD = ((probe_NKD - center_KD) / spread_KD).float()
        before_N = network.rewards(replace(answers(50, seed=0), response_NAD=scaled_NKD), torch.zeros(50, K))
        seen.append((probe_NKD.float(), before_N.clone()))
        return usual(network, part)

    monkeypatch.setattr(facetrm.fit.experts.concat, "_folded", folded)
    found, _, sides = fit(interaction, XOR.model_copy(update={"steps": 60}), scale=0.01, shift=0.3)
    ((probe_NKD, before_N),) = seen
    with torch.no_grad():
        after_N = found.aggregator.rewards(replace(answers(50, seed=0), response_NAD=probe_NKD), torch.zeros(50, K))
    assert float(before_N.std()) > 0.1
    assert (after_N - before_N).abs().max() < 2e-4 * before_N.abs().max()
    inner = torch.cat([side.response_NAD for side in sides]).mean(dim=0)
    assert (found.aggregator.reference_KD - inner).abs().max() < 0.01, "the mean of the training answers"
    reference = replace(answers(1, seed=0), response_NAD=found.aggregator.reference_KD[None])
    with torch.no_grad():
        output = found.aggregator.read(reference, torch.zeros(1, K))
    assert output.contributions_NK.abs().max() < 1e-5


def test_too_few_units_for_the_sum_are_refused():
    with pytest.raises(FitError, match=r"concat\.hidden: 3 units cannot hold the sum of 2 ratings; give 4 or more"):
        fit(config=QUICK.model_copy(update={"hidden": 3}))
    found, _, _ = fit(config=QUICK.model_copy(update={"hidden": 3, "start": "random"}))
    assert found.aggregator.hidden == 3
    least, _, _ = fit(config=QUICK.model_copy(update={"hidden": 4}))
    assert least.accuracy["validation"] > 0.9
    assert fit(config=QUICK.model_copy(update={"hidden": None}))[0].aggregator.hidden == D


def test_a_sum_of_wanted_weights_can_be_written_into_any_network():
    network = ConcatMLP(torch.zeros(3, D), hidden=9)
    weight_KD, weights_K = random_tensor(3, D, seed=4), torch.tensor([0.5, 0.0, -2.0])
    start_as_sum(network, weight_KD, weights_K)
    vectors = answers(20, seed=5, size=3)
    wanted_N = torch.einsum("nkd,kd,k->n", vectors.response_NAD, weight_KD, weights_K)
    got_N = network.rewards(vectors, torch.zeros(20, 3))
    assert (got_N - wanted_N).abs().max() < 1e-5 * wanted_N.abs().max()
    # The other units have no say, and can learn one.
    assert not network.last.weight[0, 6:].any()
    assert network.first.weight[6:].any()


def test_weights_decide_whom_the_network_follows():
    experts = raters()
    sides = ordered(plain, experts, answers(seed=2), answers(seed=3))
    late = torch.arange(N) >= N // 2
    # The second half says the opposite: nothing can follow both.
    mixed = [torch.where(late[:, None, None], b.response_NAD, a.response_NAD) for a, b in (sides, sides[::-1])]
    pairs = [replace(side, response_NAD=vectors) for side, vectors in zip(sides, mixed, strict=True)]
    for first, second, said in ((1.0, 0.01, 1.0), (0.01, 1.0, 0.0)):
        weights = np.where(late.numpy(), second, first)
        config = XOR.model_copy(update={"steps": 200, "start": "random"})
        found = fit_concat_mlp(*pairs, experts=experts, groups=GROUPS, config=config, weights=weights)
        right_N = margins(found, experts, sides) > 0
        assert float(right_N.double().mean()) == pytest.approx(said, abs=0.1)
        assert found.accuracy["validation"] > 0.85, "counted with the weights"
    silent = np.where(late.numpy(), 0.0, 1.0)
    found = fit_concat_mlp(*pairs, experts=experts, groups=GROUPS, config=QUICK, weights=silent)
    assert found.accuracy["train"] > 0.95


def test_no_prompt_stands_on_both_sides():
    groups = [str(n // 4) for n in range(N)]
    found, _, _ = fit(groups=groups)
    assert found.counts["train"] + found.counts["validation"] == N
    assert found.counts["validation"] == 4 * round(0.2 * N / 4)
    with pytest.raises(FitError, match="one prompt cannot be split"):
        fit(groups=["the same"] * N)


def test_the_best_state_on_held_out_prompts_is_kept():
    wild = XOR.model_copy(
        update={"learning_rate": 1.0, "steps": 100, "evaluate_every": 5, "batch_size": 8, "select": "accuracy"}
    )
    found, experts, sides = fit(interaction, wild)
    by_step = {int(row["step"]): row["validation_accuracy"] for row in found.history}
    assert list(by_step) == list(range(0, 105, 5))
    assert by_step[0] == pytest.approx(found.start)
    best = max(by_step.values())
    assert by_step[found.best_step] == best == pytest.approx(found.accuracy["validation"])
    assert found.best_step == next(step for step, value in by_step.items() if value == best)
    assert by_step[100] < best, "else this says nothing"
    by_loss, _, _ = fit(interaction, wild.model_copy(update={"select": "loss"}))
    losses = {int(row["step"]): row["validation_loss"] for row in by_loss.history}
    assert by_loss.best_step == min(losses, key=lambda step: losses[step])
    assert by_loss.loss == pytest.approx(losses[by_loss.best_step])
    assert losses[0] == pytest.approx(np.log(2), abs=0.05) == by_loss.start_loss
    assert float((margins(found, experts, sides) > 0).double().mean()) == pytest.approx(
        (found.counts["train"] * found.accuracy["train"] + found.counts["validation"] * best) / N, abs=2 / N
    )


def test_few_prompts_are_judged_by_folds_and_the_network_learns_from_all():
    """60 pairs: one split would judge on twelve of them."""
    experts, config = raters(), XOR.model_copy(update={"steps": 150, "evaluate_every": 25, "folds": 4})
    few = ordered(interaction, experts, answers(100, seed=2), answers(100, seed=3))
    found = fit_concat_mlp(*few, experts=experts, groups=GROUPS[:100], config=config)
    assert (found.folds, found.counts, found.decision.prompts) == (4, {"train": 100, "validation": 100}, 100)
    assert found.best_step > 0
    assert found.start < 0.65 < found.accuracy["validation"]
    assert found.decision.gain > found.decision.error
    once = fit_concat_mlp(*few, experts=experts, groups=GROUPS[:100], config=config.model_copy(update={"few": 0}))
    assert (once.folds, once.counts) == (1, {"train": 80, "validation": 20})
    # The labels of a sum: training gains nothing, and every fold says so.
    draw = torch.rand(100, generator=torch.Generator().manual_seed(5)) < 0.5
    sides = [side.response_NAD for side in few]
    lot = [torch.where(draw[:, None, None], a, b) for a, b in (sides, sides[::-1])]
    pairs = [replace(side, response_NAD=vectors) for side, vectors in zip(few, lot, strict=True)]
    kept = fit_concat_mlp(*pairs, experts=experts, groups=GROUPS[:100], config=config)
    assert (kept.best_step, kept.loss) == (0, kept.start_loss)
    with torch.no_grad():
        gap_NK = experts(pairs[0]).double() - experts(pairs[1]).double()
        start_N = margins(kept, experts, pairs)
    expected = gap_NK.numpy() @ kept.weights_K
    assert np.corrcoef(start_N.numpy(), expected)[0, 1] > 0.9999, "the sum that it started from"


def test_without_standardising_the_network_reads_the_vectors_as_they_are():
    config = ConcatConfig(hidden=8, steps=0, start="random", standardise=False)
    found, _, _ = fit(config=config, scale=5.0, shift=2.0)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        fresh = facetrm.fit.experts.concat_start.ConcatMLP(torch.zeros(K, D), hidden=8)
    assert torch.allclose(found.aggregator.first.weight, fresh.first.weight)
    assert torch.allclose(found.aggregator.first.bias, fresh.first.bias)
    scaled, _, _ = fit(config=config.model_copy(update={"standardise": True}), scale=5.0, shift=2.0)
    assert not torch.allclose(scaled.aggregator.first.weight, fresh.first.weight)


def test_patience_ends_it():
    found, _, _ = fit(config=ConcatConfig(hidden=8, steps=400, evaluate_every=5, patience=2, learning_rate=1e-9))
    assert found.best_step == 0
    assert found.history[-1]["step"] <= 20


def test_a_seed_fixes_everything_and_another_changes_it():
    torch.manual_seed(1)
    one, _, _ = fit(interaction)
    torch.manual_seed(2)
    two, _, _ = fit(interaction)
    other, _, _ = fit(interaction, QUICK.model_copy(update={"seed": 1}))
    state = {name: tensor.clone() for name, tensor in one.aggregator.state_dict().items()}
    assert all(torch.equal(tensor, two.aggregator.state_dict()[name]) for name, tensor in state.items())
    assert one.to_dict() == two.to_dict()
    assert not torch.equal(state["first.weight"], other.aggregator.state_dict()["first.weight"])
    json.dumps(one.to_dict(), allow_nan=False)


def test_beta_turns_held_out_margins_into_odds():
    found, experts, sides = fit(interaction, XOR.model_copy(update={"steps": 150}))
    margin_N = margins(found, experts, sides)
    held = facetrm.fit.experts.concat.hold_out(np.unique(GROUPS, return_inverse=True)[1], 0.2, seed=0)
    held_N = margin_N[torch.from_numpy(held)]
    assert len(held_N) == found.counts["validation"]

    def loss(beta: float) -> float:
        return float(torch.nn.functional.softplus(-beta * held_N).mean())

    assert loss(found.beta) < min(loss(0.9 * found.beta), loss(1.1 * found.beta))


def test_vectors_that_are_not_finite_are_refused():
    experts = raters()
    sides = ordered(plain, experts, answers(seed=2), answers(seed=3))
    vectors = sides[0].response_NAD.clone()
    vectors[3, 1, 2] = float("inf")
    with pytest.raises(FitError, match="not finite"):
        fit_concat_mlp(replace(sides[0], response_NAD=vectors), sides[1], experts=experts, groups=GROUPS, config=QUICK)


def test_a_dimension_that_never_moves_does_no_harm():
    experts = raters()
    sides = []
    for side in ordered(plain, experts, answers(seed=2), answers(seed=3)):
        vectors = side.response_NAD.clone()
        vectors[:, 0, 1] = 5.0
        sides.append(replace(side, response_NAD=vectors))
    found = fit_concat_mlp(*sides, experts=experts, groups=GROUPS, config=QUICK)
    assert torch.isfinite(margins(found, experts, sides)).all()
    assert found.accuracy["validation"] > 0.7
